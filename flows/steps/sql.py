"""Names and texts inside SQL: quoted, so that a column or a path can be called anything."""

from __future__ import annotations

from collections.abc import Iterable

# A column of rows that are joined as of an earlier time: when their values are used, and may have expired.
USED_AT = "__used_at"


def identifier(name: str) -> str:
    """Return a name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def identifiers(names: Iterable[str]) -> str:
    """Return names as a comma-separated list of quoted identifiers."""
    return ", ".join(map(identifier, names))


def literal(text: object) -> str:
    """Return a text, or a path, as a quoted SQL literal."""
    return "'" + str(text).replace("'", "''") + "'"


def without_nan(name: str) -> str:
    """Return SQL for a column of floating-point numbers with null for NaN."""
    column = identifier(name)
    return f"CASE WHEN isnan({column}) THEN NULL ELSE {column} END"
