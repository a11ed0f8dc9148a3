"""Columns that give the label away: equal to it, a line of it, one value for each of it, or parts that add up to it."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.spec import Frozen

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

EXACT = 1e-9  # share of the label's variance that an exact relation may leave
NEAR = 0.98  # correlation from which a column is suspect
ROWS = 20  # of a group of one value, on average, before it is said to decide the label
MOST_PARTS = 4
CHANCE = 1e-6  # probability that all rows of one value are of one class by chance, below which it is suspect


class Leak(Frozen):
    """Columns that give the label away and how, as people read it; ``certain`` if nothing is left open."""

    columns: tuple[str, ...]
    text: str
    certain: bool


def find(frame: pd.DataFrame, label: str, candidates: list[str], numbers: bool) -> list[Leak]:
    """Return what gives the label away among the candidates; ``numbers`` says whether the label is a quantity."""
    known = frame[frame[label].notna()]
    if len(known) < 2 * ROWS or known[label].nunique() < 2:
        return []
    single = [leak for name in candidates if (leak := _single(known, label, name, numbers))]
    if not numbers:
        told = {name for leak in single for name in leak.columns}
        single += [leak for name in candidates if name not in told and (leak := _telling(known, label, name))]
    alone = {name for leak in single if leak.certain for name in leak.columns}
    rest = [name for name in candidates if name not in alone and known[name].dtype.kind in "iuf"]
    return single + (_sums(known, label, rest) if numbers else [])


def _single(known: pd.DataFrame, label: str, name: str, numbers: bool) -> Leak | None:
    """Return how one column gives the label away, if it does."""
    both = known[[name, label]].dropna()
    if len(both) < 2 * ROWS or both[name].nunique() < 2:
        return None
    if both[name].dtype == both[label].dtype and bool((both[name] == both[label]).all()):
        return Leak(columns=(name,), text=f"{name} equals {label}", certain=True)
    numeric = both[name].dtype.kind in "iufb"
    if numbers and numeric:
        x, y = both[name].to_numpy(dtype=np.float64), both[label].to_numpy(dtype=np.float64)
        if not (np.isfinite(x).all() and np.isfinite(y).all()) or x.std() == 0 or y.std() == 0:
            return None
        share = abs(float(np.corrcoef(x, y)[0, 1]))
        if 1 - share**2 < EXACT:
            return Leak(columns=(name,), text=f"{label} is a linear function of {name}", certain=True)
        if share > NEAR:
            text = f"{name} follows {label} closely (correlation {share:.3f}); is it known before {label} is?"
            return Leak(columns=(name,), text=text, certain=False)
        return None
    groups = both.groupby(name, observed=True)[label]
    if len(both) >= ROWS * groups.ngroups and int(groups.nunique().max()) == 1:
        return Leak(columns=(name,), text=f"each value of {name} stands for one {label}", certain=True)
    if numeric and not numbers and both[label].nunique() == 2:
        return _threshold(both, label, name)
    return None


def _threshold(both: pd.DataFrame, label: str, name: str) -> Leak | None:
    """Return whether a number parts two classes at one threshold: suspect, though a strong feature may do so too."""
    first, second = (part[name] for _, part in both.groupby(label))
    if min(len(first), len(second)) < ROWS:
        return None
    if first.max() < second.min() or second.max() < first.min():
        return Leak(columns=(name,), text=f"{name} alone parts the two classes of {label}", certain=True)
    return None


def _telling(known: pd.DataFrame, label: str, name: str) -> Leak | None:
    """Return whether a column gives a class away by one of its values, or by having one: suspect, though rules may do so."""
    shares = known[label].value_counts(normalize=True).to_dict()
    there = known[name].notna().map({True: "known", False: "missing"})
    for groups in (there, known[name]):
        found = known.groupby(groups, observed=True)[label].agg(["size", "nunique", "first"])
        found = found[(found["nunique"] == 1) & (found["size"] >= ROWS)].sort_values("size", ascending=False)
        for value, rows, only in zip(found.index, found["size"], found["first"], strict=True):
            if float(shares[only]) ** int(rows) < CHANCE:
                text = f"where {name} is {str(value)[:40]}, {label} is always {str(only)[:40]} ({rows} rows)"
                return Leak(columns=(name,), text=f"{text}; is it known before {label} is?", certain=False)
    return None


def _sums(known: pd.DataFrame, label: str, names: list[str]) -> list[Leak]:
    """Return the columns that the label is the sum, difference or linear function of, the fewest that will do."""
    whole = known[[*names, label]].dropna(axis="columns", thresh=len(known) // 2).dropna()
    if label not in whole:
        return []
    names = [name for name in names if name in whole and np.isfinite(whole[name]).all() and whole[name].std() > 0]
    if len(names) < 2 or len(whole) < 10 * len(names):
        return []
    y = whole[label].to_numpy(dtype=np.float64)
    left, _ = _fit(whole, names, y)
    if left > EXACT:
        return []
    chosen = list(names)
    for name in names:  # what is not needed goes
        fewer = [one for one in chosen if one != name]
        if len(fewer) >= 2 and _fit(whole, fewer, y)[0] <= EXACT:
            chosen = fewer
    if len(chosen) > MOST_PARTS:
        for size in range(2, MOST_PARTS + 1):
            for some in combinations(chosen, size):
                if _fit(whole, list(some), y)[0] <= EXACT:
                    return [_told(whole, list(some), label, y)]
    return [_told(whole, chosen, label, y)]


def _fit(frame: pd.DataFrame, names: list[str], y: Floats) -> tuple[float, Any]:
    """Return the share of the variance that the best linear function leaves, and its coefficients."""
    x = frame[names].to_numpy(dtype=np.float64)
    x, scale = x - x.mean(axis=0), x.std(axis=0)
    centred = y - y.mean()
    coefficients, *_ = np.linalg.lstsq(x / scale, centred, rcond=None)
    rest = centred - (x / scale) @ coefficients
    return float(np.square(rest).sum() / np.square(centred).sum()), coefficients / scale


def _told(frame: pd.DataFrame, names: list[str], label: str, y: Floats) -> Leak:
    _, coefficients = _fit(frame, names, y)
    signs = np.round(coefficients)
    if np.allclose(coefficients, signs, atol=1e-6) and set(np.abs(signs)) == {1.0}:
        order = sorted(range(len(names)), key=lambda place: -signs[place])
        text = " ".join(f"{'+' if signs[place] > 0 else '-'} {names[place]}" for place in order).removeprefix("+ ")
        return Leak(columns=tuple(names), text=f"{text} = {label}", certain=True)
    # A clean formula of many inputs may be what is to be learned: say so, take nothing away.
    text = f"{label} is exactly a linear function of {', '.join(names)}; are all of them known before {label} is?"
    return Leak(columns=tuple(names), text=text, certain=False)
