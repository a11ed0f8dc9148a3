"""The models of the repository for the table of policies: their backtests, by the very command, at three costs of a training."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from flows import database, ledger
from flows.lookup import load_model
from flows.models.taxi.simulator import simulate_day
from flows.settings import Settings
from flows.spec import Costs, PolicyName
from flows.steps.backtest.findings import beside_best
from flows.steps.backtest.kept import keep, opened
from flows.steps.backtest.models import make_window, open_window
from flows.steps.backtest.replay import Bench, Outcome, replay
from flows.steps.backtest.timeline import plan_steps, read_history
from flows.steps.feature_store import open_store
from flows.steps.periods import Kind

SHARES = (0.02, 0.1, 0.5)  # of what a new model's errors cost in a period, that a training costs
DAYS, TRIPS, FIRST = 32, 800, date(2024, 1, 1)
BEGIN = date(2024, 1, 11)
CHANGED = range(18, 26)  # days on which the roads are others


def taxi_days(folder: Path, seed: int) -> Path:
    """Write simulated days of one city, whose roads change and change back, and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(DAYS):
        day = FIRST + timedelta(days=number)
        table = simulate_day(day, seed=seed, trips=TRIPS, roads_changed=number in CHANGED)
        table.to_parquet(folder / f"{day}.parquet")
    return folder


Replayed = tuple[tuple[Outcome, ...], Outcome]


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


def model_rows(bike: Path, work: Path, policies: Sequence[PolicyName], seeds: int) -> Iterator[Row]:
    """Yield a row for each model and cost: bike by month on the public file, taxi by day on simulated days of some seeds."""
    found = replays("bike", bike, work / "bike", policies, "month", date(2011, 7, 1))
    yield from (_row("bike", share, [one]) for share, one in zip(SHARES, found, strict=True))
    cities = [
        replays("taxi", taxi_days(work / f"days-{seed}", seed), work / f"taxi-{seed}", policies, "day", BEGIN)
        for seed in range(seeds)
    ]
    yield from (_row("taxi", share, several) for share, *several in zip(SHARES, *cities, strict=True))


def _row(name: str, share: float, found: Sequence[Replayed]) -> Row:
    outcomes = [{one.policy: one for one in policies} for policies, _ in found]
    return Row(
        name, f"{share:.0%}", np.array([best.total for _, best in found]),
        float(np.mean([len(best.trained) for _, best in found])),
        {policy: np.array([one[policy].total for one in outcomes]) for policy in outcomes[0]},
        {policy: float(np.mean([len(one[policy].trained) for one in outcomes])) for policy in outcomes[0]},
        {policy: list(one.costs) for policy, one in outcomes[0].items()} if len(found) == 1 else {},
    )  # fmt: skip


def replays(
    model: str, data: Path, home: Path, policies: Sequence[PolicyName], every: Kind, start: date
) -> list[Replayed]:
    """Return what comes of the policies, and of the best plan, at each of ``SHARES``; the command lands and trains first."""
    if not (home / "backtests" / model / "past.json").exists():
        words = ["backtest", "--model", model, "--home", str(home), "--json", "--data", str(data), "--policy", "never"]
        _run([*words, "--start", f"{start}", "--every", every])
    settings = Settings(home=home)
    settings.activate()
    spec = load_model(model, settings)
    accepted = ledger.list_partitions(database.connect(settings), model, "accepted")
    _, steps = plan_steps(spec, accepted, every, start, None)
    judge = spec.training.judge
    joined = read_history(settings, open_store(settings), spec, accepted, steps, judge, True)
    replayed = opened(settings, keep(settings, joined))
    models = [
        open_window(settings, replayed, step, make_window(settings, replayed, step, judge))  # found on disk
        for step in range(len(steps))
    ]
    bench = Bench(replayed, models, Costs(training=0.0))
    found = []
    for share in SHARES:
        bench.costs = Costs(training=share * float(np.mean(np.diag(bench.errors) * bench.rows)))
        found.append(beside_best(bench, [replay(bench, policy, spec.triggers) for policy in policies]))
    return found


def _run(words: Sequence[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    start = [sys.executable, "-c", "from flows.cli import main; main()"]
    done = subprocess.run([*start, *words], env=environment, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode:
        raise SystemExit(done.stderr or done.stdout)


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
