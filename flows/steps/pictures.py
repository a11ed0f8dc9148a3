"""The pictures of a model: residuals, calibration, importance, slices; PNG files that MLflow and the reports show."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.spec import ModelSpec
from flows.steps import pages

if TYPE_CHECKING:
    from flows.steps.evaluation import Evaluation
    from flows.steps.metrics import Floats

INK, ACCENT, QUIET = "#22332b", "#2f7d5b", "#b9c7bf"


def figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """Return a figure and its axes, drawn without a screen, in the house's look."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, labelsize=8)
    return drawing, axes


def png(drawing: Any) -> bytes:
    """Return a figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=140)
    return buffer.getvalue()


def embedded(name: str, picture: bytes) -> str:
    """Return a picture as Markdown that needs no file beside it."""
    return f"![{name}]({pages.embedded(picture)})"


def shown_class(labels: Floats, classes: Any) -> int:
    """Return the place of the class that is drawn: of two the second, of more the most frequent of the rows that judge."""
    if len(classes) == 2:
        return 1
    return int(np.argmax([np.count_nonzero(labels == one) for one in np.asarray(classes)]))


def draw_evaluation(
    spec: ModelSpec, evaluation: Evaluation, labels: Floats, predicted: Floats, classes: Any, folder: Path
) -> None:
    """Draw ``judging.png`` (residuals and calibration) and ``features.png`` (importance and slices) into a folder.

    Rows whose prediction is not finite have no place in the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = np.isfinite(predicted) if predicted.ndim == 1 else np.isfinite(predicted).all(axis=1)
    labels, predicted = labels[known], predicted[known]
    drawing, ((left, right),) = figure(1, 2, 9, 3.6)
    unit = f" ({spec.label.unit})" if spec.label.unit else ""
    if spec.task == "regression":
        residuals = predicted - labels
        low, high = np.quantile(residuals, [0.005, 0.995]) if len(residuals) else (0.0, 1.0)
        left.hist(residuals, bins=60, range=(low, max(high, low + 1e-9)), color=ACCENT)
        left.axvline(0, color=INK, linewidth=1)
        left.set_title("Residuals: predicted minus true" + unit, fontsize=9, color=INK)
        # Calibration: in each twentieth of the predictions, is the mean truth the mean prediction?
        order = np.array_split(np.argsort(predicted, kind="stable"), min(20, len(predicted))) if len(predicted) else []
        x, y = [predicted[part].mean() for part in order], [labels[part].mean() for part in order]
        right.set_title("Calibration: mean truth by mean prediction" + unit, fontsize=9, color=INK)
    else:
        shown = shown_class(labels, classes)
        chance = predicted[:, shown]
        hit = (labels == np.asarray(classes)[shown]).astype(float)
        left.hist(
            [chance[hit == 0], chance[hit == 1]], bins=30, color=[QUIET, ACCENT], label=["others", str(classes[shown])]
        )
        left.legend(fontsize=8, frameon=False)
        left.set_title(f"Probability of {classes[shown]}", fontsize=9, color=INK)
        order = np.array_split(np.argsort(chance, kind="stable"), min(10, len(chance))) if len(chance) else []
        x, y = [chance[part].mean() for part in order], [hit[part].mean() for part in order]
        right.set_title("Calibration: share of hits by mean probability", fontsize=9, color=INK)
    ends = [min([*x, *y], default=0.0), max([*x, *y], default=1.0)]
    right.plot(ends, ends, color=QUIET, linewidth=1)
    right.plot(x, y, "o-", color=ACCENT, markersize=3, linewidth=1)
    drawing.savefig(folder / "judging.png", dpi=110)

    drawing, ((left, right),) = figure(1, 2, 9, 0.22 * max(len(evaluation.importance), 8) + 1.2)
    names = list(evaluation.importance)[::-1]
    left.barh(names, [evaluation.importance[name] for name in names], color=ACCENT)
    left.set_title(f"Importance: {spec.metric.error} lost by shuffling", fontsize=9, color=INK)
    parts = evaluation.slices[::-1]
    position = np.arange(len(parts))
    right.barh(position, [part.error for part in parts], 0.6, color=ACCENT, label="challenger")
    if any(part.champion is not None for part in parts):
        right.plot([part.champion for part in parts], position, "|", color=INK, markersize=9, label="champion")
    right.set_yticks(position, [f"{part.column} = {part.value}" for part in parts])
    right.set_title(f"{spec.metric.error} by slice", fontsize=9, color=INK)
    if parts:
        right.legend(fontsize=8, frameon=False)
    drawing.savefig(folder / "features.png", dpi=110)
