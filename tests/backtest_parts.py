"""Backtests of eight simulated days by processes that are noted: what is asked, the home, and what must be found alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from serving_parts import eventually
from team.noted import PLACE, builders
from training_parts import copy_home, opened

from flows.settings import Settings

SHARED = '["team.shared"]'
WANTED: dict[str, Any] = {"start": date(2024, 1, 5), "every": "day", "cost_train": 500.0}
CLOCKS = ("at", "seconds", "files", "found_before")


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """Return what a backtest found, without what clocks measured."""
    outcomes = [{**one, "seconds": 0.0} for one in found["outcomes"]]
    plain = {name: value for name, value in found.items() if name not in CLOCKS}
    return plain | {"outcomes": outcomes, "best": {**found["best"], "seconds": 0.0}}


@contextmanager
def days_home(folder: Path, source: Path, api: str, notes: Path, **more: str) -> Iterator[Settings]:
    """Open a copy of a home with eight accepted days, whose estimators are noted."""
    notes.mkdir(exist_ok=True)
    with opened(folder, api, SHARED, {PLACE: str(notes), **more}) as home:
        copy_home(source, home)
        yield home


@contextmanager
def killing_in_mid_window(notes: Path, kill: Callable[[], object], seconds: float) -> Iterator[None]:
    """Hold the windows of two workers, kill one of those when both are at work, and let the other go on."""
    (notes / "hold").touch()

    def kill_one() -> None:
        try:
            eventually(lambda: len(set(builders(notes))) == 2, seconds)
            kill()
        finally:
            (notes / "hold").unlink()

    killer = threading.Thread(target=kill_one)
    killer.start()
    yield
    killer.join()
