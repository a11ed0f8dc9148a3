"""A look at a table that nobody has described: its columns in a few figures, and rows to look at more closely."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any, Literal

from flows.errors import UsageError
from flows.settings import Settings
from flows.spec import Frozen
from flows.steps.event_rows import NUMBERED_BY, ZONED
from flows.steps.reading import read_unknown, zero_padded
from flows.steps.sources import SourceFile, opened
from flows.steps.sql import identifier
from flows.steps.statistics import is_number

if TYPE_CHECKING:
    import pandas as pd
    from duckdb import DuckDBPyConnection

TABLE = "looked_at"
SAMPLE = 200_000  # rows of a larger table that are looked at value by value
FEW = 200  # values that a category may have
NUMBERS = 0.9  # share of texts that read as numbers from which the others are slips
LONGEST_NAME = 80
MOST_COLUMNS = 500

Form = Literal["whole", "number", "flag", "text", "time", "other"]


class Column(Frozen):
    """A column in a few figures; ``values`` are its values, the most frequent first, if they are few.

    ``nearly`` says of texts of which most are numbers what keeps the others from it.
    """

    name: str
    kind: str
    form: Form
    nulls: int
    distinct: int
    low: Any = None
    high: Any = None
    ascending: bool = False
    values: tuple[Any, ...] = ()
    nearly: str = ""


class Looked(Frozen):
    """A table: its rows, its columns in order, and where it came from; ``padded`` were digits behind zeros and are numbers.

    ``files`` are the names of its files, and the row at which each begins.
    """

    rows: int
    columns: tuple[Column, ...]
    origin: str
    padded: tuple[str, ...] = ()
    files: tuple[tuple[str, int], ...] = ()

    def named(self, name: str) -> str:
        """Return a column's name as the table has it, where spaces around it were not typed; else the name as told."""
        names = [column.name for column in self.columns]
        alike = [one for one in names if one.strip() == name.strip()]
        return alike[0] if name not in names and len(alike) == 1 else name

    def column(self, name: str) -> Column:
        """Return a column by its name; raises UsageError if there is none."""
        own = self.named(name)
        for column in self.columns:
            if column.name == own:
                return column
        known = ", ".join(column.name for column in self.columns)
        raise UsageError(f"the table has no column {name!r}; it has {known[:300]}")


def load(connection: DuckDBPyConnection, source: str, settings: Settings) -> Looked:
    """Load a table of one or more files into ``looked_at``, with its row's number, and describe it.

    Raises UsageError for a source that cannot be read, whose files differ, or whose columns cannot be told apart.
    """
    with opened(source, settings) as files:
        columns, padded, starts = _gather(connection, files)
    _check_names(list(columns))
    rows = _rows(connection)
    if not rows:
        raise UsageError(f"{source} holds no rows; name a file that does")
    found = tuple(_column(connection, name, kind) for name, kind in columns.items())
    return Looked(rows=rows, columns=found, origin=source, padded=padded, files=starts)


def _rows(connection: DuckDBPyConnection) -> int:
    return int((connection.execute(f"SELECT count(*) FROM {TABLE}").fetchone() or (0,))[0])


def _gather(
    connection: DuckDBPyConnection, files: list[SourceFile]
) -> tuple[dict[str, str], tuple[str, ...], tuple[tuple[str, int], ...]]:
    """Load all files into one table, in their order; return its columns, which of them lost zeros, and where files begin."""
    columns = read_unknown(connection, TABLE, files[0])
    padded = zero_padded(connection, files[0], columns)
    starts = [(files[0].name, 0)]
    for file in files[1:]:
        starts.append((file.name, _rows(connection)))
        other = read_unknown(connection, "one_more", file)
        padded += zero_padded(connection, file, other)
        if list(other) != list(columns):
            raise UsageError(
                f"{file.origin} has other columns than {files[0].origin}: it {_difference(list(columns), list(other))}; "
                "name files of one table"
            )
        wider = {
            name: kind if kind == other[name] else _wider(connection, name, kind, other[name])
            for name, kind in columns.items()
        }
        for name, kind in wider.items():
            if kind != columns[name]:
                connection.execute(f"ALTER TABLE {TABLE} ALTER COLUMN {identifier(name)} TYPE {kind}")
        connection.execute(f"INSERT INTO {TABLE} SELECT * FROM one_more")
        columns = wider
    return columns, tuple(dict.fromkeys(padded)), tuple(starts)


def _wider(connection: DuckDBPyConnection, name: str, kind: str, other: str) -> str:
    """Return the type of a column whose files have different ones; a file in which it is empty does not count."""
    for table, rest in ((TABLE, other), ("one_more", kind)):
        if (connection.execute(f"SELECT count({identifier(name)}) FROM {table}").fetchone() or (0,)) == (0,):
            return rest
    forms = {form_of(kind), form_of(other)}
    if forms == {"whole"}:
        both = f"SELECT NULL::{kind} AS n UNION ALL SELECT NULL::{other}"
        return str((connection.execute(f"SELECT typeof(n) FROM ({both})").fetchone() or ("HUGEINT",))[0])
    if forms <= {"whole", "number"}:
        return "DOUBLE"
    if forms == {"time"} and ZONED not in (kind, other):
        return "TIMESTAMP"
    return "VARCHAR"


def _difference(columns: list[str], others: list[str]) -> str:
    """Return how the columns of another file differ."""
    lost, added = ([name for name in some if name not in rest] for some, rest in ((columns, others), (others, columns)))
    parts = [f"{verb} {', '.join(map(repr, names[:5]))}" for verb, names in (("lacks", lost), ("adds", added)) if names]
    return " and ".join(parts) or "has them in another order"


def _check_names(names: list[str]) -> None:
    """Raise UsageError for names that cannot be told apart, or that no one could type."""
    if len(names) > MOST_COLUMNS:
        raise UsageError(f"the table has {len(names)} columns; up to {MOST_COLUMNS} are taken: leave out the others")
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() in NUMBERED_BY:
            raise UsageError(f"a column is named {name!r}, by which rows are numbered here; rename it")
        if (
            not name.strip()
            or len(name) > LONGEST_NAME
            or any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name)
        ):
            shown = ascii(name[:LONGEST_NAME])
            raise UsageError(
                f"a column is named {shown}; rename it: 1 to {LONGEST_NAME} characters, no line breaks or control signs"
            )
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise UsageError(
                f"columns {other!r} and {name!r} differ in capitals alone; rename one: SQL takes them for one"
            )


def form_of(kind: str) -> Form:
    """Return what a DuckDB type holds."""
    if kind == "BOOLEAN":
        return "flag"
    if is_number(kind):
        return "number" if kind in ("DOUBLE", "FLOAT") or kind.startswith("DECIMAL") else "whole"
    if kind == "DATE" or kind.startswith("TIMESTAMP"):
        return "time"
    return "text" if kind == "VARCHAR" else "other"


def _column(connection: DuckDBPyConnection, name: str, kind: str) -> Column:
    form, column = form_of(kind), identifier(name)
    if form == "other":
        return Column(name=name, kind=kind, form=form, nulls=0, distinct=0)
    missing = f"({column} IS NULL OR isnan({column}))" if kind in ("DOUBLE", "FLOAT") else f"{column} IS NULL"
    wanted = f"count(*) FILTER ({missing}), count(DISTINCT {column}) FILTER (NOT {missing})"
    finite = f"NOT {missing} AND isfinite({column})" if kind in ("DOUBLE", "FLOAT") else f"NOT {missing}"
    nulls, distinct, low, high = connection.execute(
        f"SELECT {wanted}, min({column}) FILTER ({finite}), max({column}) FILTER ({finite}) FROM {TABLE}"
    ).fetchone() or (0, 0, None, None)
    values: tuple[Any, ...] = ()
    if 0 < distinct <= FEW:
        values = tuple(
            row[0]
            for row in connection.execute(
                f"SELECT {column} FROM {TABLE} WHERE NOT {missing} GROUP BY {column} ORDER BY count(*) DESC, {column}"
            ).fetchall()
        )
    ascending = False
    if form in ("whole", "time"):
        step = f"SELECT {column} >= lag({column}) OVER (ORDER BY rowid) AS up FROM {TABLE}"
        ascending = bool(
            (connection.execute(f"SELECT coalesce(bool_and(up), false) FROM ({step})").fetchone() or (0,))[0]
        )
    return Column(
        name=name, kind=kind, form=form, nulls=nulls, distinct=distinct, low=low, high=high, ascending=ascending,
        values=values, nearly=_nearly(connection, column) if form == "text" and distinct > FEW else "",
    )  # fmt: skip


def _nearly(connection: DuckDBPyConnection, column: str) -> str:
    """Return what keeps a column of texts from being one of numbers, nothing if they are texts."""
    comma = f"replace({column}, ',', '.')"
    point, either = (f"TRY_CAST({text} AS DOUBLE) IS NOT NULL" for text in (column, comma))
    share, commas, odd = connection.execute(
        f"SELECT avg(({either})::INT), count(*) FILTER ({either} AND NOT {point}), mode({column}) FILTER (NOT {either}) "
        f"FROM {TABLE} WHERE {column} IS NOT NULL"
    ).fetchone() or (0.0, 0, None)
    if (share or 0.0) < NUMBERS:
        return ""
    parts = [f"has numbers with a decimal comma, write a point: {commas:,} rows"] if commas else []
    parts += [f"has numbers, but for {odd[:40]!r} and the like, leave them empty"] if odd is not None else []
    return "; ".join(parts)


def sample(connection: DuckDBPyConnection, names: list[str], rows: int) -> pd.DataFrame:
    """Return at most ``SAMPLE`` rows of some columns, every n-th, in the order of the file."""
    step = -(-rows // SAMPLE)
    chosen = ", ".join(map(identifier, names))
    frame: pd.DataFrame = connection.execute(
        f"SELECT {chosen} FROM {TABLE} WHERE rowid % {step} = 0 ORDER BY rowid"
    ).df()
    frame.columns = names
    return frame


def plain(name: str) -> str:
    """Return a name as Python, SQL and JSON take it without quotes: lower-case ASCII letters, digits and underscores."""
    text = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    text = re.sub(r"[^a-z0-9]+", "_", text).strip("_")
    return text if text and text[0].isalpha() else f"column_{text}".rstrip("_")
