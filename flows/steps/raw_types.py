"""The types that the columns of a raw file have or may take by their values, and the values that keep them from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flows.steps.contract import fits
from flows.steps.event_rows import FLOATS, ROW, ZONED
from flows.steps.sql import identifier, identifiers

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

PARQUET = "read_parquet($path)"
TEXT = "csv_text"  # table: the newest CSV file as it came
GUESSES = ("BOOLEAN", ZONED, "TIMESTAMP", "DOUBLE", "BIGINT")  # the last that fits counts
TIMES = ("TIMESTAMP", ZONED)
WHOLE = (
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
)  # fmt: skip
# After its date, a time that ends like this is an instant, no local time; DuckDB would pass over what it ends with.
OFFSET = r"[0-9](\s*(?i:z|utc)|[+-][0-9]{2}(:?[0-9]{2}){0,2})\s*$"


def types_to_try(wanted: str) -> tuple[str, ...]:
    """Return the types that a column of the contract may have, its own last: an empty column has that.

    Times with a zone and without are told apart by their types.
    """
    others = (kind for kind in TIMES if wanted in TIMES and kind != wanted)
    return (*others, wanted)


def reads_as(name: str, wanted: str, guessed: bool = False) -> str:
    """Return SQL that is true where a text reads as a value of the wanted type, or is missing.

    A type that is ``guessed`` is not taken for what may be something else: t and f, or yes and no, are texts.
    """
    column = identifier(name)
    if wanted in WHOLE:
        # 74 and 74.0 are whole numbers; a cast alone would round 74.6
        test = f"coalesce(TRY_CAST({column} AS {wanted}) = TRY_CAST({column} AS DOUBLE), false)"
    elif wanted in TIMES:
        local = local_time(column)
        # A cast alone would take a time without a zone for one of UTC.
        test = local if wanted == "TIMESTAMP" else f"(TRY_CAST({column} AS {ZONED}) IS NOT NULL AND NOT {local})"
    elif wanted == "BOOLEAN" and guessed:
        test = f"lower({column}) IN ('true', 'false')"
    else:
        test = f"TRY_CAST({column} AS {wanted}) IS NOT NULL"
    return f"({column} IS NULL OR {test})"


def local_time(text: str) -> str:
    """Return SQL that is true where a text is a time that names no zone."""
    return f"(TRY_CAST({text} AS TIMESTAMP) IS NOT NULL AND NOT regexp_matches(substr({text}, 11), '{OFFSET}'))"


def whole_again(
    connection: DuckDBPyConnection, known: Mapping[str, str], columns: Mapping[str, str], parameters: dict[str, str]
) -> dict[str, str]:
    """Return the columns of a parquet file that are floats, and whole numbers by the contract and by all their values.

    Each has the contract's type beside it, as which NaN is a missing value.
    """
    floats = {name: kind for name, kind in known.items() if kind in WHOLE and columns.get(name) in FLOATS}
    if not floats:
        return {}
    tests = ", ".join(f"count(*) FILTER (NOT {_is_whole(name, kind)})" for name, kind in floats.items())
    bad = connection.execute(f"SELECT {tests} FROM {PARQUET}", parameters).fetchone() or ()
    return {name: kind for (name, kind), failed in zip(floats.items(), bad, strict=True) if not failed}


def without_values(
    connection: DuckDBPyConnection, known: Mapping[str, str], columns: Mapping[str, str], parameters: dict[str, str]
) -> dict[str, str]:
    """Return the columns of a parquet file without any value whose type is not the contract's; each with the contract's."""
    others = {name: kind for name, kind in known.items() if not fits(columns.get(name, kind), kind)}
    if not others:
        return {}
    counts = ", ".join(f"count({identifier(name)})" for name in others)
    found = connection.execute(f"SELECT {counts} FROM {PARQUET}", parameters).fetchone() or ()
    return {name: kind for (name, kind), values in zip(others.items(), found, strict=True) if not values}


def _is_whole(name: str, wanted: str) -> str:
    """Return SQL that is true where a float is a whole number of the wanted type, or is missing.

    Beyond 2^53, of FLOAT 2^24, floats pass over whole numbers: what the number was is not known.
    """
    column = identifier(name)
    exact = f"abs({column}) <= CASE typeof({column}) WHEN 'FLOAT' THEN {2**24} ELSE {2**53} END"
    return f"({column} IS NULL OR isnan({column}) OR ({exact} AND coalesce(TRY_CAST({column} AS {wanted}) = {column}, false)))"


def first_misfits(
    connection: DuckDBPyConnection,
    known: Mapping[str, str],
    reader: str,
    parameters: dict[str, str],
    columns: Mapping[str, str],
) -> dict[str, str]:
    """Return of each column that is not of the contract's type by its values the first that is not, and its row.

    These are those of a CSV file, and floats where whole numbers are wanted.
    """
    other = {
        name: kind
        for name, kind in known.items()
        if columns.get(name, kind) != kind and (reader == TEXT or (kind in WHOLE and columns[name] in FLOATS))
    }
    if not other:
        return {}
    good = reads_as if reader == TEXT else _is_whole
    firsts = ", ".join(
        f"{one} FILTER (NOT {good(name, kind)})"
        for name, kind in other.items()
        for one in (f"arg_min(CAST({identifier(name)} AS VARCHAR), {ROW})", f"min({ROW})")
    )
    rows = f"(SELECT {identifiers(other)}, row_number() OVER () AS {ROW} FROM {reader})"
    found = connection.execute(f"SELECT {firsts} FROM {rows}", parameters).fetchone() or ()
    pairs = zip(other, found[::2], found[1::2], strict=True)
    return {name: f"{repr(value[:40]) if reader == TEXT else value} in row {row}" for name, value, row in pairs}
