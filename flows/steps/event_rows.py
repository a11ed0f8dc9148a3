"""Event rows: the raw rows with what a model's ``rows`` function adds, and their times in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from flows.errors import ContractError
from flows.lookup import resolve_callable
from flows.spec import ModelSpec
from flows.steps.periods import utc_sql
from flows.steps.sql import identifier, identifiers, literal, without_nan

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from flows.steps.event_layout import Layout

RAW = "raw"
EVENTS = "events"
BASE = "event_base"  # the table beneath, where events is a view
GONE = "event_gone"  # the raw rows that were deleted from it
ROW = "evergreen_row"  # number of the row in the raw file, from 0
DAY = "evergreen_day"  # local day of the row's event time
LABEL_TIME = "label_time"
ADDED = ("event_timestamp", "label_timestamp", "label")
NUMBERED_BY = ("rowid", "file_row_number", ROW, DAY)  # in lower case; a column of a file would hide them
ZONED = "TIMESTAMP WITH TIME ZONE"
FLOATS = ("DOUBLE", "FLOAT")


@lru_cache(maxsize=64)
def _compiled(path: str, columns: tuple[tuple[str, str], ...]) -> tuple[str, dict[str, str]]:
    """Return the model's event rows as SQL over ``raw``, and their columns, name -> DuckDB type.

    Raises ContractError if the function fails, or drops a column.
    """
    import duckdb
    import ibis

    function = resolve_callable(path)
    nothing = ", ".join(f"CAST(NULL AS {kind}) AS {identifier(name)}" for name, kind in (*columns, (ROW, "BIGINT")))
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE {RAW} AS SELECT {nothing} LIMIT 0")
        schema = ibis.Schema.from_pyarrow(connection.execute(f"SELECT * FROM {RAW}").to_arrow_table().schema)
        try:
            sql = str(ibis.to_sql(function(ibis.table(schema, name=RAW)), dialect="duckdb"))
            found = {str(row[0]): str(row[1]) for row in connection.execute(f"DESCRIBE {sql}").fetchall()}
        except Exception as error:  # the researcher's code may raise anything
            first = (str(error).splitlines() or [""])[0]
            raise ContractError(
                f"{path} fails on a table of the contract ({type(error).__name__}: {first}); correct it"
            ) from error
    lost = [name for name, _ in (*columns, (ROW, "BIGINT")) if name not in found]
    if lost:
        raise ContractError(f"{path} drops {', '.join(lost)}; let it add columns with mutate and keep all others")
    return sql, found


def compiled(spec: ModelSpec) -> tuple[str, dict[str, str]]:
    """Return a model's event rows as SQL over a table ``raw``, and their columns, name -> DuckDB type.

    Raises ContractError if the function fails, drops a column, or does not give event time, label, key and ``label_time``,
    or if a raw column has a name by which rows are numbered here.
    """
    taken = [name for name in spec.source.columns if name.lower() in NUMBERED_BY]
    if taken:
        raise ContractError(
            f"source.columns names {taken[0]!r}, by which rows are numbered here; rename it in the file"
        )
    sql, columns = _compiled(spec.rows, tuple(spec.source.columns.items()))
    places = {
        spec.source.event_time: "source.event_time",
        spec.label.name: "label.name",
        LABEL_TIME: "the label's time",
    }
    for name, place in {**dict.fromkeys(spec.key, "key"), **places}.items():
        if name not in columns:
            raise ContractError(f"{spec.rows} must return a column {name!r} ({place}); it returns {', '.join(columns)}")
    for name in (spec.source.event_time, LABEL_TIME):
        if not is_time(columns[name]):
            raise ContractError(f"{spec.rows} returns {name!r} as {columns[name]}; it must be a time")
    return sql, columns


def is_time(kind: str) -> bool:
    """Say whether a DuckDB type tells a moment."""
    return kind == "DATE" or kind.startswith("TIMESTAMP")


def dated_sql(spec: ModelSpec, table: str, columns: Mapping[str, str]) -> str:
    """Return the query of a raw table's rows, each with its local day (null if not known) as ``evergreen_day``.

    ``columns`` are those of the table. The event time may be one of them, or one that the model's rows add.
    """
    name = spec.source.event_time
    query, found = _rows_of(spec, columns) if name not in spec.source.columns else (f"SELECT * FROM {RAW}", columns)
    known = name in found and is_time(found[name])
    day = f"CAST({local_sql(spec, name, found[name])} AS DATE)" if known else "CAST(NULL AS DATE)"
    return f"""WITH {RAW} AS (SELECT *, CAST(NULL AS BIGINT) AS {ROW} FROM {table})
        SELECT {identifiers(columns)}, {day} AS {DAY} FROM ({query})"""


def _rows_of(spec: ModelSpec, columns: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
    """Return the event rows of a raw table as SQL over ``raw``, and their columns, whatever else it has.

    Where the model cannot make them of a table that does not keep the contract, they are the raw rows: judging says so.
    """
    if columns == spec.source.columns:
        return compiled(spec)
    try:
        return _compiled(spec.rows, tuple(columns.items()))
    except ContractError:
        return f"SELECT * FROM {RAW}", columns


def local_sql(spec: ModelSpec, name: str, kind: str) -> str:
    """Return SQL for a time column of any type as local time without zone."""
    if kind == ZONED:
        return f"timezone('{spec.source.time_zone}', {identifier(name)})"
    return f"CAST({identifier(name)} AS TIMESTAMP)"


def numbered_sql(uri: str, table: str | None = None) -> str:
    """Return the query of the raw rows of a landed file with their numbers, or of a table with the same rows."""
    if table:
        return f"SELECT *, rowid AS {ROW} FROM {table}"
    return f"SELECT * RENAME (file_row_number AS {ROW}) FROM read_parquet({literal(uri)}, file_row_number = true)"


class Events(NamedTuple):
    """What the table ``events`` was made of: the number of its rows, and the query of the raw ones with their numbers.

    The query gives those that were deleted from ``events`` as well.
    """

    rows: int
    raw: str


def create_events(connection: DuckDBPyConnection, spec: ModelSpec, uri: str, loaded: str | None = None) -> Events:
    """Create ``events`` from the raw rows of a landed file, whose columns keep the contract.

    Columns: the row's number, from 0 on, and those of the model's rows. NaN counts as missing and becomes null. If there
    is a table ``loaded`` of the same rows in their order, it is read instead of the file. If each event row is computed from
    its raw row alone, ``events`` is a view over the raw rows and what is computed of them; ``loaded`` is taken for that.
    """
    for kind in ("VIEW", "TABLE"):
        if is_kind(connection, EVENTS, kind):
            connection.execute(f"DROP {kind} {EVENTS}")
    connection.execute(f"DROP TABLE IF EXISTS {BASE}")
    layout = layout_of(spec)
    if layout is None:
        raw = numbered_sql(uri, loaded)
        cleaned = ", ".join(_without_nan(name, wanted) for name, wanted in spec.source.columns.items())
        connection.execute(
            f"""CREATE TABLE {EVENTS} AS WITH {RAW} AS (SELECT {cleaned}, {ROW} FROM ({raw}))
            SELECT {ROW}, * EXCLUDE ({ROW}) FROM ({compiled(spec)[0]})"""
        )
    else:
        if loaded and layout.computed.keys() <= _columns(connection, loaded):
            connection.execute(f"ALTER TABLE {identifier(loaded)} RENAME TO {BASE}")
        else:
            rows = f"SELECT {identifiers(spec.source.columns)} FROM {loaded or f'read_parquet({literal(uri)})'}"
            connection.execute(f"CREATE TABLE {BASE} AS {with_computed(spec, rows)}")
        floats = {
            name
            for name, kind in spec.source.columns.items()
            if kind in FLOATS and _has_rows(connection, f"{BASE} WHERE {identifier(name)} = 'nan'::{kind}")
        }
        shown = ", ".join(
            f"{without_nan(where) if where in floats else identifier(where)} AS {identifier(name)}"
            for name, where in layout.shown.items()
        )
        connection.execute(f"CREATE VIEW {EVENTS} AS SELECT rowid AS {ROW}, {shown} FROM {BASE}")
        columns = identifiers(spec.source.columns)
        connection.execute(f"CREATE OR REPLACE TABLE {GONE} AS SELECT {columns}, rowid AS {ROW} FROM {BASE} LIMIT 0")
        raw = f"SELECT {columns}, rowid AS {ROW} FROM {BASE} UNION ALL FROM {GONE}"
    return Events(int((connection.execute(f"SELECT count(*) FROM {EVENTS}").fetchone() or (0,))[0]), raw)


def with_computed(spec: ModelSpec, rows: str) -> str:
    """Return the query of raw rows with what the model computes of each row alone beside, under the names of its layout."""
    layout = layout_of(spec)
    if layout is None or not layout.computed:
        return rows
    more = ", ".join(f"{sql} AS {identifier(name)}" for name, sql in layout.computed.items())
    return f"SELECT *, {more} FROM ({rows})"


def layout_of(spec: ModelSpec) -> Layout | None:
    """Return how the event rows of a model lie in a table beside the raw ones, None if they cannot."""
    from flows.steps.event_layout import lay_out

    sql, found = compiled(spec)
    return lay_out(sql, tuple(found), tuple(spec.source.columns.items()))


def _columns(connection: DuckDBPyConnection, table: str) -> set[str]:
    return {str(row[0]) for row in connection.execute(f"DESCRIBE {identifier(table)}").fetchall()}


def _has_rows(connection: DuckDBPyConnection, rows: str) -> bool:
    return connection.execute(f"SELECT 1 FROM {rows} LIMIT 1").fetchone() is not None


def delete_events(connection: DuckDBPyConnection, rejected: str, for_good: bool = False) -> None:
    """Delete the rows whose numbers are in a table from ``events``; ``for_good`` if no one asks for their raw rows again."""
    where = f"IN (SELECT {ROW} FROM {rejected})"
    if not is_kind(connection, EVENTS, "VIEW"):
        connection.execute(f"DELETE FROM {EVENTS} WHERE {ROW} {where}")
        return
    if not for_good:
        names = identifiers(name for name in _columns(connection, GONE) if name != ROW)
        connection.execute(f"INSERT INTO {GONE} BY NAME SELECT {names}, rowid AS {ROW} FROM {BASE} WHERE rowid {where}")
    connection.execute(f"DELETE FROM {BASE} WHERE rowid {where}")


def is_kind(connection: DuckDBPyConnection, name: str, kind: str) -> bool:
    """Say whether there is a table, or a view, of this name."""
    found = connection.execute(
        "SELECT table_type FROM information_schema.tables WHERE table_name = $name", {"name": name}
    ).fetchall()
    return {"VIEW": "VIEW", "TABLE": "BASE TABLE"}[kind] in {str(row[0]) for row in found}


def added_sql(connection: DuckDBPyConnection, spec: ModelSpec) -> dict[str, str]:
    """Return SQL for what is added to the rows of ``events``: event and label time in UTC, and the label."""
    label = identifier(spec.label.name)
    return {
        "event_timestamp": _utc(connection, spec, spec.source.event_time, timedelta(0)),
        "label_timestamp": _utc(connection, spec, LABEL_TIME, spec.label.delay),
        "label": f"CAST({label} AS DOUBLE)" if spec.task == "regression" else label,
    }


def _utc(connection: DuckDBPyConnection, spec: ModelSpec, name: str, plus: timedelta) -> str:
    """Return SQL for a time column of ``events`` in UTC, ``plus`` later."""
    kind = compiled(spec)[1][name]
    if kind == ZONED:
        return f"{identifier(name)} + INTERVAL {plus.total_seconds():.0f} SECOND" if plus else identifier(name)
    time = local_sql(spec, name, kind)
    finite = f"{time} > TIMESTAMP '-infinity' AND {time} < TIMESTAMP 'infinity'"  # in most blocks known of all rows
    bounds = connection.execute(f"SELECT min({time}), max({time}) FROM {EVENTS} WHERE {finite}").fetchone()
    return utc_sql(time, spec.source.time_zone, bounds or (), plus)


def event_columns(spec: ModelSpec) -> dict[str, str]:
    """Return the columns of the model's rows without our own, in any case of letters: to SQL they are one."""
    return {name: kind for name, kind in compiled(spec)[1].items() if name.lower() not in (ROW, *ADDED)}


def _without_nan(name: str, kind: str) -> str:
    column = identifier(name)
    return f"CAST({without_nan(name) if kind in FLOATS else column} AS {kind}) AS {column}"
