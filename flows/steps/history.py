"""A model's own past for a replay: its table read whole, parted at a period, and the newest rows as requests."""

from __future__ import annotations

import re
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.errors import UsageError
from flows.lookup import resolve_callable
from flows.settings import Settings
from flows.spec import Frozen, ModelSpec, RequestField
from flows.steps.event_rows import DAY, compiled, dated_sql, numbered_sql
from flows.steps.files import replacing, write_parquet
from flows.steps.in_memory import connect
from flows.steps.periods import period_of
from flows.steps.reading import read
from flows.steps.sources import opened
from flows.steps.sql import identifiers, literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
NEWEST = 0.1  # share of the periods that the replay keeps for later


class Parted(Frozen):
    """The two parts of a history as parquet files: all periods before ``since``, and those from it on."""

    past: Path
    newest: Path
    since: date
    past_rows: int
    newest_rows: int


def part(spec: ModelSpec, settings: Settings, data: str | None, folder: Path) -> Parted:
    """Write a model's history in two parts; ``data`` is another source than the spec's.

    Raises UsageError if there is none, it does not keep the contract, or has fewer than two periods.
    """
    source = data or spec.history_data
    if source is None:
        raise UsageError(f"{spec.name} names no history_data in its spec; name its table with --data")
    source = landable(source, folder)
    with connect(settings.home) as connection, opened(source, settings) as files:
        batches, unreadable = read(connection, spec, files)
        fitting = next((batch for batch in batches if batch.fits), None)
        if fitting is None:
            found = [*(one.reason for one in unreadable), *(problem for batch in batches for problem in batch.problems)]
            raise UsageError(f"{source}: {found[0]}; correct it, or name another with --data")
        return _write(connection, spec, fitting.table, fitting.columns, folder)


def landable(source: str, folder: Path) -> str:
    """Return a source that can be landed: what a function returns becomes a parquet file, any other source stays as it is."""
    if not FUNCTION.fullmatch(source):
        return source
    import pyarrow as pa

    made = folder / "history.parquet"
    return str(write_parquet(pa.Table.from_pandas(resolve_callable(source)(), preserve_index=False), made))


def _write(
    connection: DuckDBPyConnection, spec: ModelSpec, table: str, columns: dict[str, str], folder: Path
) -> Parted:  # fmt: skip
    dated = dated_sql(spec, table, columns)
    counts: dict[date, int] = {}
    for day, rows in connection.execute(
        f"SELECT {DAY}, count(*) FROM ({dated}) WHERE {DAY} IS NOT NULL GROUP BY 1"
    ).fetchall():
        start = period_of(spec.partition_by, day).start
        counts[start] = counts.get(start, 0) + rows
    periods = sorted(start for start, rows in counts.items() if rows >= spec.source.min_rows)
    if len(periods) < 2:
        raise UsageError(
            f"{spec.name}: the table has {len(periods)} {spec.partition_by}s of data, two are needed at least"
        )
    since = periods[-max(1, round(NEWEST * len(periods)))]
    rows = []
    for name, where in (("past", f"{DAY} < $since"), ("newest", f"{DAY} >= $since")):
        with replacing(folder / f"{name}.parquet") as path:
            done = connection.execute(
                f"COPY (SELECT {identifiers(columns)} FROM ({dated}) WHERE {where}) TO {literal(path)} (FORMAT parquet)",
                {"since": since},
            ).fetchone()
            rows.append(int(done[0]) if done else 0)
    return Parted(
        past=folder / "past.parquet", newest=folder / "newest.parquet", since=since, past_rows=rows[0],
        newest_rows=rows[1],
    )  # fmt: skip


def requests(spec: ModelSpec, file: Path, most: int) -> list[dict[str, Any]]:
    """Return the rows of a raw parquet file as requests, at most so many, in the order of time; those that no caller
    could send (a field missing, out of bounds) are left out.
    """
    sql, _ = compiled(spec)
    names = [field.name for field in spec.request]
    with connect() as connection:
        raw = f"WITH raw AS ({numbered_sql(str(file))}) SELECT {identifiers(names)} FROM ({sql}) "
        rows = connection.execute(f"{raw} ORDER BY {identifiers([spec.source.event_time])} LIMIT {most}").fetchall()
    found = [{field.name: _value(field, value) for field, value in zip(spec.request, row, strict=True)} for row in rows]
    return [row for row in found if all(_fits(field, row[field.name]) for field in spec.request)]


def _value(field: RequestField, value: Any) -> Any:
    if value is None or value != value:
        return None
    if field.type == "timestamp":
        moment = value if isinstance(value, datetime) else datetime.combine(value, datetime.min.time())
        return moment.replace(tzinfo=None).isoformat()
    return {"int": int, "float": float, "string": str}[field.type](value)


def _fits(field: RequestField, value: Any) -> bool:
    if value is None:
        return not field.required
    low, high = field.minimum, field.maximum
    return (low is None or value >= low) and (high is None or value <= high)
