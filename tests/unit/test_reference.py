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
from flows.steps.answered import PREDICTION, with_answers
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
    assert {"x0", PREDICTION} <= drifted(rows(range(30, 35), 2, classes, shift=3.0))
