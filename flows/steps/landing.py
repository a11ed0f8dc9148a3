"""Landing: the rows of a source, split by period, hashed, written once, recorded; the same rows again are a no-op."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy.engine import Engine

from flows import ledger
from flows.errors import BrokenCheckError, UnavailableError, UsageError
from flows.ledger import Partition
from flows.secret import shown
from flows.settings import Settings
from flows.spec import Frozen, ModelSpec
from flows.steps.event_rows import DAY, dated_sql
from flows.steps.files import sha256_of
from flows.steps.periods import Kind, Period, batch_key, nearest, parse_key, period_of
from flows.steps.reading import Batch, Unreadable, read
from flows.steps.row_hash import digest_of
from flows.steps.sources import opened
from flows.steps.sql import identifier, identifiers, literal
from flows.steps.storage import address, is_lost, writing

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Version 2 writes differences, and dictionaries only where they pay: a third faster than the defaults, and no larger.
PARQUET_OPTIONS = """(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, PARQUET_VERSION v2,
    DICTIONARY_SIZE_LIMIT 2000, WRITE_BLOOM_FILTER false, USE_TMP_FILE false)"""


class Slice(Frozen):
    """The rows of one partition-to-be: those of its period, and those of no partition that were attached to it."""

    key: str
    period: Period | None = None
    strays: tuple[date, ...] = ()  # days
    takes_unknown: bool = False  # the rows without an event time


class Landed(Frozen):
    """What a source became: its partitions in order, and where rows lie in memory still.

    ``tables`` maps the id of a partition to the table of the connection that holds its rows in order, and no others.
    ``by`` is the command that brought it, ``again`` that somebody means it to stand whatever is there.
    """

    partitions: list[Partition]
    tables: dict[int, str]
    by: Literal["ingest", "label"] = "ingest"
    again: bool = False


def land(
    source: str,
    spec: ModelSpec,
    settings: Settings,
    engine: Engine,
    kind: Kind,
    connection: DuckDBPyConnection,
    again: bool = False,
    origin: str = "",
) -> Landed:
    """Land a source by periods of a kind: new partitions have status ``landed``, known ones are as they were.

    ``origin`` is what the ledger calls it, if it was made of landed rows and the labels that came from there.

    Rows that a later revision has replaced stay replaced, so that sources which tell of one period in turn do not replace
    each other for ever; with ``again`` they become the newest revision.

    A partition is on disk before it is in the ledger, so a crash leaves it landed or not at all, and running again
    finishes. Raises UsageError for a source or a partitioning that cannot be, UnavailableError if the disk is full, and
    BrokenCheckError if DuckDB cannot compute what the model makes of its rows.
    """
    by: Literal["ingest", "label"] = "label" if origin else "ingest"
    with _told(source, spec), opened(source, settings) as files:
        batches, unreadable = read(connection, spec, files)
        if origin:
            batches = [batch.model_copy(update={"origin": origin}) for batch in batches]
        work = [(batch, split(connection, spec, batch, kind)) for batch in batches]
        _refuse_other_kind(engine, spec, [piece.period for _, slices in work for piece in slices])
        landed = [_land_unreadable(file, spec, settings, engine) for file in unreadable]
        tables = {}
        for batch, slices in work:
            for piece in slices:
                alone = len(slices) == 1
                landed.append(_land_slice(connection, batch, piece, alone, spec, settings, engine, again, by))
                if alone:
                    tables[landed[-1].id] = batch.table
            if len(slices) > 1:  # its rows are in the files of its slices by now
                connection.execute(f"DROP TABLE {batch.table}")
    unique = {partition.id: partition for partition in landed}.values()
    partitions = sorted(unique, key=lambda partition: (partition.key, partition.revision))
    return Landed(partitions=partitions, tables=tables, by=by, again=again)


@contextmanager
def _told(source: str, spec: ModelSpec) -> Iterator[None]:
    """Turn DuckDB's error over a source into one line."""
    import duckdb

    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        line = str(error).splitlines()[0]
        raise UnavailableError(
            f"{shown(source)} could not be landed ({line}); free some space, then run again"
        ) from error
    except duckdb.Error as error:
        line = str(error).splitlines()[0]
        raise BrokenCheckError(
            f"{shown(source)} could not be landed ({line}); correct it, or {spec.rows}, then ingest again"
        ) from error


def split(connection: DuckDBPyConnection, spec: ModelSpec, batch: Batch, kind: Kind) -> list[Slice]:
    """Return the slices of a batch by the periods of its rows.

    Periods with fewer than ``source.min_rows`` rows are strays: a revision replaces its whole period, and three trips
    of New Year's Eve in the January file must not replace the day. They go to the nearest period that stands. A batch
    without an event time, or in which no period stands, is one slice.
    """
    import duckdb

    whole = [Slice(key=batch_key(batch.name))]
    try:
        days = connection.execute(
            f"""SELECT CASE WHEN isfinite({DAY}) THEN {DAY} END, sum(counted)::BIGINT FROM (
                SELECT {DAY}, count(*) AS counted FROM ({dated_sql(spec, batch.table, batch.columns)}) GROUP BY {DAY}
            ) GROUP BY ALL"""
        ).fetchall()
    except duckdb.Error:
        if batch.fits:
            raise
        return whole  # no event time can be made of columns of other types; judging says which
    counts: Counter[Period] = Counter()
    for day, rows in days:
        if day:
            counts[period_of(kind, day)] += rows
    unknown = sum(rows for day, rows in days if not day)
    standing = sorted((period for period, rows in counts.items() if rows >= spec.source.min_rows), key=_start)
    if not standing or unknown > spec.source.tolerated * (unknown + counts.total()):
        return whole
    starts = [period.start for period in standing]
    strays: dict[date, list[date]] = {start: [] for start in starts}
    for day in sorted(day for day, _ in days if day and period_of(kind, day) not in standing):
        strays[nearest(day, starts)].append(day)
    return [
        Slice(
            key=period.key,
            period=period,
            strays=tuple(strays[period.start]),
            takes_unknown=bool(unknown) and period == standing[0],
        )
        for period in standing
    ]


def _start(period: Period) -> date:
    return period.start


def _refuse_other_kind(engine: Engine, spec: ModelSpec, periods: list[Period | None]) -> None:
    """Raise UsageError if a period overlaps an accepted one of another kind: its rows would count twice."""
    accepted = [parse_key(partition.key) for partition in ledger.list_partitions(engine, spec.name, "accepted")]
    for period in filter(None, periods):
        for other in filter(None, accepted):
            if other.kind != period.kind and other.start < period.end and period.start < other.end:
                raise UsageError(
                    f"{spec.name}: {period.key} overlaps the accepted partition {other.key}; "
                    f"land this source with --partition-by {other.kind}"
                )


def _land_slice(
    connection: DuckDBPyConnection,
    batch: Batch,
    piece: Slice,
    alone: bool,
    spec: ModelSpec,
    settings: Settings,
    engine: Engine,
    again: bool,
    by: str,
) -> Partition:
    """Hash, write and record one slice of a batch; ``alone`` if it is the whole of it."""
    query = f"FROM {batch.table}"
    parameters: dict[str, Any] = {}
    if not alone:
        time = spec.source.event_time
        where, parameters = _condition(piece, time if batch.columns.get(time) == "TIMESTAMP" else None)
        query = f"FROM ({dated_sql(spec, batch.table, batch.columns)}) WHERE {where}"
    digest, rows = digest_of(connection, batch.columns, query, parameters)
    known = ledger.find_partition(engine, spec.name, piece.key, digest)
    revived = known is not None and known.status == "replaced" and again
    if known and not revived and not is_lost(known.uri):
        return known
    path = settings.lake(spec.name) / "raw" / f"{piece.key}-{digest[:16]}.parquet"
    with writing(settings, path) as temporary:
        if alone and batch.file:
            shutil.copyfile(batch.file, temporary)
        else:
            copy = f"COPY (SELECT {identifiers(batch.columns)} {query}) TO $target {PARQUET_OPTIONS}"
            connection.execute(copy, {**parameters, "target": str(temporary)})
    return ledger.add_partition(
        engine, model=spec.name, key=piece.key, digest=digest, source=batch.origin, uri=address(settings, path), rows=rows,
        reasons=batch.problems, again=again, by=by,
    )  # fmt: skip


def _condition(piece: Slice, time: str | None) -> tuple[str, dict[str, Any]]:
    """Return the condition of a slice's rows, and its parameters; ``time`` is the column of a local event time, if raw."""
    if piece.period is None:
        return "true", {}
    # Asked of a column as it lies in the table, whole blocks of other periods are passed over.
    moment, start, end = identifier(time) if time else DAY, literal(piece.period.start), literal(piece.period.end)
    kind = "TIMESTAMP" if time else "DATE"
    where = f"({moment} >= {kind} {start} AND {moment} < {kind} {end})"
    parameters: dict[str, Any] = {}
    if piece.strays:
        where += f" OR {DAY} IN (SELECT unnest($strays::DATE[]))"
        parameters["strays"] = list(piece.strays)
    if piece.takes_unknown:
        where += f" OR {DAY} IS NULL OR NOT isfinite({DAY})"
    return where, parameters


def _land_unreadable(found: Unreadable, spec: ModelSpec, settings: Settings, engine: Engine) -> Partition:
    """Keep the bytes of a file that cannot be read; record it as a partition of no rows, with the reason."""
    digest = sha256_of(found.file.path)
    key = batch_key(found.file.name)
    path = settings.lake(spec.name) / "unreadable" / f"{key}-{digest[:16]}.bin"
    known = ledger.find_partition(engine, spec.name, key, digest)
    if known is None:
        with writing(settings, path) as temporary:
            shutil.copyfile(found.file.path, temporary)
        known = ledger.add_partition(
            engine, model=spec.name, key=key, digest=digest, source=found.file.origin, uri=address(settings, path), rows=0,
            reasons=[found.reason],
        )  # fmt: skip
    return known
