"""The models of the repository for the table of policies: their backtests, by the very command, at three costs of a training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from flows.models.taxi.simulator import simulate_day

SHARES = (0.02, 0.1, 0.5)  # of what a new model's errors cost in a period, that a training costs
DAYS, TRIPS, FIRST = 32, 800, date(2024, 1, 1)
CHANGED = range(18, 26)  # days on which the roads are others


def taxi_days(folder: Path, seed: int) -> Path:
    """Write simulated days of one city, whose roads change and change back, and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(DAYS):
        day = FIRST + timedelta(days=number)
        table = simulate_day(day, seed=seed, trips=TRIPS, roads_changed=number in CHANGED)
        table.to_parquet(folder / f"{day}.parquet")
    return folder


def findings(
    model: str, data: Path, home: Path, policies: Sequence[str], *more: str
) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield for each of ``SHARES`` the cost of a training and what the backtest finds; what was trained is used again."""
    words = ["backtest", "--model", model, "--home", str(home), "--json", *more]
    words += [word for policy in policies for word in ("--policy", policy)]
    first = _run([*words, *(() if (home / "ledger.db").exists() else ("--data", str(data)))])
    fresh = float(np.sum([first["errors"][step][step] * rows for step, rows in enumerate(first["rows"])]))
    for share in SHARES:
        cost = share * fresh / len(first["rows"])
        yield cost, _run([*words, "--cost-train", str(cost)])


def _run(words: Sequence[str]) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    start = [sys.executable, "-c", "from flows.cli import main; main()"]
    done = subprocess.run([*start, *words], env=environment, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode:
        raise SystemExit(done.stderr or done.stdout)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def gap_interval(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of how much more ours cost, as a share of theirs, over resampled periods.

    Blocks of neighbouring periods, as long as the cube root of their number (circular block bootstrap: Politis and
    Romano, 1992).
    """
    mine, other = np.asarray(ours), np.asarray(theirs)
    steps = len(mine)
    length = max(1, round(steps ** (1 / 3)))
    starts = np.random.default_rng(seed).integers(0, steps, (2000, -(-steps // length)))
    places = (starts[:, :, None] + np.arange(length)).reshape(2000, -1)[:, :steps] % steps
    gaps = mine[places].sum(axis=1) / other[places].sum(axis=1) - 1.0
    low, high = np.quantile(gaps, [0.025, 0.975])
    return float(low), float(high)
