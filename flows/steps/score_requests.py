"""A file of requests to score: opened, every row checked, and read in batches."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from flows.errors import UnavailableError, UsageError
from flows.spec import ModelSpec, RequestField
from flows.steps.event_rows import ROW
from flows.steps.raw_types import OFFSET
from flows.steps.reading import describe
from flows.steps.sql import identifier, identifiers, literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

BATCH = 500_000  # rows that are joined and predicted at once
MEMORY = "1GB"  # for rows and answers that are sorted, beyond it on disk: features are joined in a DuckDB of their own
TYPES = {"int": "BIGINT", "float": "DOUBLE", "string": "VARCHAR", "timestamp": "TIMESTAMP"}


def prepare(connection: DuckDBPyConnection, spec: ModelSpec, origin: Path, added: list[str]) -> tuple[str, ...]:
    """Make the view ``typed``, the file's columns and its request fields as the model takes them; check every row.

    Returns the names of the file's own columns.
    """
    path = literal(glob.escape(str(origin)))
    fields = _fields(spec)
    reader = f"read_parquet({path})" if origin.suffix.lower() == ".parquet" else f"read_csv({path}, sample_size = -1)"
    with told(origin):
        columns = describe(connection, f"SELECT * FROM {reader}", {})
        texts = [field.name for field in fields if field.type in ("string", "timestamp") and field.name in columns]
        if texts and origin.suffix.lower() != ".parquet":
            # As landing reads them: by their looks True would become true, 007 become 7, and 01/02 one of two days.
            types = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in texts)
            reader = f"read_csv({path}, sample_size = -1, types = {{{types}}})"
            columns = describe(connection, f"SELECT * FROM {reader}", {})
    missing = [field.name for field in fields if field.name not in columns]
    if missing:
        has = ", ".join(columns)[:300]
        raise UsageError(f"{origin} lacks column {', '.join(missing)} (it has {has}); add it, or rename what holds it")
    clash = [name for name in columns if name in added]
    if clash:
        raise UsageError(f"{origin} has a column {', '.join(clash)}, which scoring adds; rename it in the input")
    casts = [f"{_cast(field, columns[field.name], spec)} AS {identifier(_typed(field))}" for field in fields]
    with told(origin):
        connection.execute(f"CREATE TEMP VIEW typed AS SELECT *, {', '.join(casts)} FROM {reader}")
        found = connection.execute(
            f"SELECT count(*), {', '.join(map(_check, fields))} FROM (SELECT row_number() OVER () AS {ROW}, * FROM typed)"
        ).fetchone()
    assert found is not None
    if not found[0]:
        raise UsageError(f"{origin} holds no rows; there is nothing to score")
    for place, field in enumerate(fields):
        count, first, value = found[1 + 3 * place : 4 + 3 * place]
        if count:
            shown = "missing" if value is None else repr(value[:40])
            raise UsageError(
                f"{origin}: column {field.name} is {shown} in row {first} ({count:,} such rows); it must be "
                f"{_wanted(field)}: correct or drop the rows"
            )
    return tuple(columns)


def batches(connection: DuckDBPyConnection, origin: Path, query: str = "FROM typed") -> Iterator[pa.Table]:
    """Yield the rows of ``typed`` in their order, or those of another query."""
    with told(origin):
        for batch in connection.execute(query).to_arrow_reader(BATCH):
            yield pa.Table.from_batches([batch])


def in_time_order(connection: DuckDBPyConnection, spec: ModelSpec) -> bool:
    """Say whether the batches of ``typed`` follow one another in time, more or less: together they span it at most twice."""
    found = connection.execute(
        f"""SELECT sum(last - first) <= 2 * (max(last) - min(first)) FROM (
            SELECT min(epoch(time)) AS first, max(epoch(time)) AS last
            FROM (SELECT {_time(spec)} AS time, row_number() OVER () - 1 AS n FROM typed) GROUP BY n // {BATCH}
        )"""
    ).fetchone()
    return bool(found and found[0])


def answered_by_time(
    connection: DuckDBPyConnection, spec: ModelSpec, origin: Path, answer: Callable[[pa.Table], pa.Table]
) -> Generator[pa.Table]:
    """Yield the rows of ``typed`` in their order with their answers beside, made in batches by order of event time.

    ``answer`` is given the requests of a batch. So each batch needs the features of its own time and no others.
    """
    fields = identifiers(_typed(field) for field in _fields(spec))
    numbered = f"SELECT row_number() OVER () AS {ROW}, {fields} FROM typed ORDER BY {_time(spec)}"
    with told(origin):
        connection.execute(f"SET memory_limit = '{MEMORY}'")
    with connection.cursor() as others:
        verb = "CREATE TABLE answers AS"
        for rows in batches(connection, origin, numbered):
            others.register("batch", answer(requests_of(spec, rows)).append_column(ROW, rows[ROW]))
            with told(origin):
                others.execute(f"{verb} FROM batch")
            verb = "INSERT INTO answers"
        others.unregister("batch")
        take = taking(batches(others, origin, f"SELECT * EXCLUDE ({ROW}) FROM answers ORDER BY {ROW}"))
        for rows in batches(connection, origin):
            yield beside(rows, take(rows.num_rows))


def taking(tables: Iterator[pa.Table]) -> Callable[[int], pa.Table]:
    """Return what takes so many of the next rows of some tables as one table."""
    waiting: list[pa.Table] = []

    def take(rows: int) -> pa.Table:
        while sum(table.num_rows for table in waiting) < rows:
            waiting.append(next(tables))
        table = pa.concat_tables(waiting)
        waiting[:] = [table.slice(rows)]
        return table.slice(0, rows)

    return take


def beside(table: pa.Table, answers: pa.Table) -> pa.Table:
    """Return a table with the columns of another beside it."""
    for name in answers.column_names:
        table = table.append_column(name, answers[name])
    return table


def requests_of(spec: ModelSpec, table: pa.Table) -> pa.Table:
    """Return the request fields of a batch under their own names, and ``event_timestamp``, UTC."""
    import pyarrow.compute as pc

    typed = {field.name: table[_typed(field)] for field in _fields(spec)}
    times = pc.assume_timezone(
        typed[spec.source.event_time], spec.source.time_zone, ambiguous="earliest", nonexistent="latest"
    )
    fields = {field.name: typed[field.name] for field in spec.request}
    return pa.table({**fields, "event_timestamp": times.cast(pa.timestamp("us", "UTC"))})


def _fields(spec: ModelSpec) -> list[RequestField]:
    """Return the request fields, and the event time if it is not one of them."""
    time = spec.source.event_time
    if any(field.name == time for field in spec.request):
        return list(spec.request)
    return [*spec.request, RequestField(name=time, type="timestamp", description="event time", example=None)]


def _time(spec: ModelSpec) -> str:
    """Return the column of ``typed`` that holds the event time, quoted."""
    return identifier(next(_typed(field) for field in _fields(spec) if field.name == spec.source.event_time))


def _typed(field: RequestField) -> str:
    return f"__typed_{field.name}"


def _cast(field: RequestField, found: str, spec: ModelSpec) -> str:
    """Return SQL for a column as the type of its field, NULL where it is not; times become local, without zone."""
    column, wanted = identifier(field.name), TYPES[field.type]
    if field.type == "timestamp":
        zone = literal(spec.source.time_zone)
        instant = f"(TRY_CAST({column} AS TIMESTAMPTZ) AT TIME ZONE {zone})"
        if found == "TIMESTAMP WITH TIME ZONE":
            return instant
        if found == "VARCHAR":
            zoned = f"regexp_matches(substr({column}, 11), {literal(OFFSET)})"
            return f"CASE WHEN {zoned} THEN {instant} ELSE TRY_CAST({column} AS TIMESTAMP) END"
    if field.type == "int":  # 74.0 is a whole number, 74.6 is none
        whole = f"TRY_CAST({column} AS BIGINT)"
        return f"CASE WHEN {whole} = TRY_CAST({column} AS DOUBLE) THEN {whole} END"
    return f"TRY_CAST({column} AS {wanted})"


def _check(field: RequestField) -> str:
    """Return SQL for how many values are missing, of another type or out of bounds, and row and value of the first."""
    column = identifier(_typed(field))
    tests = [f"{column} IS NULL" if field.required else f"{column} IS NULL AND {identifier(field.name)} IS NOT NULL"]
    if field.type == "float":
        tests.append(f"NOT isfinite({column})")
    if field.minimum is not None:
        tests.append(f"{column} < {field.minimum!r}")
    if field.maximum is not None:
        tests.append(f"{column} > {field.maximum!r}")
    bad = f"FILTER (WHERE {' OR '.join(tests)})"
    return f"count(*) {bad}, min({ROW}) {bad}, arg_min_null({identifier(field.name)}::VARCHAR, {ROW}) {bad}"


def _wanted(field: RequestField) -> str:
    kind = {"int": "a whole number", "float": "a number", "string": "a text", "timestamp": "a time"}[field.type]
    bounds = [
        *([f"at least {field.minimum:g}"] if field.minimum is not None else []),
        *([f"at most {field.maximum:g}"] if field.maximum is not None else []),
    ]
    return ", ".join([kind, *bounds])


@contextmanager
def told(origin: Path) -> Iterator[None]:
    """Turn a reader's error into one line."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        line = str(error).strip().splitlines()[0][:300]
        if isinstance(error, duckdb.OutOfMemoryException) or os.strerror(errno.ENOSPC) in str(error):
            raise UnavailableError(
                f"{origin} and its answers do not fit into memory and temporary space ({line}); free some"
            ) from error
        if "utf-8" in str(error):
            raise UsageError(f"{origin} is not in UTF-8 ({line}); save it so") from error
        raise UsageError(f"{origin} cannot be read ({line}); name a whole parquet or CSV file") from error
