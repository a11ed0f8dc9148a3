"""What a team says of a model, as frozen data: everything in ``flows`` works on a ``ModelSpec`` and knows no model by name."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
PolicyName = Literal[
    "spec", "never", "every-period", "new-data", "drift", "performance", "adwin", "ddm", "page-hinkley",
    "cara-threshold", "cara-cumulative", "cara-periodic", "retrainopt-base", "retrainopt-learned", "cost-aware",
]  # fmt: skip


class Frozen(BaseModel):
    """A value parsed once: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RequestField(Frozen):
    """One field of a prediction request, with the bounds that the service enforces.

    A timestamp whose ``example`` is a day, ``2022-01-25``, may be sent as one; it is the midnight at which the day begins.
    """

    name: str
    type: Literal["int", "float", "string", "timestamp"]
    description: str
    example: Any
    minimum: float | None = None
    maximum: float | None = None
    required: bool = Field(
        default=True,
        description="False: it may be null, or left out, where the caller does not know it; a time may not",
    )


class Source(Frozen):
    """The raw table: its columns in order, and how time is told in it.

    ``columns`` maps each column to its DuckDB type. ``ignored`` columns may be present and are dropped on landing.
    ``layouts`` are other orders of columns that are known to come; any other order is refused. ``time_zone`` is the
    IANA zone that a time without one means. ``numbered`` names a column of ``columns`` (BIGINT) that no file has: the
    number of the row in its source from 0, where the order of the rows stands for their time; such a file may only grow.
    """

    columns: dict[str, str]
    ignored: tuple[str, ...] = ()
    layouts: tuple[tuple[str, ...], ...] = ()
    event_time: str
    time_zone: str
    numbered: str | None = None
    min_rows: int = Field(default=100, ge=1, description="a period with fewer rows in a batch is no partition")
    tolerated: float = Field(
        default=0.05, ge=0, lt=1, description="share of rows without event time, with infinite values or a repeated key"
    )
    row_factor: float = Field(
        default=10.0, gt=1, description="with so many times the usual rows, or so many times fewer, refuse"
    )


class Label(Frozen):
    """What is predicted, and which rows count: those with ``low <= label <= high``."""

    name: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    delay: timedelta = Field(
        default=timedelta(0), description="from the event that fixes the label until it is in the lake"
    )


class Metric(Frozen):
    """The metric by which a model is judged, against the baseline and against the champion."""

    name: Literal["rmse", "mae", "log_loss", "brier", "accuracy"]

    @property
    def error(self) -> str:
        """Return the name of the error that is computed and shown, of which less is better."""
        return "share of misses" if self.name == "accuracy" else self.name


class Gates(Frozen):
    """Thresholds of model validation; each is one gate, none is optional."""

    baseline_ratio: float = Field(default=0.9, gt=0, description="error at most this share of the naive baseline's")
    champion_tolerance: float = Field(
        default=0.0,
        ge=0,
        description="error may exceed the champion's by this share at most, at the interval's lower end",
    )
    slice_tolerance: float = Field(default=0.10, ge=0, description="no slice's error may exceed the champion's by more")
    slice_min_rows: int = Field(default=100, ge=1)
    prediction_tolerance: float = Field(default=1e-9, ge=0, description="relative; serialized against fitted")
    latency_ms: float = Field(default=20.0, gt=0, description="median of one row in the serving process")
    confidence: float = Field(default=0.95, gt=0.5, lt=1)


class Costs(Frozen):
    """What a team loses, in one currency: by a training, and by one unit of the metric's error in one prediction."""

    training: float = Field(ge=0)
    error: float = Field(default=1.0, ge=0)


class Triggers(Frozen):
    """When a retraining is due."""

    policy: PolicyName = Field(
        default="spec",
        description="spec: by all the thresholds below; any other name is a policy that `evergreen backtest` compares",
    )
    new_partitions: int | None = Field(
        default=7, ge=1, description="so many partitions accepted since the last training ask for one; None: never"
    )
    new_rows: int | None = Field(default=None, ge=1, description="so many accepted rows do; None: never")
    expected_every: timedelta | None = Field(
        default=None, description="a partition is expected to be accepted so often, by the wall clock"
    )
    max_champion_age: timedelta | None = Field(
        default=None, description="the champion is stale when it was promoted so long ago, by the wall clock"
    )

    performance_ratio: float = Field(
        default=1.10,
        gt=1,
        description="error over what the champion's test lets one expect, at the interval's lower end",
    )
    drift_effect: float = Field(
        default=0.2, gt=0, description="Jensen-Shannon distance from which a feature has drifted"
    )
    drift_features: int = Field(default=1, ge=1, description="how many features must have drifted")
    drift_columns: tuple[str, ...] = Field(
        default=(),
        description="features, prediction (of classes: their probabilities) and label that may ask for a retraining; empty "
        "for all. Name those that "
        "stay put by themselves: an average over the past wanders with every day that it takes in",
    )
    missing_rise: float = Field(
        default=0.2, gt=0, le=1, description="a feature missing in so much more rows than at training is a data problem"
    )
    window_days: int = Field(default=7, ge=1, description="the newest days of events that performance is measured on")
    drift_days: int = Field(default=2, ge=1, description="the newest whole days of them that drift is measured on")
    min_labels: int = Field(default=500, ge=1)
    max_age: timedelta | None = Field(
        default=None, description="the champion is stale when newer data is so far past it"
    )
    cool_down: timedelta = Field(default=timedelta(0), description="least time from one training to the next")


class Training(Frozen):
    """The training window and the part of it that judges."""

    window: timedelta = timedelta(days=35)
    judge: timedelta = timedelta(days=2)
    min_rows: int = Field(default=1000, ge=10)
    max_rows: int | None = Field(
        default=None,
        ge=10,
        description="the budget of the training part; of more, those with the lowest hashes of their keys train",
    )
    trials: int = Field(
        default=0, ge=0, description="optuna trials inside the training window; 0 uses params as they are"
    )
    together: int = Field(
        default=1,
        ge=1,
        description="trials that are chosen at once, and on a Spark cluster fitted at once; the result is the same",
    )
    seed: int = 0
    threads: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _budget_reaches(self) -> Self:
        if self.max_rows is not None and self.max_rows < self.min_rows:
            raise ValueError(
                f"max_rows ({self.max_rows}) is below min_rows ({self.min_rows}): nothing could be trained"
            )
        return self


class Rollout(Frozen):
    """How a challenger meets the traffic before it is promoted, as shadow or as canary, and what ends that."""

    share: float = Field(default=0.1, gt=0, lt=1, description="of the requests that a canary answers")
    sticky: tuple[str, ...] = Field(
        default=(),
        description="request fields that decide who answers: the same values, the same version; empty: the key",
    )
    min_labels: int = Field(default=500, ge=20, description="labelled answers of the challenger before it is promoted")
    tolerance: float = Field(
        default=0.05, ge=0, description="its error on them may exceed the champion's by this share of it"
    )
    max_error_rate: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="share of its requests that may fail or be late: the champion answers those",
    )
    forgiven: int = Field(default=2, ge=0, description="so many failures end nothing, whatever their share")
    deadline_ms: float = Field(default=250.0, gt=0, description="a request that takes the challenger longer is late")
    latency_ratio: float = Field(default=3.0, gt=1, description="its median time over the champion's")
    latency_ms: float = Field(default=5.0, gt=0, description="a median below this is never too slow")
    longest: timedelta = Field(default=timedelta(days=14), description="without a verdict by then, it has failed")


class ModelSpec(Frozen):
    """All that Evergreen knows of a model.

    Dotted paths (``module:attribute``) name the researcher's code: ``rows`` turns the raw table into event rows,
    ``expectations`` returns the Great Expectations suite, ``feature_tables`` the ibis expressions by view, ``estimator``
    the factory ``build(params) -> estimator`` and ``search_space`` its optional ``suggest(trial) -> params``.
    """

    name: str
    description: str
    owner: str
    task: Literal["regression", "binary", "multiclass"]
    source: Source
    label: Label
    key: tuple[str, ...] = Field(
        description="columns that together name one row; a prediction and its label meet on them"
    )
    request: tuple[RequestField, ...]
    entities: dict[str, tuple[str, ...]] = Field(
        description="feature view -> its join keys, all of them request fields"
    )
    definitions: str = Field(description="module with the model's Feast definitions")
    feature_service: str
    rows: str
    expectations: str
    feature_tables: str
    estimator: str
    search_space: str | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    metric: Metric
    slices: tuple[str, ...] = Field(default=(), description="feature columns by whose values the error is reported")
    skew_sample: int = Field(
        default=300,
        ge=1,
        description="answered rows whose features are recomputed by each monitoring; of 300, a fault that touches one "
        "row in a hundred is missed once in twenty times",
    )
    tick: timedelta = Field(default=timedelta(days=1), description="how often feature values are computed")
    history: timedelta = Field(default=timedelta(days=28), description="longest window that a feature looks back")
    training: Training = Training()
    gates: Gates = Gates()
    triggers: Triggers = Triggers()
    costs: Costs | None = Field(default=None, description="policies that weigh costs need them")
    partition_by: Literal["day", "week", "month"] = "day"
    arrival: timedelta | None = Field(
        default=None,
        ge=timedelta(0),
        description="how long after the end of its period a partition is there with its labels: whatever judges gives a row "
        "the past of the periods that had come by then, as serving will, and what trains a past of any age up to that. None "
        "where rows come from tick to tick: then it is all that was before the row",
    )
    history_data: str | None = Field(
        default=None,
        description="file, folder, glob or URL with rows of the past, or package.module:function that returns them as a "
        "data frame; the demo and the backtest replay them",
    )
    promotion: Literal["automatic", "approve", "manual", "shadow", "canary"] = Field(
        default="automatic",
        description="what passed its gates is promoted at once, after a person's word, by a person, or after it has "
        "proved itself on the traffic: as canary, or as shadow and then as canary",
    )
    rollout: Rollout = Rollout()

    @field_validator("tick")
    @classmethod
    def _on_the_clock(cls, tick: timedelta) -> timedelta:
        # Counted from each midnight: others would fall on other hours, or days, as data before them came.
        if tick <= timedelta(0) or timedelta(days=1) % tick:
            raise ValueError("it is no day and no whole part of one; write timedelta(days=1) or timedelta(hours=1)")
        return tick

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(f"model name {name!r} must match {NAME.pattern}: it becomes a folder, a table and a page")
        return name
