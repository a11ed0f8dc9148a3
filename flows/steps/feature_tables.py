"""The feature tables: which ticks are to be computed, and their values written as parquet."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from flows.ledger import Partition
from flows.lookup import resolve
from flows.settings import Settings
from flows.spec import Frozen, ModelSpec
from flows.steps import duckdb_features, in_memory, spark_features
from flows.steps.files import is_whole_parquet
from flows.steps.periods import period_of
from flows.steps.sql import identifier, identifiers, literal
from flows.steps.storage import locals_of, pull, writing

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from flows.steps.windows import Expression


class FeaturePlan(Frozen):
    """What is to be computed: the ticks (UTC), from the accepted rows in ``uris``, for the partitions in ``new``.

    ``moment`` is when that was decided: no tick lies after it.
    """

    ticks: tuple[datetime, ...]
    uris: tuple[str, ...]
    new: tuple[int, ...]
    moment: datetime


def plan(
    spec: ModelSpec,
    accepted: Sequence[Partition],
    now: datetime | None = None,
    replaced: Sequence[Partition] = (),
    refused: Sequence[Partition] = (),
) -> FeaturePlan:
    """Plan the ticks that partitions not yet featurized make new, or change, and those that have come due since.

    A partition changes every tick from its first event until ``spec.history`` after its last one, and those that its own
    former rows and the revisions ``replaced`` before it had changed; so do former rows of one that is ``refused`` by now. No
    tick lies after the newest data (``last_of``) or in the future: its value would promise to know what has not happened yet.
    The tick that ends a day whose data came before its midnight is planned by the first call after it.
    """
    moment = now or datetime.now(UTC)
    known = [p for p in accepted if p.first_event and p.last_event]
    last_tick = {p.id: last_of(spec, p.last_event, moment) for p in known if p.last_event}
    fresh = [p for p in known if p.featurized_at is None]
    # Those whose last tick lay in the future when they were featurized, and has come since.
    ended = [p for p in known if p.featurized_at and p.featurized_at < last_tick[p.id] <= moment]
    gone = [p for p in refused if p.featured and p.featurized_at is None] if known else []
    if not fresh and not ended and not gone:
        return FeaturePlan(ticks=(), uris=(), new=(), moment=moment)
    # Their rows are in the tables, also where the new revision has none.
    withdrawn = [*fresh, *gone, *(p for p in replaced if p.key in {one.key for one in fresh})]
    changing = [(p.first_event, p.last_event) for p in fresh if p.first_event and p.last_event]
    changing += [p.featured for p in withdrawn if p.featured]
    first = min([*(p.first_event for p in known if p.first_event), *(low for low, _ in changing)])
    last = max([*last_tick.values(), *(last_of(spec, high, moment) for _, high in changing)])
    done = [min(last_tick[p.id], p.featurized_at) for p in known if p.featurized_at]
    computed_until = max(done, default=first)
    affected = [(low, high + spec.history) for low, high in changing]
    ticks = tuple(
        tick
        for tick in ticks_between(spec, first, min(last, moment))
        if tick > computed_until or any(low < tick <= high + spec.tick for low, high in affected)
    )
    low, high = (ticks[0] - spec.history, ticks[-1]) if ticks else (first, first)
    read = [
        p
        for p in known
        if p.accepted_uri and p.last_event and p.first_event and p.last_event >= low and p.first_event < high
    ]
    return FeaturePlan(
        ticks=ticks,
        uris=tuple(p.accepted_uri for p in read or known[:1] if p.accepted_uri),  # of none there would be no columns
        new=tuple(p.id for p in (*fresh, *ended, *gone)),
        moment=moment,
    )


def damaged(settings: Settings, spec: ModelSpec) -> list[Path]:
    """Return the files of the feature tables in this home that are not whole."""
    files = (file for view in spec.entities for file in sorted((settings.features(spec.name) / view).glob("*.parquet")))
    return [file for file in files if not is_whole_parquet(file)]


def remove_damaged(settings: Settings, spec: ModelSpec) -> bool:
    """Remove files of the feature tables that are not whole, and say whether something is missing then.

    What a bucket has comes back from there.
    """
    found = damaged(settings, spec)
    for file in found:
        file.unlink()
    folder = settings.features(spec.name)
    pull(settings, folder)
    empty = any(not list((folder / view).glob("*.parquet")) for view in spec.entities)
    return empty or bool(found and not settings.storage_url)


def span(spec: ModelSpec, accepted: Sequence[Partition]) -> tuple[datetime, datetime] | None:
    """Return the first and the last tick that the accepted partitions make, None if they make none."""
    firsts, lasts = [p.first_event for p in accepted if p.first_event], [p.last_event for p in accepted if p.last_event]
    if not firsts:
        return None
    moment = datetime.now(UTC)
    ticks = ticks_between(spec, min(firsts), min(last_of(spec, max(lasts), moment), moment))
    return (ticks[0], ticks[-1]) if ticks else None


def last_of(spec: ModelSpec, newest: datetime, moment: datetime) -> datetime:
    """Return the last tick that data up to ``newest`` makes: the next one, or with ``spec.arrival`` the end of its period.

    Rows of the period after it are joined as of that end, and what serves them is to have the same tick, also if the period
    closed with a weekend without rows. It is made once the period is over at ``moment``.
    """
    tick = next_tick(spec, newest)
    if spec.arrival is None:
        return tick
    zone = ZoneInfo(spec.source.time_zone)
    end = datetime.combine(period_of(spec.partition_by, newest.astimezone(zone).date()).end, time(), zone).astimezone(
        UTC
    )
    return max(tick, end) if end <= moment else tick


def next_tick(spec: ModelSpec, moment: datetime) -> datetime:
    """Return the first tick after a moment: local midnight and every ``spec.tick`` from there, as UTC."""
    zone = ZoneInfo(spec.source.time_zone)
    midnight = datetime.combine(moment.astimezone(zone).date(), time(), zone)
    tick = midnight.astimezone(UTC)
    while tick <= moment:
        # A day is a calendar day, which daylight saving makes 23 or 25 hours long.
        midnight = midnight + spec.tick
        tick = midnight.astimezone(UTC)
    return tick


def ticks_between(spec: ModelSpec, start: datetime, end: datetime) -> list[datetime]:
    """Return all ticks in (start, end], UTC."""
    found = []
    tick = next_tick(spec, start)
    while tick <= end:
        found.append(tick)
        tick = next_tick(spec, tick)
    return found


def compute(settings: Settings, spec: ModelSpec, planned: FeaturePlan) -> dict[str, int]:
    """Compute the planned ticks of every feature view, add them to its table, and return the rows written by view.

    A tick that is computed again gets a new row with a later ``created_timestamp``; a key that it no longer knows gets a
    row of nulls, so that what was corrected away does not live on.
    """
    import ibis

    written: dict[str, int] = {}
    if not planned.ticks:
        return written
    pull(settings, settings.features(spec.name))
    created = _created(settings.features(spec.name))
    connection = ibis.duckdb.from_connection(in_memory.connect(settings.home))
    connection.raw_sql("SET preserve_insertion_order = false")
    files = locals_of(settings, planned.uris)
    rows = connection.read_parquet(files, table_name="rows", union_by_name=True)
    for some, views in _work(settings, spec, planned.ticks, rows):
        connection.raw_sql("DROP TABLE IF EXISTS ticks")  # ibis 12 forgets the name
        ticks = connection.create_table("ticks", ibis.memtable({"tick": some}, schema=TICKS))
        # What no tick looks back on is not read: else all rows would be, for every share and view.
        seen = rows.filter([rows.event_timestamp >= some[0] - spec.history, rows.event_timestamp < some[-1]])
        with (
            spark_features.computing(settings, files, some)
            if settings.compute_url
            else duckdb_features.computing(settings.home, connection, seen, ticks, some)
        ) as computed:
            for view, expression in views.items():
                # The name sorts by time of writing and is never used twice.
                name = f"{created:{WRITTEN}}-{uuid.uuid4().hex[:8]}.parquet"
                folder = settings.features(spec.name) / view
                sql = computed(view, expression)
                keys = spec.entities[view]
                with writing(settings, folder / name) as path:
                    connection.raw_sql(_copy_statement(sql, keys, created, sorted(folder.glob("*.parquet")), path))
                count = int(connection.read_parquet(folder / name).count().execute())
                written[view] = written.get(view, 0) + count
    return written


def _work(
    settings: Settings, spec: ModelSpec, ticks: Sequence[datetime], rows: ir.Table
) -> Iterator[tuple[list[datetime], dict[str, Expression]]]:
    """Yield what is computed at once: ticks, and the views with their expressions.

    A view that is computed in parts holds each row once, another one holds it for every tick that looks back on it.
    """
    import ibis

    views: dict[str, Expression] = resolve(spec.feature_tables)
    if settings.compute_url:
        yield list(ticks), views  # a cluster shares the work out by itself
        return
    by_day = rows.group_by(day=rows.event_timestamp.truncate("D")).agg(rows=rows.count()).to_pandas()
    counts = {day.date(): int(count) for day, count in zip(by_day["day"], by_day["rows"], strict=True)}
    table = ibis.table(TICKS, name="ticks")
    in_parts = {view for view, one in views.items() if duckdb_features.in_parts(one(rows, table), ticks)}
    for once, names in ((True, in_parts), (False, views.keys() - in_parts)):
        for some in shares(spec, ticks, counts, once) if names else ():
            yield some, {view: one for view, one in views.items() if view in names}


def shares(
    spec: ModelSpec, ticks: Sequence[datetime], counts: Mapping[date, int], once: bool = False
) -> list[list[datetime]]:
    """Return the ticks in shares that are computed at once, each of at most so many rows or of a single tick.

    With ``once`` each row that some tick looks back on counts once, and there are at most ``ONCE``. Else it counts for
    every such tick, at most ``AT_ONCE``: a median holds all its values, and twenty-eight ticks at once would hold each
    row twenty-eight times. ``counts`` are the rows of each day, UTC.
    """
    found: list[list[datetime]] = []
    room = 0
    for tick in ticks:
        first = (tick - spec.history).date()
        newest = found[-1][-1].date() if found and once else date.min
        seen = sum(rows for day, rows in counts.items() if max(first, newest) <= day <= tick.date() and day != newest)
        if not found or seen > room:
            found.append([])
            room = ONCE if once else AT_ONCE
            seen = sum(rows for day, rows in counts.items() if first <= day <= tick.date())
        found[-1].append(tick)
        room -= seen
    return found


AT_ONCE = 8_000_000  # rows times ticks; some 100 bytes each
ONCE = 24_000_000  # rows, where each is held once; they are sorted in slices
TICKS = {"tick": "timestamp('UTC', 6)"}
WRITTEN = "%Y%m%dT%H%M%S%f"  # how a file's name says when it was written, UTC


def _created(folder: Path) -> datetime:
    """Return the moment that new rows of a model's tables were made at: now, and later than all that are there.

    Of a tick's values the newest count: those of a clock that ran ahead would outlive each correction made since.
    """
    newest = max((file.name.partition("-")[0] for file in folder.glob("*/[0-9]*T[0-9]*-*.parquet")), default="")
    before = [datetime.strptime(newest, WRITTEN).replace(tzinfo=UTC) + timedelta(microseconds=1)] if newest else []
    return max([datetime.now(UTC), *before])


def _copy_statement(sql: str, keys: Sequence[str], created: datetime, earlier: list[Path], target: Path) -> str:
    """Return the SQL that writes new rows, and nulls for keys of the same ticks that are in earlier files only."""
    stamp = f"TIMESTAMPTZ '{created.isoformat()}' AS created_timestamp"
    fresh = f"SELECT *, {stamp} FROM ({sql})"
    if earlier:
        files = ", ".join(map(literal, earlier))
        gone = (
            f"SELECT DISTINCT {identifiers([*keys, 'event_timestamp'])}, {stamp} "
            f"FROM read_parquet([{files}], union_by_name = true) WHERE event_timestamp IN (SELECT tick FROM ticks)"
        )
        on = ", ".join([*map(identifier, keys), "event_timestamp"])
        fresh = f"WITH fresh AS ({fresh}) FROM fresh UNION ALL BY NAME (SELECT * FROM ({gone}) ANTI JOIN fresh USING ({on}))"
    return f"COPY ({fresh}) TO {literal(target)} (FORMAT parquet, COMPRESSION zstd)"
