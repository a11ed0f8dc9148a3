"""Measuring several ways of the same work in turn, so that what else the machine does falls on all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def seconds(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each way by round; the order turns from round to round."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            began = time.perf_counter()
            ways[name]()
            taken[name].append(time.perf_counter() - began)
        print(", ".join(f"{name} {taken[name][-1]:.3f} s" for name in names), flush=True)
    return taken
