"""How good a challenger is, on the part that judges: figures, slices, importance, beside baseline and champion."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from flows.spec import Frozen, ModelSpec
from flows.steps import metrics
from flows.steps.fitting import blame
from flows.steps.training_set import TrainingSet, matrix, read_part

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from flows.steps.champion import Champion
    from flows.steps.metrics import Floats

IMPORTANCE_ROWS = 1000
PARTS = ("train", "judge")


class Slice(Frozen):
    """The error on the rows of one slice; ``champion`` is None where there is none."""

    column: str
    value: str
    rows: int
    error: float
    baseline: float
    champion: float | None


class Evaluation(Frozen):
    """What is known of a challenger after judging; errors are smaller-is-better, in the unit of the metric.

    ``empty`` names the features that had no value in any row that trained, ``unseen`` counts the judging rows of each class
    that no row that trained has, ``champion_knew`` is the share of the judging rows that are no newer than what the
    champion was fitted on.
    """

    error: float
    train_error: float
    baseline_error: float
    champion_version: int | None
    champion_error: float | None
    interval: tuple[float, float]
    against_champion: tuple[float, float] | None
    judge_rows: int
    train_rows: int
    metrics: dict[str, float]
    train_metrics: dict[str, float]
    slices: tuple[Slice, ...]
    importance: dict[str, float]
    empty: tuple[str, ...] = ()
    unseen: dict[str, int] = Field(default_factory=dict)
    champion_knew: float = 0.0


@dataclass(frozen=True)
class Predicted:
    """One part of a training set with what the estimator says of it: values (n,), or class probabilities (n, classes)."""

    rows: pa.Table
    inputs: pd.DataFrame
    labels: Floats
    scores: Floats


def predict(spec: ModelSpec, estimator: Any, data: TrainingSet) -> tuple[Predicted, Predicted]:
    """Predict both parts of a training set, the one that trained and the one that judges.

    Raises ContractError if the estimator fails.
    """
    train, judge = (part(data, name) for name in PARTS)
    with blame(f"{type(estimator).__name__} was fitted, but failed to predict"):
        scores = [metrics.predict(estimator, spec.task, one.inputs) for one in (train, judge)]
    return replace(train, scores=scores[0]), replace(judge, scores=scores[1])


def part(data: TrainingSet, name: str, scores: Floats | None = None) -> Predicted:
    """Read one part of a training set; its scores are what is given, or empty."""
    rows = read_part(data, name)
    return Predicted(
        rows, matrix(rows, data.features), rows["label"].to_numpy(), np.empty(0) if scores is None else scores
    )


@dataclass(frozen=True)
class Losses:
    """The loss of each judging row, shape (n,): ours, what one would say without a model, and the champion's if any."""

    ours: Floats
    baseline: Floats
    theirs: Floats | None = None


def evaluate(
    spec: ModelSpec,
    estimator: Any,
    train: Predicted,
    judge: Predicted,
    champion: Champion,
    pictures: Path,
) -> Evaluation:
    """Judge a fitted estimator on the judging part and draw its pictures into a folder.

    The champion is scored on the same rows. The baseline is what one would say without a model: the mean of the
    training labels (for mae their median), or the class frequencies.
    """
    classes = getattr(estimator, "classes_", None)
    losses = judging_losses(spec, classes, train, judge)
    if champion.bundle is not None:
        manifest = champion.bundle.manifest
        scores = champion.bundle.scores(matrix(judge.rows, tuple(manifest.feature_names)))
        losses = replace(losses, theirs=metrics.row_losses(spec.metric, judge.labels, scores, manifest.classes))
    evaluation = measure(spec, classes, train, judge, losses)
    evaluation = beside(spec, evaluation, judge, losses, champion.version).model_copy(
        update={
            "importance": _importance(spec, estimator, judge.inputs, judge.labels, classes),
            "champion_knew": _share_until(judge.rows, champion.fitted_until),
        }
    )
    from flows.steps.pictures import draw_evaluation

    draw_evaluation(spec, evaluation, judge.labels, judge.scores, classes, pictures)
    return evaluation


def judging_losses(spec: ModelSpec, classes: Any, train: Predicted, judge: Predicted) -> Losses:
    """Return the losses of the judging rows, without a champion's."""
    naive = _naive(spec, train.labels, len(judge.labels), classes)
    return Losses(
        ours=metrics.row_losses(spec.metric, judge.labels, judge.scores, classes),
        baseline=metrics.row_losses(spec.metric, judge.labels, naive, classes),
    )


def measure(spec: ModelSpec, classes: Any, train: Predicted, judge: Predicted, losses: Losses) -> Evaluation:
    """Return the figures of a fitted estimator by itself: without champion, slices and importance."""
    trained = metrics.row_losses(spec.metric, train.labels, train.scores, classes)
    return Evaluation(
        error=metrics.error(spec.metric, losses.ours),
        train_error=metrics.error(spec.metric, trained),
        baseline_error=metrics.error(spec.metric, losses.baseline),
        champion_version=None,
        champion_error=None,
        interval=metrics.block_interval(
            spec.metric, losses.ours, None, _hours(judge), spec.gates.confidence, spec.training.seed
        ),
        against_champion=None,
        judge_rows=len(judge.labels),
        train_rows=len(train.labels),
        metrics=metrics.further_metrics(spec, judge.labels, judge.scores, classes),
        train_metrics=metrics.further_metrics(spec, train.labels, train.scores, classes),
        slices=(),
        importance={},
        empty=tuple(train.inputs.columns[train.inputs.isna().all()]),
        unseen=_unseen(classes, judge.labels),
    )


def beside(
    spec: ModelSpec, evaluation: Evaluation, judge: Predicted, losses: Losses, champion_version: int | None
) -> Evaluation:
    """Return the evaluation with its slices and, where ``losses`` has the champion's, how it does beside the champion."""
    found: dict[str, Any] = {"slices": tuple(_slices(spec, judge.inputs, losses.ours, losses.baseline, losses.theirs))}
    if losses.theirs is not None:
        found |= {
            "champion_version": champion_version,
            "champion_error": metrics.error(spec.metric, losses.theirs),
            "against_champion": metrics.block_interval(
                spec.metric, losses.ours, losses.theirs, _hours(judge), spec.gates.confidence, spec.training.seed
            ),
        }
    return evaluation.model_copy(update=found)


def _unseen(classes: Any, labels: Any) -> dict[str, int]:
    if classes is None:
        return {}
    import pandas as pd

    known = set(np.asarray(classes).tolist())
    return {str(name): int(rows) for name, rows in pd.Series(labels).value_counts().items() if name not in known}


def _share_until(rows: pa.Table, moment: datetime | None) -> float:
    """Return the share of rows that are no newer than a moment."""
    if moment is None:
        return 0.0
    import pyarrow.compute as pc

    return float(pc.mean(pc.less_equal(rows["event_timestamp"], moment)).as_py() or 0.0)


def _hours(judge: Predicted) -> Any:
    return judge.rows["event_timestamp"].to_numpy().astype("datetime64[h]").astype(np.int64)


def _naive(spec: ModelSpec, train_labels: Floats, rows: int, classes: Any) -> Floats:
    if spec.task == "regression":
        middle = np.median(train_labels) if spec.metric.name == "mae" else np.mean(train_labels)
        return np.full(rows, float(middle))
    shares = np.array([(train_labels == name).mean() for name in classes])
    return np.tile(shares, (rows, 1))


def _slices(
    spec: ModelSpec, inputs: pd.DataFrame, ours: Floats, baseline: Floats, theirs: Floats | None
) -> list[Slice]:
    return [
        Slice(
            column=column,
            value=value,
            rows=int(rows.sum()),
            error=metrics.error(spec.metric, ours[rows]),
            baseline=metrics.error(spec.metric, baseline[rows]),
            champion=metrics.error(spec.metric, theirs[rows]) if theirs is not None else None,
        )
        for column in spec.slices
        for value, rows in metrics.slices(inputs[column], spec.gates.slice_min_rows)
    ]


def _importance(
    spec: ModelSpec, estimator: Any, inputs: pd.DataFrame, labels: Floats, classes: Any
) -> dict[str, float]:
    """Permutation importance: how much the error grows when a column is shuffled (Breiman, Machine Learning 45, 2001).

    On at most 1,000 rows, three shuffles a column; all shuffled copies of a column are predicted in one call.
    """
    rng = np.random.default_rng(spec.training.seed)
    chosen = rng.choice(len(labels), min(IMPORTANCE_ROWS, len(labels)), replace=False)
    sample, truth = inputs.iloc[chosen], labels[chosen]

    def error(frame: pd.DataFrame, repeats: int) -> float:
        predicted = metrics.predict(estimator, spec.task, frame)
        return metrics.error(spec.metric, metrics.row_losses(spec.metric, np.tile(truth, repeats), predicted, classes))

    import pandas as pd

    plain = error(sample, 1)
    repeated = pd.concat([sample] * 3, ignore_index=True)
    found = {}
    for column in sample.columns:
        shuffled = repeated.copy()
        shuffled[column] = np.concatenate([rng.permutation(sample[column].to_numpy()) for _ in range(3)])
        found[str(column)] = error(shuffled, 3) - plain
    return dict(sorted(found.items(), key=lambda item: -item[1]))
