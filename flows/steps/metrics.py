"""Error figures as means of row losses, so that slices, days and bootstrap blocks add up without a second pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flows.errors import ContractError
from flows.spec import Metric, ModelSpec

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

RESAMPLES = 2000
FEW_BLOCKS = 10  # hours of which fewer say nothing of how much others may differ
GROUPS = 500  # into which the rows of fewer are dealt
SHOWN = 5  # classes that are named, of those that training never saw
SLICE_VALUES = 12  # a column of numbers with more values is cut into quarters


def predict(estimator: Any, spec_task: str, inputs: Any) -> Floats:
    """Return what the metric needs: values (n,) for regression, class probabilities (n, classes) otherwise.

    Raises ContractError for an answer of another shape, of which numpy would make a loss for each pair of rows.
    """
    values = spec_task == "regression"
    found = np.asarray(estimator.predict(inputs) if values else estimator.predict_proba(inputs), dtype=np.float64)
    shape = (len(inputs),) if values else (len(inputs), len(estimator.classes_))
    if found.shape != shape:
        name = f"{type(estimator).__name__}.{'predict' if values else 'predict_proba'}"
        raise ContractError(f"{name} of {len(inputs)} rows has the shape {found.shape}; let it return {shape}")
    return found


def row_losses(metric: Metric, labels: ArrayLike, predicted: Floats, classes: ArrayLike | None = None) -> Floats:
    """Return the loss of each row, shape (n,); a prediction that is not finite has an infinite loss."""
    y = np.asarray(labels)
    if metric.name == "rmse":
        losses = np.square(predicted - y)
    elif metric.name == "mae":
        losses = np.abs(predicted - y)
    else:
        hit = y[:, None] == np.asarray(classes)[None, :]
        if metric.name == "log_loss":
            chosen = np.where(hit, predicted, 0.0).sum(axis=1)
            losses = -np.log(np.clip(chosen, 1e-15, 1.0))
        elif metric.name == "brier":
            unseen = ~hit.any(axis=1)  # of a class that has no column, whose share is 0 where it should be 1
            losses = (np.square(predicted - hit).sum(axis=1) + unseen) / 2.0
        else:  # accuracy, as the share of misses, so that smaller is better inside
            losses = 1.0 - np.take_along_axis(hit, predicted.argmax(axis=1)[:, None], axis=1)[:, 0]
    numbers = np.isfinite(predicted) if predicted.ndim == 1 else np.isfinite(predicted).all(axis=1)
    return np.where(numbers & np.isfinite(losses), losses, np.inf)


def error(metric: Metric, losses: Floats) -> float:
    """Return the error of some rows, smaller is better: the root of the mean for rmse, else the mean."""
    mean = float(np.mean(losses)) if len(losses) else float("nan")
    return mean**0.5 if metric.name == "rmse" else mean


def unseen_text(unseen: dict[str, int]) -> str:
    """Return in words which classes no row that trained has, and how many judging rows are of them."""
    most = sorted(unseen, key=lambda name: -unseen[name])
    names = ", ".join(f"{name} {unseen[name]:,}" for name in most[:SHOWN]) + (", …" if len(most) > SHOWN else "")
    return f"{sum(unseen.values()):,} judging rows are of classes that no row that trained has ({names})"


def ratio(error: float, other: float) -> float:
    """Return an error over another: infinite if only the other is 0, 1 if both are, NaN if one of them is."""
    if other == 0:
        return 1.0 if error == 0 else error * float("inf")
    return error / other


def blocks_of(hours: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the number of the block that each row is resampled with, shape (n,).

    Rows of one hour stay together: errors of neighbouring rows are alike, and resampling single rows would promise too
    narrow an interval. A few hours, as monthly tables have, promise too narrow a one as well, a single hour one without
    width: their rows are dealt out to groups instead.
    """
    _, block = np.unique(hours, return_inverse=True)
    if len(hours) and block.max() + 1 >= FEW_BLOCKS:
        return np.asarray(block, dtype=np.int64)
    return np.random.default_rng(seed).permutation(len(hours)) % GROUPS


def block_interval(
    metric: Metric, ours: Floats, theirs: Floats | None, hours: NDArray[np.int64], confidence: float, seed: int
) -> tuple[float, float]:
    """Return the bootstrap interval of our error, or of ours minus theirs on the same rows.

    Rows stay together by ``blocks_of`` (block bootstrap: Carlstein, Annals of Statistics 14, 1986; paired as in Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993). Of an infinite loss there is none: both ends are no numbers.
    """
    if not all(np.isfinite(losses).all() for losses in (ours, theirs) if losses is not None):
        return float("nan"), float("nan")
    block = blocks_of(hours, seed)
    blocks = int(block.max()) + 1
    counts = np.bincount(block, minlength=blocks).astype(np.float64)
    weights = np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1.0 / blocks), size=RESAMPLES)
    rows = weights @ counts

    def errors(losses: Floats) -> Floats:
        means = (weights @ np.bincount(block, weights=losses, minlength=blocks)) / rows
        return np.sqrt(means) if metric.name == "rmse" else means

    figures = errors(ours) if theirs is None else errors(ours) - errors(theirs)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(figures, [tail, 1.0 - tail])
    return float(low), float(high)


def slices(values: pd.Series, least: int) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return the slices of a column that have so many rows: the name of each, in order of its values, and which rows are its.

    Rows without a value are in none.
    """
    import pandas as pd

    if pd.api.types.is_numeric_dtype(values) and values.nunique() > SLICE_VALUES:
        ends = values[np.isfinite(values)].agg(["min", "max"])
        values = pd.qcut(values.clip(*ends), 4, duplicates="drop")  # between infinities there are no quarters
    # Whole numbers are compared: texts, each value with all rows, would take minutes where there are thousands.
    codes, known = pd.factorize(values, sort=True)
    rows = np.bincount(codes[codes >= 0], minlength=len(known))
    names = (f"{one:.15g}" if isinstance(one, float) else str(one) for one in known)
    return [(name, codes == code) for code, name in enumerate(names) if rows[code] >= least]


def further_metrics(
    spec: ModelSpec, labels: ArrayLike, predicted: Floats, classes: ArrayLike | None
) -> dict[str, float]:
    """Return the usual figures of the task beside the deciding one, from scikit-learn.

    Of predictions that are not all finite, which it refuses, they are as bad as can be.
    """
    from sklearn import metrics

    finite = bool(np.isfinite(predicted).all())
    if spec.task == "regression":
        if not finite:
            middle = float(np.median(row_losses(Metric(name="mae"), labels, predicted)))
            return {"rmse": np.inf, "mae": np.inf, "median_absolute_error": middle, "r2": -np.inf}
        return {
            "rmse": float(metrics.root_mean_squared_error(labels, predicted)),
            "mae": float(metrics.mean_absolute_error(labels, predicted)),
            "median_absolute_error": float(metrics.median_absolute_error(labels, predicted)),
            "r2": float(metrics.r2_score(labels, predicted)),
        }
    chosen = np.asarray(classes)[predicted.argmax(axis=1)]
    figures = {
        # A class that was not in the training part has no probability; scikit-learn's own refuses it.
        "log_loss": float(np.mean(row_losses(Metric(name="log_loss"), labels, predicted, classes))),
        "accuracy": float(metrics.accuracy_score(labels, chosen)),
        "balanced_accuracy": float(metrics.balanced_accuracy_score(labels, chosen)),
    }
    if finite and spec.task == "binary" and len(np.unique(np.asarray(labels))) == 2:
        figures["roc_auc"] = float(metrics.roc_auc_score(labels, predicted[:, 1]))
    return figures
