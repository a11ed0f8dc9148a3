"""The past that is replayed: its periods, and its rows with the features as they were known, joined once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from flows.errors import RefusedError, UsageError
from flows.ledger import Partition
from flows.settings import Settings
from flows.spec import Frozen, ModelSpec
from flows.steps import feature_store, storage
from flows.steps.arrival import arrived, drawn
from flows.steps.in_memory import connect
from flows.steps.labels import microseconds
from flows.steps.periods import Kind, Period, period_at, period_of, to_utc
from flows.steps.training_set import DRAWN, Window, choose_window, matrix, parted, read_rows

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore
    from numpy.typing import NDArray

WARM_UP = 0.25  # share of the history before the first period, if nobody says when to start
SEVERAL = 6  # periods that a comparison should have, if nobody says how long they are


class Step(Frozen):
    """One period of the replay: the model is decided on at ``start`` and serves until ``end``; both UTC."""

    key: str
    start: datetime
    end: datetime

    @property
    def days(self) -> float:
        """How long it lasts."""
        return (self.end - self.start) / timedelta(days=1)


def plan_steps(
    spec: ModelSpec, accepted: list[Partition], every: Kind | None, start: date | None, end: date | None
) -> tuple[Kind, list[Step]]:
    """Return the whole periods of a replay, and their kind: from the one that holds ``start`` to the one that holds ``end``.

    By default the first has a quarter of the accepted history before it, the last is the newest one that is whole; the
    kind is the longest that gives ``SEVERAL`` periods. Raises RefusedError without accepted partitions, UsageError for
    fewer than two periods.
    """
    known = [one for one in accepted if one.first_event and one.last_event]
    if not known:
        raise RefusedError(
            f"{spec.name}: no accepted partition to replay; run `evergreen ingest SOURCE --model {spec.name}`, or name "
            "the table with --data"
        )
    first = min(one.first_event for one in known if one.first_event)
    last = max(one.last_event for one in known if one.last_event)
    waiting = [one.key for one in known if one.featurized_at is None]
    if waiting:
        raise RefusedError(
            f"{spec.name}: the feature tables lack {len(waiting)} accepted partitions; run "
            f"`evergreen featurize --model {spec.name}` first"
        )
    begins = start or (first + (last - first) * WARM_UP + timedelta(days=1)).date()
    kinds: tuple[Kind, ...] = (every,) if every else ("month", "week", "day")
    for kind in kinds:
        steps = _steps(spec, kind, begins, start, end, last)
        if len(steps) >= SEVERAL:
            break
    if len(steps) < 2 or steps[0].start <= first:
        raise UsageError(
            f"{spec.name}: from {begins} to {end or last.date()} there are {len(steps)} whole {kind}s with data before "
            f"them; the accepted data spans {first:%Y-%m-%d} to {last:%Y-%m-%d}, so choose other --start, --end or --every"
        )
    return kind, steps


def _steps(
    spec: ModelSpec, every: Kind, begins: date, start: date | None, end: date | None, last: datetime
) -> list[Step]:
    period = period_of(every, begins)
    if start is None and period.start < begins:
        period = period_at(every, period.end)
    steps: list[Step] = []
    while True:
        step = _step(spec, period)
        # The hours after the newest event of a whole period are empty, as a rule.
        if (end and period.start > end) or step.end > last + spec.tick:
            break
        steps.append(step)
        period = period_at(every, period.end)
    return steps


def _step(spec: ModelSpec, period: Period) -> Step:
    start, end = (to_utc(datetime.combine(day, time()), spec.source.time_zone) for day in (period.start, period.end))
    return Step(key=period.key, start=start, end=end)


@dataclass(frozen=True)
class History:
    """All rows of a replay in order of event time, with their features; ``digest`` is that of their file, once it is kept."""

    spec: ModelSpec
    steps: list[Step]
    partitions: list[Partition]
    rows: pa.Table
    features: tuple[str, ...]
    digest: str = ""

    @cached_property
    def events(self) -> NDArray[np.int64]:
        """Event times in microseconds."""
        return microseconds(self.rows)

    @cached_property
    def known(self) -> NDArray[np.int64]:
        """When each label was known, in microseconds; the end of time where it never was."""
        times = self.rows["label_timestamp"].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        return np.asarray(times.fill_null(np.iinfo(np.int64).max).to_numpy(), dtype=np.int64)

    @cached_property
    def labels(self) -> Any:
        """The labels, shape (rows,)."""
        return self.rows["label"].to_numpy()

    @cached_property
    def inputs(self) -> pd.DataFrame:
        """What a model is asked with, one row each."""
        return matrix(self.rows, self.features)

    def place(self, moment: datetime) -> int:
        """Return the number of the first row at a moment or after it."""
        return int(np.searchsorted(self.events, micros(moment)))

    def span(self, step: int) -> slice:
        """Return the rows of a period."""
        return slice(self.place(self.steps[step].start), self.place(self.steps[step].end))

    def window(self, step: int, judge: timedelta | None = None) -> Window:
        """Return the window that a training at the start of a period has: of the rows whose label is known by then.

        It is chosen as a training chooses it, from the partitions as they were then. Raises RefusedError if there are
        too few.
        """
        now = micros(self.steps[step].start)
        before = np.flatnonzero((self.events < now) & (self.known <= now))
        if not len(before):
            raise RefusedError(f"{self.spec.name}: no label is known by {self.steps[step].key}; choose a later --start")
        newest = self.rows["event_timestamp"][int(before[-1])].as_py()
        there = [
            one.model_copy(update={"last_event": min(one.last_event, newest)})
            for one in self.partitions
            if one.first_event and one.last_event and one.first_event <= newest
        ]
        return choose_window(self.spec, there, judge)

    def known_by(self, step: int) -> pa.Table:
        """Return the rows whose label was known when a period began."""
        return self.rows.filter(pa.array(self.known <= micros(self.steps[step].start)))

    def from_first_model(self, judge: timedelta | None, settled: bool) -> History:
        """Return the replay from its first period on before which a model can be trained.

        Raises RefusedError if there is none with another one after it, or if the start is ``settled`` and is not it.
        """
        reason = ""
        for step in range(len(self.steps) - 1):
            try:
                parted(self.spec, self.known_by(step), self.window(step, judge))
            except RefusedError as error:
                reason = reason or str(error)
                continue
            if step and settled:
                raise RefusedError(
                    f"{reason}; or begin with --start {self.steps[step].start:%Y-%m-%d}, where there is enough"
                )
            return replace(self, steps=self.steps[step:])
        raise RefusedError(f"no two periods of the replay have enough before them, at the first: {reason}")


def _newest_known(partitions: list[Partition], moment: datetime) -> datetime | None:
    """Return the time of the newest event whose label was known at a moment."""
    with connect() as connection:
        found = connection.execute(
            "SELECT max(event_timestamp) FROM read_parquet($uris) WHERE label_timestamp <= $moment AND label IS NOT NULL",
            {"uris": [one.accepted_uri for one in partitions if one.accepted_uri], "moment": moment},
        ).fetchone()
    return found[0].astimezone(UTC) if found and found[0] else None


def micros(moment: datetime) -> int:
    """Return a moment in microseconds since 1970."""
    return round(moment.timestamp() * 1_000_000)


def read_history(
    settings: Settings,
    store: FeatureStore,
    spec: ModelSpec,
    accepted: list[Partition],
    steps: list[Step],
    judge: timedelta | None,
    settled: bool = False,
) -> History:
    """Join the rows of a replay with their features as they were known at each row, once for all windows.

    The replay begins where there is enough to train on; if its start is ``settled``, RefusedError says where that is.
    """
    partitions = storage.at_hand(
        settings, [one for one in accepted if one.first_event and one.first_event < steps[-1].end]
    )
    newest = _newest_known(partitions, steps[0].start)
    if newest is None:
        raise RefusedError(f"{spec.name}: no label is known by {steps[0].key}; choose a later --start")
    earliest = newest - (judge or spec.training.judge) - spec.training.window - spec.tick
    files = [one.accepted_uri for one in partitions if one.accepted_uri]
    rows = read_rows(spec, files, earliest, steps[-1].end)
    if not rows.num_rows:
        raise RefusedError(f"{spec.name}: no labelled row before {steps[-1].key}; choose other --start and --end")
    with feature_store.held_still(settings, spec.name):
        storage.pull(settings, settings.features(spec.name))
        joined = feature_store.historical(store, spec, rows, arrived(spec, rows["event_timestamp"]))
        names = tuple(feature_store.feature_names(store, spec))
        if spec.arrival is not None:  # a row trains in some windows and judges in others
            trained = feature_store.historical(store, spec, rows, drawn(spec, rows["event_timestamp"]))
            for name in names:
                joined = joined.append_column(DRAWN + name, trained[name])
    return History(spec, steps, partitions, joined.combine_chunks(), names).from_first_model(judge, settled)
