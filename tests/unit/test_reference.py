"""What a model is compared with later: its answers on rows that it was not fitted on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor

from flows.models.taxi.spec import spec as taxi
from flows.spec import Metric, Triggers
from flows.steps import drift, reference
from flows.steps.answered import PREDICTION, PROBABILITIES, with_answers
from flows.steps.evaluation import Predicted

START = datetime(2024, 1, 1, tzinfo=UTC)
FEATURES = [f"x{n}" for n in range(8)]


def rows(days: range, seed: int, classes: bool, per_day: int = 40, shift: float = 0.0) -> pa.Table:
    """Return rows whose label is mostly noise: a model that is fitted to them closely knows little of the next ones."""
    rng = np.random.default_rng(seed)
    day = np.repeat(np.array(days), per_day)
    values = rng.normal(size=(len(day), len(FEATURES)))
    values[:, 0] += shift
    label = values[:, 0] + 3.0 * rng.normal(size=len(day))
    times = np.datetime64(START.replace(tzinfo=None), "us") + 1_000_000 * (
        day * 86_400 + rng.integers(0, 86_400, len(day))
    )
    return pa.table(
        dict(zip(FEATURES, values.T, strict=True))
        | {"event_timestamp": pa.array(times).cast(pa.timestamp("us", "UTC"))}
        | {"label": np.where(label > 2.5, "high", "low") if classes else label}
    )


def answers(estimator, table: pa.Table, classes: bool) -> np.ndarray:
    inputs: pd.DataFrame = table.select(FEATURES).to_pandas()
    return estimator.predict_proba(inputs) if classes else estimator.predict(inputs)


@pytest.mark.parametrize(
    ("estimator", "classes"),
    [
        (HistGradientBoostingRegressor(random_state=0), False),
        (RandomForestRegressor(50, random_state=0), False),
        (RandomForestClassifier(50, random_state=0), True),
    ],
)
def test_a_model_that_knows_its_training_rows_too_well_has_not_drifted_from_its_first_day_on(
    estimator, classes: bool, tmp_path: Path
) -> None:
    spec = taxi.model_copy(update={"slices": (), "triggers": Triggers()})
    if classes:
        spec = spec.model_copy(update={"task": "binary", "metric": Metric(name="log_loss")})
    train, judge = rows(range(25), 0, classes), rows(range(25, 30), 1, classes)
    estimator.fit(train.select(FEATURES).to_pandas(), train["label"].to_numpy())
    parts = [
        Predicted(part, part.select(FEATURES).to_pandas(), part["label"].to_numpy(), answers(estimator, part, classes))
        for part in (train, judge)
    ]
    known = reference.build(spec, SimpleNamespace(features=tuple(FEATURES)), estimator, *parts)

    def drifted(later: pa.Table) -> set[str]:
        said = with_answers(later, answers(estimator, later, classes), estimator.classes_ if classes else None)
        return {one.feature for one in drift.compare(known.drift, said, spec.triggers) if one.drifted}

    calm = [drifted(rows(range(day, day + 5), day, classes)) for day in range(30, 80, 5)]
    assert not any(calm), calm
    moved = "probability of low" if classes else PREDICTION
    assert {"x0", moved} <= drifted(rows(range(30, 35), 2, classes, shift=3.0))


def test_the_probability_of_a_rare_class_is_watched_though_the_answer_is_always_the_other() -> None:
    def said(days: int, rate: float, seed: int) -> pa.Table:
        rng = np.random.default_rng(seed)
        rare = rng.beta(2, 2 / rate, days * 200)
        table = rows(range(days), seed, classes=True, per_day=200)
        return with_answers(table, np.column_stack([1 - rare, rare]), ["no", "yes"])

    known = drift.Reference(
        rows=2000, start=START, end=START, columns=drift.held_out(said(5, 0.01, 1), said(10, 0.01, 2))
    )
    calm, moved = (drift.compare(known, said(2, rate, 3)) for rate in (0.01, 0.03))
    assert [(one.feature, one.drifted, one.missing) for one in calm] == [("probability of yes", False, 0.0)]
    assert [one.drifted for one in moved] == [True]
    assert drift.compare(known, said(2, 0.03, 3), Triggers(drift_columns=(PREDICTION,)))[0].drifted
    unlogged = pa.nulls(400, pa.map_(pa.string(), pa.float64()))
    assert (
        drift.compare(known, said(2, 0.01, 3).drop_columns([PROBABILITIES]).append_column(PROBABILITIES, unlogged))
        == []
    )


def test_of_many_classes_the_probability_that_moved_farthest_speaks_for_all() -> None:
    def said(days: int, weights: list[float], seed: int) -> pa.Table:
        table = rows(range(days), seed, classes=True, per_day=200)
        return with_answers(table, np.random.default_rng(seed).dirichlet(weights, days * 200), ["a", "b", "c"])

    known = drift.held_out(said(5, [5, 4, 3], 1), said(10, [5, 4, 3], 2))
    assert [column.of for column in known] == ["a", "b", "c"]
    reference = drift.Reference(rows=2000, start=START, end=START, columns=known)
    (calm,) = drift.compare(reference, said(2, [5, 4, 3], 3))
    (moved,) = drift.compare(reference, said(2, [5, 4, 9], 3))
    assert (calm.drifted, moved.drifted, moved.feature) == (False, True, "probability of c")
