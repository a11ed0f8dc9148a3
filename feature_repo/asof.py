"""The SQL of the point-in-time join: DuckDB's ASOF join, once for each feature view.

All times are compared as UTC microseconds; a time without zone is UTC. Where several rows of a view have the same join
keys and the same event time, one counts: the newest created, and among equals the one written last, that is the later
file of the folder (by path), then the later row of the file. A row created at an unknown time counts as oldest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flows.steps.sql import identifier, literal

ENTITIES = "entities"  # the name under which the entity rows are registered
EVENT_TIMESTAMP = "event_timestamp"
NOTHING = 2**32 - 1  # numbers of rows are of 32 bits
NO_KEY = "__dummy_id"  # the key, always empty, that Feast wants of a table without keys
FILE_ORDER, ROW_ORDER = "file_index", "file_row_number"  # DuckDB's own columns of a row's file and its place there
LAST_WRITTEN_FIRST = f"{FILE_ORDER} DESC, {ROW_ORDER} DESC"


Span = tuple[datetime, datetime]  # from and to, both included


@dataclass(frozen=True)
class Source:
    """Parquet files that make one table, and its columns of event time and of creation."""

    files: tuple[str, ...]
    time: str
    created: str | None


@dataclass(frozen=True)
class View:
    """What the join needs of a feature view.

    ``keys`` pairs a column of the source with a column of the entity rows, ``features`` a column of the source with the
    name that it gets in the result. ``ttl`` None: values never expire.
    """

    source: Source
    keys: tuple[tuple[str, str], ...]
    features: tuple[tuple[str, str], ...]
    ttl: timedelta | None


def instant(moment: datetime) -> str:
    """Return a moment as an SQL literal; without zone it is UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return f"TIMESTAMPTZ {literal(aware.astimezone(UTC).isoformat())}"


def utc(column: str) -> str:
    """Return a time column (SQL) as TIMESTAMP WITH TIME ZONE; the session's zone is UTC."""
    return f"CAST({column} AS TIMESTAMPTZ)"


def seen(view: View, span: Span | None, known_at_the_time: bool) -> str:
    """Return the query for the rows of a view that entity rows of a span of moments can be joined with.

    Its columns are ``key_0`` and so on, ``value_0`` and so on, in the order of the view, ``time``, the event time, and
    ``seen``, the time from which the row counts (microseconds). With ``known_at_the_time`` a row counts only once it
    had been created.
    """
    return (_known if known_at_the_time and view.source.created else _newest)(view, span)


def join(views: Sequence[View], entity_keys: Sequence[str], used_at: str = "moment") -> str:
    """Return the query for the row of each view that counts for each of the ``entities``, all by their numbers.

    The table ``entities`` has the columns ``number``, ``moment`` (microseconds) and ``entity_0`` and so on, the join
    keys in the order of ``entity_keys``; the tables ``view_0`` and so on are those of ``seen`` with a ``number``. The
    result has ``entity``, ``view_0`` and so on; where no row counts, or one expired at ``used_at``, the number is ``NOTHING``.
    """
    chosen, joins = ["e.number AS entity"], []
    for number, view in enumerate(views):
        alias = f"view_{number}"
        on = [f"e.entity_{entity_keys.index(entity)} = {alias}.key_{i}" for i, (_, entity) in enumerate(view.keys)]
        joins.append(f"ASOF LEFT JOIN {alias} ON {' AND '.join([*on, f'e.moment >= {alias}.seen'])}")
        # DuckDB joins a row without moment to the newest of its key, hence a condition also where nothing expires.
        age = f"e.{used_at} - {alias}.time"
        valid = f"{age} <= {view.ttl // timedelta(microseconds=1)}" if view.ttl else f"{age} IS NOT NULL"
        chosen.append(f"CASE WHEN {valid} THEN {alias}.number ELSE CAST({NOTHING} AS UINTEGER) END AS {alias}")
    return f"SELECT {', '.join(chosen)} FROM {ENTITIES} AS e {' '.join(joins)}"


def occurrences(views: Sequence[View], span: Span) -> str:
    """Return the query for every key and event time that the views have in a span: entity rows where there is no frame.

    Of views with other keys, the keys that a view does not have are null.
    """
    parts = []
    for view in views:
        keys = [f"{identifier(column)} AS {identifier(entity)}" for column, entity in view.keys]
        moment = f"{utc(identifier(view.source.time))} AS {identifier(EVENT_TIMESTAMP)}"
        parts.append(f"SELECT {', '.join([moment, *keys])} {_rows(view.source, *span)}")
    return f"SELECT DISTINCT * FROM ({' UNION ALL BY NAME '.join(parts)})"


def between(source: Source, columns: Sequence[str], start: datetime | None, end: datetime | None) -> str:
    """Return the query for all rows from start to end (None: open), times in UTC; no columns means all."""
    special = {name: utc(identifier(name)) for name in (source.time, source.created) if name} | {NO_KEY: "''"}
    chosen = [f"{special.get(name, identifier(name))} AS {identifier(name)}" for name in columns]
    return f"SELECT {', '.join(chosen) or '*'} {_rows(source, start, end)}"


def latest(source: Source, keys: Sequence[str], columns: Sequence[str], start: datetime, end: datetime) -> str:
    """Return the query for the row of each key that counts at ``end``, of those from ``start`` to ``end``."""
    created = f"{utc(identifier(source.created))} DESC NULLS LAST, " if source.created else ""
    order = f"{utc(identifier(source.time))} DESC, {created}{LAST_WRITTEN_FIRST}"
    return f"{between(source, columns, start, end)} QUALIFY {_first(map(identifier, keys), order)}"


def _newest(view: View, span: Span | None) -> str:
    """Return the query for the row that counts of each key and event time, seen from its event time on."""
    keys, values = _names(view)
    order = f"{'created DESC NULLS LAST, ' if view.source.created else ''}{LAST_WRITTEN_FIRST}"
    first = _first([*keys, "time"], order)
    return f"SELECT {', '.join([*keys, *values])}, time, time AS seen {_renamed(view, span)} QUALIFY {first}"


def _known(view: View, span: Span | None) -> str:
    """Return the query for the rows that were ever the best known of their key, seen from when they became it.

    A row is there from ``seen``, the later of its event and its creation. Ranked by what counts (event time, creation,
    order of writing), it becomes the best known only if no row that was there before outranks it; all others can go.
    """
    keys, values = _names(view)
    chosen = ", ".join([*keys, *values, "time", "seen"])
    partition = f"PARTITION BY {', '.join(keys)} " if keys else ""
    rank = f"row_number() OVER ({partition}ORDER BY time, created, file_index, file_row_number)"
    ranked = (
        f"SELECT *, greatest(time, created) AS seen, {rank} AS rank {_renamed(view, span)} WHERE created IS NOT NULL"
    )
    best = f"max(rank) OVER ({partition}ORDER BY seen, rank DESC ROWS UNBOUNDED PRECEDING)"
    return f"SELECT {chosen} FROM ({ranked}) QUALIFY rank = {best}"


def _names(view: View) -> tuple[list[str], list[str]]:
    return [f"key_{i}" for i in range(len(view.keys))], [f"value_{i}" for i in range(len(view.features))]


def _renamed(view: View, span: Span | None) -> str:
    """Return the FROM for the rows of a view that a span of entity times can see, under names that cannot clash."""
    keys, values = _names(view)
    columns = [f"{identifier(column)} AS {name}" for (column, _), name in zip(view.keys, keys, strict=True)]
    columns += [f"{identifier(column)} AS {name}" for (column, _), name in zip(view.features, values, strict=True)]
    columns += [f"epoch_us({utc(identifier(view.source.time))}) AS time"]
    if view.source.created:
        columns += [f"epoch_us({utc(identifier(view.source.created))}) AS created"]
    start, end = (span[0] - view.ttl if view.ttl else None, span[1]) if span else (None, None)
    rows = " AND ".join(
        [_rows(view.source, start, end), *(f"{identifier(column)} IS NOT NULL" for column, _ in view.keys)]
    )
    return f"FROM (SELECT {', '.join(columns)}, file_index, file_row_number {rows})"


def _first(keys: Iterable[str], order: str) -> str:
    partition = ", ".join(keys)
    return f"row_number() OVER ({f'PARTITION BY {partition} ' if partition else ''}ORDER BY {order}) = 1"


def _rows(source: Source, start: datetime | None, end: datetime | None) -> str:
    """Return FROM and WHERE for the rows of the files from start to end, columns matched by name."""
    moment = utc(identifier(source.time))
    bounds = [f"{moment} >= {instant(start)}"] if start else []
    bounds += [f"{moment} <= {instant(end)}"] if end else []
    files = f"read_parquet([{', '.join(map(literal, source.files))}], union_by_name = true)"
    return f"FROM {files} WHERE {' AND '.join([f'{identifier(source.time)} IS NOT NULL', *bounds])}"
