"""The models of the repository for the table of policies: their backtests, by the very command, at three costs of a training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Row:
    """A row of the table: total costs (seeds,) of the best plan and of each policy; ``periods`` has one past's, by period."""

    name: str
    training: str
    best: Any
    best_trained: float
    totals: dict[str, Any]
    trained: dict[str, float]
    periods: dict[str, list[float]] = field(default_factory=dict)


def model_rows(bike: Path, work: Path, policies: Sequence[str], seeds: int) -> Iterator[Row]:
    """Yield a row for each model and cost: bike by month on the public file, taxi by day on simulated days of some seeds."""
    past = findings("bike", bike, work / "bike", policies, "--start", "2011-07", "--every", "month")
    yield from (_row("bike", share, [found]) for share, found in zip(SHARES, past, strict=True))
    cities = [
        findings("taxi", taxi_days(work / f"days-{seed}", seed), work / f"taxi-{seed}", policies, "--start", "2024-01-11",
                 "--every", "day")
        for seed in range(seeds)
    ]  # fmt: skip
    yield from (_row("taxi", share, found) for share, *found in zip(SHARES, *cities, strict=True))


def _row(name: str, share: float, found: Sequence[dict[str, Any]]) -> Row:
    outcomes = [{one["policy"]: one for one in each["outcomes"]} for each in found]
    names = list(outcomes[0])
    return Row(
        name, f"{share:.0%}", np.array([one["best"]["total"] for one in found]),
        float(np.mean([len(one["best"]["trained"]) for one in found])),
        {policy: np.array([one[policy]["total"] for one in outcomes]) for policy in names},
        {policy: float(np.mean([len(one[policy]["trained"]) for one in outcomes])) for policy in names},
        {policy: outcomes[0][policy]["costs"] for policy in names} if len(found) == 1 else {},
    )  # fmt: skip


def findings(model: str, data: Path, home: Path, policies: Sequence[str], *more: str) -> list[dict[str, Any]]:
    """Return what the backtest finds at each of ``SHARES``; what was trained before in the home is used again."""
    words = ["backtest", "--model", model, "--home", str(home), "--json", *more]
    words += [word for policy in policies for word in ("--policy", policy)]
    first = _run([*words, *(() if (home / "ledger.db").exists() else ("--data", str(data)))])
    fresh = sum(first["errors"][step][step] * rows for step, rows in enumerate(first["rows"])) / len(first["rows"])
    return [_run([*words, "--cost-train", str(share * fresh)]) for share in SHARES]


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
