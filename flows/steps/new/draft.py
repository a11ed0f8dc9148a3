"""What is decided for a new model: all that the templates of its files need, in plain values."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Literal

from flows.spec import Frozen
from flows.steps.new.wanted import Task
from flows.steps.periods import Kind


class Given(Frozen):
    """A column that the caller gives: ``name`` in requests, ``raw`` in the file, ``feature`` for the model, if it is one.

    ``low`` and ``high`` are its bounds with room around them; ``seen`` its values in the table, if they are few texts.
    """

    name: str
    raw: str
    type: Literal["int", "float", "string"]
    flag: bool
    required: bool
    example: int | float | str
    low: float | None = None
    high: float | None = None
    known: float = 1.0  # share of rows that have it
    seen: tuple[str, ...] = ()
    feature: str | None = None


class View(Frozen):
    """A feature view: its keys (none: all rows together) and how its features' names begin."""

    name: str
    prefix: str
    keys: tuple[str, ...]
    of: str


class Share(Frozen):
    """A class of the label and how its features' names end."""

    value: int | float | str
    name: str


class Draft(Frozen):
    """A model to be written."""

    name: str
    package: str
    definitions: str
    origin: str
    task: Task
    metric: str
    columns: dict[str, str]
    ignored: tuple[str, ...]
    layout: tuple[str, ...]
    numbered: str | None
    event_time: str
    time_columns: tuple[str, ...]
    time_form: str
    start: datetime | None
    every: timedelta | None
    zone: str
    label: str
    label_raw: str
    label_flag: bool
    label_bounds: tuple[float, float] | None
    label_middle: tuple[float, float] | None
    classes: tuple[Share, ...]  # those whose shares are features
    all_classes: tuple[int | float | str, ...]
    delay: timedelta
    example_time: str
    given: tuple[Given, ...]
    calendar: tuple[str, ...]  # names of the features of the moment itself
    key: tuple[str, ...]
    views: tuple[View, ...]
    slices: tuple[str, ...]
    slice_min_rows: int
    tick: timedelta
    within_days: bool  # whether rows tell more than their day
    gap: timedelta  # between two rows of an entity, where they lie further apart than a few ticks; else a tick
    short: timedelta
    long: timedelta
    window: timedelta
    judge: timedelta
    min_train_rows: int
    min_labels: int
    partition_by: Kind
    min_rows: int
    period_rows: int  # of a usual period
    params: dict[str, float | int]

    @property
    def tolerated(self) -> float:
        """The share of a period's rows that may break a row rule: two rows of a usual one, or a small one fails by one."""
        return min(0.5, math.ceil(100 * max(0.05, 2 / max(1, self.period_rows))) / 100)

    def presence(self, one: Given) -> float:
        """Return the share of rows that must have a value: with room below the one seen, for chance where rows are few."""
        chance = math.sqrt(one.known * (1 - one.known) / max(1, self.period_rows))
        return round(max(0.0, one.known - max(0.2, 4 * chance)), 2)

    @property
    def features(self) -> tuple[Given, ...]:
        """The given columns that the model sees."""
        return tuple(one for one in self.given if one.feature)

    @property
    def texts(self) -> tuple[str, ...]:
        """The features that are texts."""
        return tuple(one.feature for one in self.given if one.feature and one.type == "string")

    @property
    def unit(self) -> str:
        """How the windows' lengths end in names of features: d for days, h for hours."""
        return "d" if self.tick == timedelta(days=1) else "h"

    @property
    def short_name(self) -> str:
        """How the names of features of the shorter window end."""
        return f"{self.short // self.tick}{self.unit}"

    @property
    def long_name(self) -> str:
        """How the names of features of the longer window end."""
        return f"{self.long // self.tick}{self.unit}"

    @property
    def newest(self) -> timedelta:
        """How far back the newest rows lie whose label is known: one of an entity, where it has one a gap at whole days."""
        return self.delay + self.gap - (self.tick if self.gap > self.tick and not self.within_days else timedelta(0))

    @property
    def file(self) -> timedelta:
        """How much time a file holds at most."""
        return {"day": timedelta(days=1), "week": timedelta(days=7), "month": timedelta(days=31)}[self.partition_by]

    @property
    def held(self) -> timedelta:
        """How much time a file holds, nothing if it is a tick."""
        return self.file if self.file > self.tick else timedelta(0)

    @property
    def between_files(self) -> timedelta:
        """How long no file may come where one holds more than a tick, and more than one row of an entity; else nothing."""
        return self.file if self.file > self.gap else timedelta(0)

    @property
    def without_labels(self) -> timedelta:
        """How long a file may wait for its labels: one without any is no partition, and no tick follows it."""
        return self.delay if self.delay > 2 * self.tick else timedelta(0)

    @property
    def arrival(self) -> timedelta | None:
        """How long after the end of its period a file is there with its labels; None if it holds no more than a tick."""
        return self.without_labels if self.held or self.without_labels else None

    @property
    def valid_for(self) -> timedelta:
        """How long a past holds: seven ticks or gaps, and as long as no file comes, or none that has labels."""
        return 7 * self.gap + self.between_files + self.without_labels
