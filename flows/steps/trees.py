"""Tree ensembles as plain arrays, and two ways to evaluate them in float64 with numpy alone.

``Tables`` looks a row up: between two neighbouring thresholds a feature rules out the same leaves in every tree, so one
bit mask a tree for each such interval is all that is needed, and what the masks of all features leave is the leaf. The
idea of masks is that of QuickScorer (Lucchese and others, SIGIR 2015). ``Walk`` goes down all trees at once, level by
level, for trees that are too large for masks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CATEGORIES = 256  # codes of one categorical feature: 0 to 255
MOST_TABLE_BYTES = 2**26
CELLS = 2**20  # rows times trees that are worked on at once


@dataclass(frozen=True)
class Trees:
    """The nodes of all trees, one after the other; a tree begins with its root, children come after their parent.

    ``start`` (trees + 1,): where each tree begins, and the end. ``feature`` (nodes,): -1 for a leaf. A value goes left
    if it is at most ``threshold``, a code if ``goes_left[category, code]``, where ``category`` is -1 for a numeric
    split; NaN goes by ``missing_left``. ``left``, ``right`` (nodes,): children, of a leaf the leaf itself. ``value``
    (nodes, outputs): what a leaf adds.
    """

    start: NDArray[np.int64]
    feature: NDArray[np.int32]
    threshold: Floats
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    missing_left: NDArray[np.bool_]
    category: NDArray[np.int32]
    goes_left: NDArray[np.bool_]
    value: Floats

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def check(self, width: int) -> None:
        """Raise ValueError unless every index lies inside and every way down ends, for inputs of so many columns."""
        nodes, trees = len(self.feature), len(self.start) - 1
        here = np.arange(nodes)
        end = np.repeat(self.start[1:], np.diff(self.start)) if trees > 0 else here
        leaf = self.feature < 0
        sound = (
            trees > 0 and self.start[0] == 0 and self.start[-1] == nodes and (np.diff(self.start) > 0).all()
            and all(len(array) == nodes for array in (self.threshold, self.left, self.right, self.missing_left))
            and len(self.category) == nodes and self.value.ndim == 2 and len(self.value) == nodes
            and self.goes_left.ndim == 2 and self.goes_left.shape[1] == CATEGORIES
            and (self.feature < width).all() and (self.category < max(len(self.goes_left), 1)).all()
            and (leaf == (self.left == here)).all() and (leaf == (self.right == here)).all()
            and (leaf | (self.left > here) & (self.right > here)).all()
            and (self.left < end).all() and (self.right < end).all()
        )  # fmt: skip
        if not sound or ((self.category >= 0).any() and not len(self.goes_left)):
            raise ValueError("the arrays of the trees do not fit together")


class Walk:
    """Goes down all trees at once, one level a step."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        self._roots = trees.start[:-1].astype(np.intp)
        self._feature = np.maximum(trees.feature, 0).astype(np.intp)
        self._categorical = bool(len(trees.goes_left))
        self._levels = _levels(trees)

    def sums(self, inputs: Floats, offset: Floats) -> Floats:
        """Return offset (outputs,) plus the sums over all trees (n, outputs) for rows (n, features)."""
        some = max(1, CELLS // len(self._roots))
        parts = [self._sums(inputs[first : first + some], offset) for first in range(0, len(inputs), some)]
        return np.concatenate(parts) if parts else np.empty((0, self._trees.value.shape[1]))

    def _sums(self, inputs: Floats, offset: Floats) -> Floats:
        trees = self._trees
        first = np.arange(len(inputs), dtype=np.intp)[:, None] * inputs.shape[1]
        flat = np.ascontiguousarray(inputs).ravel()
        missing = bool(np.isnan(flat).any())
        node = np.broadcast_to(self._roots, (len(inputs), len(self._roots)))
        for _ in range(self._levels):
            value = flat.take(first + self._feature.take(node))
            left = value <= trees.threshold.take(node)
            if self._categorical:
                left = self._by_category(node, value, left)
            if missing:
                left = np.where(np.isnan(value), trees.missing_left.take(node), left)
            node = np.where(left, trees.left.take(node), trees.right.take(node))
        return _added(trees.value.take(node, axis=0), offset)

    def _by_category(self, node: NDArray[Any], value: Floats, left: NDArray[np.bool_]) -> NDArray[np.bool_]:
        trees = self._trees
        category = trees.category.take(node)
        known = (value >= 0) & (value < CATEGORIES)
        code = np.where(known, value, 0).astype(np.intp)
        chosen = np.where(known, trees.goes_left[np.maximum(category, 0), code], trees.missing_left.take(node))
        return np.where(category >= 0, chosen, left)


class Tables:
    """Looks up, for each feature's value, a mask of the leaves that it leaves possible in every tree."""

    def __init__(self, trees: Trees, width: int) -> None:
        leaves, masks, values = _leaves(trees)
        self._outputs = trees.value.shape[1]
        count, most = len(leaves), max(leaves)
        kind = next(kind for kind in (np.uint8, np.uint16, np.uint32, np.uint64) if most <= 8 * np.dtype(kind).itemsize)
        self._numeric: list[list[float] | None] = []
        self._cuts: list[Floats] = []
        self._tables: list[NDArray[Any]] = []
        owner = np.repeat(np.arange(count), np.diff(trees.start))
        for feature in range(width):
            nodes = np.flatnonzero(trees.feature == feature)
            categorical = bool(len(nodes)) and trees.category[nodes[0]] >= 0
            cuts = np.unique(trees.threshold[nodes]) if not categorical else np.empty(0)
            table = np.full((CATEGORIES if categorical else len(cuts) + 1, count), ~kind(0), kind)
            missing = np.full((1, count), ~kind(0), kind)
            for node in nodes.tolist():
                mask, tree = kind(masks[node] & int(~kind(0))), owner[node]
                if categorical:
                    table[~trees.goes_left[trees.category[node]], tree] &= mask
                else:
                    table[np.searchsorted(cuts, trees.threshold[node]) + 1, tree] &= mask
                if not trees.missing_left[node]:
                    missing[0, tree] &= mask
            if not categorical:
                np.bitwise_and.accumulate(table, axis=0, out=table)
            self._cuts.append(cuts)
            self._numeric.append(None if categorical else cuts.tolist())
            self._tables.append(np.concatenate([table, missing]))
        ends = np.cumsum([len(table) for table in self._tables])
        # Of the features that some tree asks for, or of one if none is asked for.
        self._lookup = [
            (feature, cuts, int(end - len(table)), int(end - 1))
            for feature, (cuts, table, end) in enumerate(zip(self._numeric, self._tables, ends, strict=True))
            if cuts is None or cuts
        ] or [(0, [], 0, 1)]
        self._table = np.concatenate(self._tables)
        parts = np.split(self._table, ends[:-1])  # views: the table is there once
        self._tables = parts
        self._shift = np.arange(count, dtype=np.int32) * most - 1  # frexp gives the place of a bit, from 1 on
        self._values = np.zeros((count * most, self._outputs))
        for tree, found in enumerate(values):
            self._values[tree * most : tree * most + len(found)] = found
        self._flat = self._values[:, 0].copy() if self._outputs == 1 else None

    @staticmethod
    def fit(trees: Trees) -> bool:
        """Say whether an ensemble is small enough: at most 64 leaves a tree and a table of at most 64 MiB."""
        leaf = trees.feature < 0
        most = int(np.add.reduceat(leaf, trees.start[:-1]).max())
        bits = next((bits for bits in (8, 16, 32, 64) if most <= bits), 0)
        size = (int((~leaf).sum()) + CATEGORIES * len(trees.goes_left)) * (len(trees.start) - 1) * bits // 8
        return bits > 0 and size <= MOST_TABLE_BYTES

    def one(self, row: Sequence[float | None], offset: Floats) -> Floats:
        """Return offset (outputs,) plus the sums over all trees (outputs,) for one row, None for missing."""
        places = [
            missing
            if (value := row[feature]) is None or value != value
            else first + bisect_left(cuts, value)
            if cuts is not None
            else first + int(value)
            if 0 <= value < CATEGORIES
            else missing
            for feature, cuts, first, missing in self._lookup
        ]
        left = np.bitwise_and.reduce(self._table.take(places, axis=0), axis=0)
        leaf = self._leaf(left)
        if self._flat is None:
            several: Floats = _added(self._values.take(leaf, axis=0)[None], offset)[0]
            return several
        terms = self._flat.take(leaf)
        terms[0] += offset[0]
        found: Floats = np.add.accumulate(terms, out=terms)[-1:]
        return found

    def sums(self, inputs: Floats, offset: Floats) -> Floats:
        """Return offset (outputs,) plus the sums over all trees (n, outputs) for rows (n, features)."""
        some = max(1, CELLS // self._table.shape[1])
        parts = [self._sums(inputs[first : first + some], offset) for first in range(0, len(inputs), some)]
        return np.concatenate(parts) if parts else np.empty((0, self._outputs))

    def _sums(self, inputs: Floats, offset: Floats) -> Floats:
        left: NDArray[Any] | None = None
        for feature, table in enumerate(self._tables):
            if len(table) == 2 and self._numeric[feature] is not None:
                continue  # no tree asks for it
            value = inputs[:, feature]
            missing = np.isnan(value)
            if self._numeric[feature] is None:
                missing |= (value < 0) | (value >= CATEGORIES)
                place = np.where(missing, 0, value).astype(np.intp)
            else:
                place = self._cuts[feature].searchsorted(value)
            if missing.any():
                place[missing] = len(table) - 1
            found = table.take(place, axis=0)
            left = found if left is None else np.bitwise_and(left, found, out=left)
        if left is None:
            left = np.broadcast_to(self._table[:1], (len(inputs), self._table.shape[1]))
        leaf = self._leaf(left)
        if self._flat is None:
            return _added(self._values.take(leaf, axis=0), offset)
        terms = self._flat.take(leaf)
        terms[:, 0] += offset[0]
        summed: Floats = np.add.accumulate(terms, axis=1, out=terms)[:, -1:]
        return summed

    def _leaf(self, left: NDArray[Any]) -> NDArray[np.int32]:
        """Return the place of the first leaf that is left in each tree: the lowest bit."""
        lowest = left & np.negative(left)
        place: NDArray[np.int32] = np.frexp(lowest.astype(np.float32))[1] + self._shift
        return place


def _added(terms: Floats, offset: Floats) -> Floats:
    """Return offset plus terms (n, trees, outputs), added one after the other as scikit-learn does: to the same bit."""
    terms[:, 0] += offset
    summed: Floats = np.add.accumulate(terms, axis=1, out=terms)[:, -1]
    return summed


def _levels(trees: Trees) -> int:
    depth = np.zeros(len(trees.feature), dtype=np.int64)
    for node in np.flatnonzero(trees.feature >= 0):  # parents come first
        depth[trees.left[node]] = depth[trees.right[node]] = depth[node] + 1
    return int(depth.max())


def _leaves(trees: Trees) -> tuple[list[int], dict[int, int], list[Floats]]:
    """Return how many leaves each tree has, each node's mask without the leaves on its left, and the leaves' values."""
    counts: list[int] = []
    masks: dict[int, int] = {}
    values: list[Floats] = []
    for root in trees.start[:-1].tolist():
        order: list[int] = []

        def below(node: int, order: list[int] = order) -> int:
            if trees.feature[node] < 0:
                order.append(node)
                return 1 << (len(order) - 1)
            left = below(int(trees.left[node]))
            masks[node] = ~left
            return left | below(int(trees.right[node]))

        below(root)
        counts.append(len(order))
        values.append(trees.value[order])
    return counts, masks, values
