"""The trees inside scikit-learn's fitted ensembles as plain arrays: HistGradientBoosting, forests, GradientBoosting."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.steps.trees import CATEGORIES, Floats, Trees


class CannotCompileError(Exception):
    """An estimator, or a setting of one, that has no compiled form; the message names it."""


def boosted(model: Any) -> tuple[Trees, Floats, str]:
    """Return the trees of a HistGradientBoosting, what is added to them, and what is done with the sum."""
    link = type(model._loss.link).__name__
    heads = {"IdentityLink": "identity", "LogLink": "exp", "LogitLink": "sigmoid", "MultinomialLogit": "softmax"}
    if link not in heads:
        raise CannotCompileError(f"HistGradientBoosting with the link {link}")
    known, indices = model._bin_mapper.make_known_categories_bitsets()
    outputs = len(model._predictors[0])
    parts = []
    for iteration in model._predictors:
        for output, tree in enumerate(iteration):
            nodes = tree.nodes
            leaf = nodes["is_leaf"].astype(bool)
            categorical = nodes["is_categorical"].astype(bool) & ~leaf
            sets = [
                _goes_left(
                    tree.raw_left_cat_bitsets[node["bitset_idx"]], known[indices[node["feature_idx"]]],
                    bool(node["missing_go_to_left"]),
                )
                for node in nodes[categorical]
            ]  # fmt: skip
            category = np.full(len(nodes), -1)
            category[categorical] = np.arange(len(sets))
            value = np.zeros((len(nodes), outputs))
            value[leaf, output] = nodes["value"][leaf]
            parts.append(
                _Tree(
                    leaf, nodes["feature_idx"], nodes["num_threshold"], nodes["left"], nodes["right"],
                    nodes["missing_go_to_left"], category, sets, value,
                )
            )  # fmt: skip
    return _joined(parts), np.asarray(model._baseline_prediction, dtype=np.float64).ravel(), heads[link]


def _goes_left(left: NDArray[np.uint32], known: NDArray[np.uint32], missing: bool) -> NDArray[np.bool_]:
    """Return for each code whether it goes left; one that training did not know goes where missing values go."""
    codes = np.arange(CATEGORIES)
    in_left, in_known = (
        ((bits[codes // 32] >> (codes % 32).astype(np.uint32)) & 1).astype(bool) for bits in (left, known)
    )
    return np.where(in_left, True, np.where(in_known, False, missing))


class _Tree:
    """The arrays of one tree, children counted from its root."""

    def __init__(self, leaf: Any, feature: Any, threshold: Any, left: Any, right: Any, missing: Any, category: Any,
                 sets: list[Any], value: Any) -> None:  # fmt: skip
        here = np.arange(len(leaf))
        self.feature = np.where(leaf, -1, feature)
        self.threshold = np.where(leaf, 0.0, threshold)
        self.left, self.right = np.where(leaf, here, left), np.where(leaf, here, right)
        self.missing, self.category, self.sets, self.value = np.asarray(missing).astype(bool), category, sets, value


def _joined(parts: list[_Tree]) -> Trees:
    sizes = [len(part.feature) for part in parts]
    start = np.concatenate([[0], np.cumsum(sizes)])
    sets = np.cumsum([0, *(len(part.sets) for part in parts)])
    together = [one for part in parts for one in part.sets]
    return Trees(
        start=start.astype(np.int64),
        feature=np.concatenate([part.feature for part in parts]).astype(np.int32),
        threshold=np.concatenate([part.threshold for part in parts]).astype(np.float64),
        left=np.concatenate([part.left + first for part, first in zip(parts, start, strict=False)]).astype(np.int32),
        right=np.concatenate([part.right + first for part, first in zip(parts, start, strict=False)]).astype(np.int32),
        missing_left=np.concatenate([part.missing for part in parts]),
        category=np.concatenate(
            [np.where(part.category >= 0, part.category + first, -1) for part, first in zip(parts, sets, strict=False)]
        ).astype(np.int32),
        goes_left=np.array(together, dtype=bool).reshape(len(together), CATEGORIES),
        value=np.concatenate([part.value for part in parts]).astype(np.float64),
    )


def grown(model: Any, kind: str, classifies: bool) -> tuple[Trees, Floats, str, str, float]:
    """Return trees, offset, head, the numbers that can be taken, and the divisor of a forest, a tree or a GradientBoosting."""
    if getattr(model, "n_outputs_", 1) != 1:
        raise CannotCompileError(f"{kind} with several outputs")
    boosts = kind.startswith("GradientBoosting")
    if boosts:
        if model.init_ != "zero" and not type(model.init_).__name__.startswith("Dummy"):
            raise CannotCompileError(f"{kind} that begins with another estimator")
        outputs = model.estimators_.shape[1]
        found: list[tuple[Any, int | None]] = [
            (one.tree_, output) for row in model.estimators_ for output, one in enumerate(row)
        ]
        weight = model.learning_rate
        offset = np.asarray(model._raw_predict_init(np.zeros((1, model.n_features_in_), np.float32))).ravel()
        link = type(model._loss.link).__name__
        head = {"IdentityLink": "identity", "LogitLink": "sigmoid", "MultinomialLogit": "softmax"}.get(link)
        if head is None or (classifies and model.loss != "log_loss"):
            raise CannotCompileError(f"{kind} with the loss {model.loss!r}")
    else:
        found = [(one.tree_, None) for one in getattr(model, "estimators_", [model])]
        outputs = len(model.classes_) if classifies else 1
        weight, offset, head = 1.0, np.zeros(outputs), "identity"
    parts = []
    for tree, output in found:
        leaf = tree.children_left < 0
        value = np.zeros((tree.node_count, outputs))
        value[leaf, slice(None) if output is None else output] = weight * (
            tree.value[leaf, 0, :] if output is None else tree.value[leaf, 0, 0]
        )
        parts.append(
            _Tree(
                leaf, tree.feature, tree.threshold, tree.children_left, tree.children_right, tree.missing_go_to_left,
                np.full(tree.node_count, -1), [], value,
            )
        )  # fmt: skip
    first = model.estimators_[0] if isinstance(getattr(model, "estimators_", None), list) else model
    missing = not boosts and bool(first._support_missing_values(np.zeros((1, 1))))
    return _joined(parts), offset, str(head), "or missing" if missing else "all", 1.0 if boosts else float(len(found))
