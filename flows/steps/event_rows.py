"""Event rows: the raw rows with what a model's ``rows`` function adds, and their times in UTC."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from flows.errors import ContractError
from flows.spec import ModelSpec, resolve_callable
from flows.steps.periods import utc_sql
from flows.steps.sql import identifier, identifiers, literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

RAW = "raw"
EVENTS = "events"
BASE = "event_base"  # the table beneath, where events is a view
ROW = "evergreen_row"  # number of the row in the raw file, from 0
DAY = "evergreen_day"  # local day of the row's event time
LABEL_TIME = "label_time"
ADDED = ("event_timestamp", "label_timestamp", "label")
ZONED = "TIMESTAMP WITH TIME ZONE"


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

    Raises ContractError if the function fails, drops a column, or does not give event time, label and ``label_time``.
    """
    sql, columns = _compiled(spec.rows, tuple(spec.source.columns.items()))
    for name in (spec.source.event_time, spec.label.name, LABEL_TIME):
        if name not in columns:
            raise ContractError(f"{spec.rows} must return a column {name!r}; it returns {', '.join(columns)}")
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
    name, query, found = spec.source.event_time, f"SELECT * FROM {RAW}", columns
    if name not in spec.source.columns and set(spec.source.columns) <= set(columns):
        query, found = compiled(spec)
    known = name in found and is_time(found[name])
    day = f"CAST({local_sql(spec, name, found[name])} AS DATE)" if known else "CAST(NULL AS DATE)"
    return f"""WITH {RAW} AS (SELECT *, CAST(NULL AS BIGINT) AS {ROW} FROM {table})
        SELECT {identifiers(columns)}, {day} AS {DAY} FROM ({query})"""


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


def create_events(connection: DuckDBPyConnection, spec: ModelSpec, numbered: str, taken: str | None = None) -> int:
    """Create ``events`` from raw rows, numbered from 0 on, whose columns keep the contract; return its number of rows.

    Columns: the row's number and those of the model's rows. NaN counts as missing and becomes null. If each event row is
    computed from its raw row alone, ``events`` is a view over a table that holds what is computed once. Is there a table
    ``taken`` of the rows, numbered by ``rowid``, it is taken over in place of a second one, and computed is what a query
    reads.
    """
    sql, _ = compiled(spec)
    raw = ", ".join(_without_nan(name, wanted) for name, wanted in spec.source.columns.items())
    for kind in ("VIEW", "TABLE"):
        if is_kind(connection, EVENTS, kind):
            connection.execute(f"DROP {kind} {EVENTS}")
    connection.execute(f"DROP TABLE IF EXISTS {BASE}")
    wanted = row_by_row(spec.rows, tuple(spec.source.columns.items()))
    kept = wanted is not None and taken is not None
    if kept:
        connection.execute(f"ALTER TABLE {identifier(str(taken))} RENAME TO {BASE}")
    with_raw = f"WITH {RAW} AS (SELECT {raw}, {ROW} FROM ({numbered_sql('', BASE) if kept else numbered}))"
    if wanted is None or kept:
        kind = "VIEW" if kept else "TABLE"
        connection.execute(f"CREATE {kind} {EVENTS} AS {with_raw} SELECT {ROW}, * EXCLUDE ({ROW}) FROM ({sql})")
    else:
        # Rows keep their order in a table, so its own numbers are those of the raw rows.
        stored = identifiers(dict.fromkeys(wanted.values()))
        connection.execute(f"CREATE TABLE {BASE} AS {with_raw} SELECT {stored} FROM ({sql})")
        shown = ", ".join(f"{identifier(where)} AS {identifier(name)}" for name, where in wanted.items())
        connection.execute(f"CREATE VIEW {EVENTS} AS SELECT rowid AS {ROW}, {shown} FROM {BASE}")
    return int((connection.execute(f"SELECT count(*) FROM {EVENTS}").fetchone() or (0,))[0])


def delete_events(connection: DuckDBPyConnection, rejected: str) -> None:
    """Delete the rows whose numbers are in a table from ``events``."""
    table, number = (BASE, "rowid") if is_kind(connection, EVENTS, "VIEW") else (EVENTS, ROW)
    connection.execute(f"DELETE FROM {table} WHERE {number} IN (SELECT {ROW} FROM {rejected})")


def is_kind(connection: DuckDBPyConnection, name: str, kind: str) -> bool:
    """Say whether there is a table, or a view, of this name."""
    found = connection.execute(
        "SELECT table_type FROM information_schema.tables WHERE table_name = $name", {"name": name}
    ).fetchall()
    return {"VIEW": "VIEW", "TABLE": "BASE TABLE"}[kind] in {str(row[0]) for row in found}


@lru_cache(maxsize=64)
def row_by_row(path: str, columns: tuple[tuple[str, str], ...]) -> dict[str, str] | None:
    """Return the columns of a model's rows, each with the one that holds its values (itself, unless it is a repetition).

    None if the function does not compute each row from its raw row alone, or not the same each time.
    """
    import duckdb
    import sqlglot
    from sqlglot import exp

    sql, found = _compiled(path, columns)
    nothing = ", ".join(f"CAST(NULL AS {kind}) AS {identifier(name)}" for name, kind in (*columns, (ROW, "BIGINT")))
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE {RAW} AS SELECT {nothing} LIMIT 0")
        plan = json.loads((connection.execute(f"EXPLAIN (FORMAT json) {sql}").fetchall())[0][1])
        volatile = connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'"
        ).fetchall()
    changing = "|".join(
        ["current_[a-z]+", "localtime", "localtimestamp", *(re.escape(str(row[0])) for row in volatile)]
    )
    if not _operators(plan) <= {"PROJECTION", "SEQ_SCAN"} or re.search(rf"\b({changing})\b", sql, re.IGNORECASE):
        return None
    where = {name: name for name in found if name != ROW}
    query = sqlglot.parse_one(sql, dialect="duckdb")
    if not isinstance(query, exp.Select) or len(list(query.find_all(exp.Select))) > 1:
        return where
    first: dict[str, str] = {}
    for column in query.expressions:
        if isinstance(column.unalias(), exp.Column) and column.alias_or_name in where:
            where[column.alias_or_name] = first.setdefault(column.unalias().name, column.alias_or_name)
    return where


def _operators(nodes: list[dict[str, Any]]) -> set[str]:
    return {str(node["name"]).strip() for node in nodes}.union(*(_operators(node["children"]) for node in nodes))


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
    bounds = connection.execute(f"SELECT min({time}), max({time}) FROM {EVENTS} WHERE isfinite({time})").fetchone()
    return utc_sql(time, spec.source.time_zone, bounds or (), plus)


def event_columns(spec: ModelSpec) -> dict[str, str]:
    """Return the columns of the model's rows without our own, name -> DuckDB type."""
    return {name: kind for name, kind in compiled(spec)[1].items() if name not in (ROW, *ADDED)}


def _without_nan(name: str, kind: str) -> str:
    column = identifier(name)
    if kind in ("DOUBLE", "FLOAT"):
        return f"CASE WHEN isnan({column}) THEN NULL ELSE CAST({column} AS {kind}) END AS {column}"
    return f"CAST({column} AS {kind}) AS {column}"
