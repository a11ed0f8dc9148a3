"""Makes the compiled form of a fitted model and compares it with scikit-learn before it may serve."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.steps import metrics
from flows.steps.compiled import TOLERANCE, Compiled, difference, dump, load
from flows.steps.compiling import compile_estimator
from flows.steps.fitted_trees import CannotCompileError
from flows.steps.trusted import one_line

if TYPE_CHECKING:
    import pandas as pd

    from flows.steps.metrics import Floats

EDGE_ROWS = 2000
UNHEARD_OF = "\x00 no such word"


def compile_checked(estimator: Any, task: str, frame: pd.DataFrame, answers: Floats) -> tuple[bytes, float, str]:
    """Return the file of a model's compiled form, how far it is from scikit-learn, and why there is none (then b"").

    ``frame`` is the test set, ``answers`` what the estimator says of it. Compared are the form as it is read back from
    its file, on the whole test set, and on rows made of it whose values lie on thresholds, beside them, at the nearest
    float32, or are missing or unknown. A form that differs by more than ``TOLERANCE``, relative, is refused.
    """
    names = [str(name) for name in frame.columns]
    kinds = ["float" if frame[name].dtype.kind == "f" else "string" for name in names]
    words = {
        name: [word for word in frame[name].unique().tolist() if isinstance(word, str)]
        for name, kind in zip(names, kinds, strict=True)
        if kind == "string"
    }
    try:
        data = dump(compile_estimator(estimator, names, kinds, words))
        compiled = load(data, len(names), "the compiled form")
        far = max(difference(compiled.predict(_rows(frame)), answers), _edges(estimator, task, compiled, frame))
    except CannotCompileError as error:
        return b"", 0.0, f"there is no compiled form of {one_line(error)}"
    except Exception as error:  # noqa: BLE001 (scikit-learn's insides: whatever they are, scikit-learn itself serves)
        return b"", float("inf"), f"compiling failed ({type(error).__name__}: {one_line(error)})"
    if not far <= TOLERANCE:
        return b"", far, f"it differs from scikit-learn by {far:.2g} (relative, tolerated {TOLERANCE:g})"
    return data, far, ""


def edge_rows(compiled: Compiled, frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows of a frame with one value each at an edge: a threshold, its neighbours, missing, or unknown."""
    rng = np.random.default_rng(0)
    rows = frame.iloc[rng.integers(0, len(frame), EDGE_ROWS)].reset_index(drop=True)
    texts = set(compiled.program.words)
    columns = rng.integers(0, len(rows.columns), EDGE_ROWS)
    kinds = rng.integers(0, 7, EDGE_ROWS)
    values = {name: rows[name].to_numpy(copy=True) for name in rows}
    cuts = _cuts(compiled, frame)
    for row, (column, kind) in enumerate(zip(columns, kinds, strict=True)):
        name = rows.columns[column]
        if column in texts:
            values[name][row] = UNHEARD_OF if kind % 2 else None
        elif kind == 6 or not len(cuts[column]):
            values[name][row] = np.nan
        else:
            cut = cuts[column][rng.integers(len(cuts[column]))]
            near = np.float32(cut)
            around = (cut, np.nextafter(cut, -np.inf), np.nextafter(cut, np.inf))
            rounded = (near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf)))
            values[name][row] = float((*around, *rounded)[kind])
    made = rows.copy()
    for name, column in values.items():
        made[name] = column
    return made


def _cuts(compiled: Compiled, frame: pd.DataFrame) -> list[Any]:
    """Return for each column the values at which trees split; those of the test set where other steps come first."""
    trees = compiled.trees
    if trees is None or compiled.program.steps:
        return [np.unique(column[column == column]) for _, column in frame.items()]
    # An infinite threshold parts missing values from all others.
    numeric = (trees.feature >= 0) & (trees.category < 0) & np.isfinite(trees.threshold)
    return [np.unique(trees.threshold[numeric & (trees.feature == place)]) for place in range(len(frame.columns))]


def _edges(estimator: Any, task: str, compiled: Compiled, frame: pd.DataFrame) -> float:
    """Return the largest difference on edge rows; where scikit-learn refuses a row, the compiled form must do so too."""
    rows = edge_rows(compiled, frame)
    whole = _answers(estimator, task, rows)
    if whole is not None:
        return difference(compiled.predict(_rows(rows)), whole)
    largest = 0.0
    # Some kinds of rows are refused: tell them apart, a few are enough.
    for place in range(60):
        one = rows.iloc[place : place + 1]
        theirs = _answers(estimator, task, one)
        try:
            ours = compiled.predict(_rows(one))
        except ValueError:
            ours = None
        if (ours is None) != (theirs is None):
            return float("inf")
        if ours is not None and theirs is not None:
            largest = max(largest, difference(ours, theirs))
    return largest


def _answers(estimator: Any, task: str, rows: pd.DataFrame) -> Floats | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown categories
            return metrics.predict(estimator, task, rows)
    except ValueError:
        return None


def _rows(frame: pd.DataFrame) -> Sequence[Sequence[Any]]:
    if all(column.dtype.kind == "f" for _, column in frame.items()):
        return frame.to_numpy(dtype=np.float64)  # type: ignore[return-value]  # rows of an array are sequences
    return list(frame.itertuples(index=False, name=None))
