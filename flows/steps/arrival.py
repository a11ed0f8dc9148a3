"""Up to when the past of a row is there: rows of a period come with its file, all at once, and so long after it.

A request in the middle of a month sees features of the month's begin at best. Whatever judges, or answers a whole file, joins
rows so. What trains has a past of any such age: were it as old as the place of a row in its period, all rows of a period had
the same values, and a model would learn the periods by heart.
"""

from __future__ import annotations

from datetime import datetime, time
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.spec import ModelSpec
from flows.steps.periods import period_of

MOMENT = pa.timestamp("us", "UTC")


def arrived(spec: ModelSpec, times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return up to when the past had arrived at each of some times: the start of a local period, if ``spec.arrival`` is set."""
    if spec.arrival is None:
        return times
    zone = ZoneInfo(spec.source.time_zone)
    # Python's zones, for Arrow's know no daylight saving after 2037; by quarters of an hour, within which no day begins.
    since = pc.floor_temporal(pc.subtract(times.cast(MOMENT), pa.scalar(spec.arrival)), 15, "minute")
    known = pc.unique(since)
    days = [moment.astimezone(zone).date() for moment in known.to_pylist()]
    starts = [datetime.combine(period_of(spec.partition_by, day).start, time(), zone) for day in days]
    return pa.chunked_array([pa.array(starts, MOMENT)]).take(pc.index_in(since, known)).cast(times.type)


def drawn(spec: ModelSpec, times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return for each of some times a moment between it and what had arrived by then, the same of the same times."""
    if spec.arrival is None:
        return times
    own, there = (_micros(some) for some in (times, arrived(spec, times)))
    ages = np.random.default_rng(spec.training.seed).random(len(own)) * (own - there)
    return pa.chunked_array([pa.array(own - ages.astype(np.int64), pa.int64()).cast(MOMENT).cast(times.type)])


def _micros(times: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.asarray(times.cast(MOMENT).cast(pa.int64()).to_numpy(), dtype=np.int64)
