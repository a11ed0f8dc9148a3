"""Periods of local time and their keys: days ``2024-01-31``, ISO weeks ``2024-W05``, months ``2024-01``."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Literal, cast, get_args
from zoneinfo import ZoneInfo

from flows.errors import ContractError, UsageError
from flows.spec import Frozen

Kind = Literal["day", "week", "month"]

_EARLIEST = datetime(1900, 1, 1)  # noqa: DTZ001 (local times, without zone on purpose)
_LATEST = datetime(2100, 1, 1)  # noqa: DTZ001 (the same)


def parse_kind(text: str) -> Kind:
    """Return the kind of period that a person named; raises UsageError for another word."""
    for kind in get_args(Kind):
        if text == kind:
            return cast(Kind, kind)
    raise UsageError(f"partitions by {text!r} are not known; use {', '.join(get_args(Kind))}")


class Period(Frozen):
    """One period, [start, end) in local days."""

    kind: Kind
    start: date
    end: date

    @property
    def key(self) -> str:
        """Return the partition key."""
        if self.kind == "day":
            return self.start.isoformat()
        if self.kind == "month":
            return self.start.isoformat()[:7]
        year, week, _ = self.start.isocalendar()
        return f"{year:04d}-W{week:02d}"


def period_at(kind: Kind, start: date) -> Period:
    """Return the period that starts on a day; a week starts on Monday, a month on its first."""
    days = {"day": 1, "week": 7, "month": 32}[kind]
    end = start + timedelta(days=days)
    end = end.replace(day=1) if kind == "month" else end
    return Period(kind=kind, start=start, end=end)


@lru_cache(maxsize=4096)
def period_of(kind: Kind, day: date) -> Period:
    """Return the period in which a day lies."""
    if kind == "week":
        day -= timedelta(days=day.weekday())
    return period_at(kind, day.replace(day=1) if kind == "month" else day)


def parse_key(key: str) -> Period | None:
    """Return the period that a partition key names, or None for the key of a batch without periods."""
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", key):
            return period_at("day", date.fromisoformat(key))
        if re.fullmatch(r"\d{4}-W\d\d", key):
            return period_at("week", date.fromisocalendar(int(key[:4]), int(key[6:]), 1))
        if re.fullmatch(r"\d{4}-\d\d", key):
            return period_at("month", date.fromisoformat(f"{key}-01"))
    except ValueError:
        return None
    return None


def nearest(day: date, starts: list[date]) -> date:
    """Return the one of the sorted ``starts`` that is nearest to a day; of two equally near, the earlier."""
    right = bisect_left(starts, day)
    around = starts[max(0, right - 1) : right + 1]
    return min(around, key=lambda start: (abs((start - day).days), start))


def batch_key(name: str) -> str:
    """Return the key of a batch that cannot be split by time, from its file's name; safe as a file name."""
    stem = re.sub(r"(\.csv)?\.(parquet|csv|gz)$", "", name, flags=re.IGNORECASE)
    return "batch-" + (re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "unnamed")[:60]


# --- local time to UTC --------------------------------------------------------------------------------------------


def utc_sql(column: str, zone: str, times: Iterable[datetime | None], plus: timedelta = timedelta(0)) -> str:
    """Return SQL that reads a local TIMESTAMP expression in a zone: a TIMESTAMP WITH TIME ZONE, ``plus`` later.

    ``times`` are the least and the greatest values that occur. As Python's zoneinfo with ``fold=0``: a time that
    occurs twice (clocks set back) is its first occurrence; one that never occurs (clocks set forward) is read with the
    offset from before, so it comes out an hour later on the clock. A plain CASE over the offsets in force is 15 times
    as fast as DuckDB's ``timezone()``.
    """
    known = [time for time in times if time is not None]
    pieces = _offsets(zone, min(known, default=_EARLIEST), max(known, default=_EARLIEST))
    *later, first = reversed(pieces)  # the newest first: most rows are new
    cases = "".join(f" WHEN {column} >= TIMESTAMP '{start}' THEN {_micros(plus - offset)}" for start, offset in later)
    last = _micros(plus - first[1])
    shift = f"CASE{cases} ELSE {last} END" if later else str(last)
    return f"make_timestamptz(epoch_us({column}) + ({shift}))"


def _offsets(zone: str, low: datetime, high: datetime) -> list[tuple[datetime, timedelta]]:
    """Return the pieces (from this local time on, offset from UTC) that cover [low, high]."""
    low, high = (min(max(time, _EARLIEST), _LATEST) for time in (low, high))
    offset = offset_of(zone)
    pieces = [(low, offset(low))]
    day = timedelta(days=1)
    before = low
    while before < high:
        after = min(before + day, high)
        if offset(after) != offset(before):
            pieces.append((_change(zone, before, after), offset(after)))
        before = after
    return pieces


def _change(zone: str, before: datetime, after: datetime) -> datetime:
    """Return the first whole second in (before, after] at which the offset is that of ``after``."""
    offset = offset_of(zone)
    before, after = before.replace(microsecond=0), after.replace(microsecond=0) + timedelta(seconds=1)
    target = offset(after)
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=(after - before) // timedelta(seconds=2))
        before, after = (before, middle) if offset(middle) == target else (middle, after)
    return after


@lru_cache(maxsize=32)
def offset_of(zone: str) -> Callable[[datetime], timedelta]:
    """Return the function local time -> offset from UTC of a zone; raises ContractError for one that is not known."""
    try:
        info = ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as error:
        raise ContractError(
            f"time zone {zone!r} is not known; set source.time_zone to an IANA name such as UTC"
        ) from error
    return lambda local: local.replace(tzinfo=info, fold=0).utcoffset() or timedelta(0)


def to_utc(local: datetime, zone: str) -> datetime:
    """Return a local time as UTC, by the rule of ``utc_sql``."""
    return (local - offset_of(zone)(local)).replace(tzinfo=UTC)


def _micros(offset: timedelta) -> int:
    return offset // timedelta(microseconds=1)
