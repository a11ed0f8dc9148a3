"""The total cost of each policy beside the best plan in hindsight, at three costs of a training, on streams and our models.

Use: ``python -m tests.benchmarks.policies [--seeds 5] [--bike FILE] [--work FOLDER]``. The streams are as in CARA's paper:
CovCon and Circle as Mallick et al. (Matchmaker, MLSys 2022) and Pesaranghader et al. (2016) define them, Gauss after Gama
et al. (SBIA 2004). 100 steps; at each 1,000 labelled rows come, the policy decides, and 1,000 more are answered, each wrong
answer costing 1. A new model learns the step's labelled rows. For our models the policies decide by month or by day.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from scipy import stats
from sklearn.ensemble import RandomForestClassifier

from flows.spec import Costs, PolicyName
from flows.steps.bench import Figure, compared
from flows.steps.detectors import first_alarm
from flows.steps.policies import Known, Past, Served, weigh
from flows.steps.schedule import exact_plan, step_costs
from tests.benchmarks.policies_models import Row, gap_interval, model_rows

STEPS, ROWS, CHANGE = 100, 1000, 25
TRAININGS = (10.0, 50.0, 250.0)  # what a training costs, in wrong answers
DETECTORS: tuple[PolicyName, ...] = ("adwin", "ddm", "page-hinkley")
POLICIES: tuple[PolicyName, ...] = (
    "never", "every-period", *DETECTORS, "cara-threshold", "cara-cumulative", "cara-periodic", "retrainopt-base",
    "retrainopt-learned", "cost-aware",
)  # fmt: skip
CIRCLES = ((0.2, 0.5, 0.15), (0.4, 0.5, 0.2), (0.6, 0.5, 0.25), (0.8, 0.5, 0.3))
Drawn = tuple[np.ndarray, np.ndarray]


def covcon(rng: np.random.Generator, step: int) -> Drawn:
    """Return rows whose place moves each step, and whose border changes every 25 steps and turns round after 50."""
    points = rng.normal(((step + 1) % 7) / 10, 0.15, (ROWS, 2))
    border = (0.8, 1.0)[step // CHANGE % 2] * np.sin(np.pi * points[:, 0])
    return points, (border > points[:, 1]) == (step < 2 * CHANGE)


def circle(rng: np.random.Generator, step: int) -> Drawn:
    """Return uniform rows, positive within a circle; every 25 steps the next one takes over, by a fifth a step."""
    points = rng.random((ROWS, 2))
    number = step // CHANGE
    inside = [((points - [x, y]) ** 2).sum(axis=1) <= r**2 for x, y, r in CIRCLES]
    moved = rng.random(ROWS) < (step % CHANGE + 1) / 5
    return points, np.where(moved, inside[number], inside[max(number - 1, 0)])


def gauss(rng: np.random.Generator, step: int) -> Drawn:
    """Return rows of two overlapping normal distributions, whose labels change places every 25 steps."""
    first = rng.random(ROWS) < 0.5
    normal = rng.normal(size=(ROWS, 2))
    return np.where(first[:, None], normal, [2.0, 0.0] + 2.0 * normal), first ^ bool(step // CHANGE % 2)


STREAMS: dict[str, Callable[[np.random.Generator, int], Drawn]] = {"covcon": covcon, "circle": circle, "gauss": gauss}


class Stream:
    """The answers of the model of each step to the labelled and to the asked rows of each later one."""

    def __init__(self, name: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        labelled, asked = ([STREAMS[name](rng, step) for step in range(STEPS)] for _ in range(2))
        self.misses = np.zeros((STEPS, STEPS, ROWS), dtype=bool)
        self.errors, self.seen = np.full((STEPS, STEPS), np.nan), np.full((STEPS, STEPS), np.nan)
        self.rows = np.full(STEPS, float(ROWS))
        for step, (points, labels) in enumerate(labelled):
            model = RandomForestClassifier(10, min_samples_leaf=5, random_state=0).fit(points, labels)
            later = [*labelled[step:], *asked[step:]]
            wrong = model.predict(np.concatenate([one for one, _ in later])) != np.concatenate([y for _, y in later])
            known, answers = wrong.reshape(2, -1, ROWS)
            self.misses[step, step:], self.seen[step, step:] = known, known.mean(axis=1)
            self.errors[step, step:] = answers.mean(axis=1)
        # A new model is expected to do as those before it did when they were new.
        mean = np.cumsum(np.diag(self.errors)) / np.arange(1, STEPS + 1)
        self.new = np.tile(np.concatenate([mean[:1], mean[:-1]]), (STEPS, 1))
        self.alarms = cache(self._alarms)

    def _alarms(self, detector: str, model: int) -> int:
        """Return the first step at which a detector wants a training, of those after the model's."""
        place = first_alarm(detector, self.misses[model, model + 1 :].ravel().astype(float), 0.5)
        return STEPS if place is None else model + 1 + place // ROWS

    def run(self, policy: PolicyName, costs: Costs) -> tuple[float, int]:
        """Return what a policy costs, and how often it trains."""
        model, in_force, trained = 0, [0], []
        for step in range(1, STEPS):
            until = (slice(step), slice(step))
            past = Past(
                errors=self.errors[until],
                rows=self.rows[:step],
                days=1.0,
                seen=self.seen[until],
                expected=self.new[until],
            )
            new = float(self.new[0, step])
            errors = self.seen[model, model + 1 : step + 1]
            served = tuple(
                Served(rows=ROWS, error=one, expected=new, spread=(max(one * (1 - one), 1 / ROWS) / ROWS) ** 0.5)
                for one in errors.tolist()
            )
            if policy in DETECTORS:
                wants = self.alarms(policy, model) <= step
            else:
                wants = bool(weigh(policy, Known(costs=costs, served=served, past=past, days=float(step - model))))
            if wants:
                model = step
                trained.append(step)
            in_force.append(model)
        return float(step_costs(self.errors, self.rows, in_force, trained, costs).sum()), len(trained)


def figures() -> list[Figure]:
    """Return the cost of `cost-aware` beside the exact plan's, and beside that of the best detector, all streams and costs."""
    ours, best, rival = [], [], []
    for name in STREAMS:
        streams = [Stream(name, seed) for seed in range(3)]
        for training in TRAININGS:
            costs = Costs(training=training)
            total = {p: [one.run(p, costs)[0] for one in streams] for p in ("cost-aware", *DETECTORS)}
            ours.append(float(np.mean(total["cost-aware"])))
            rival.append(min(float(np.mean(total[p])) for p in DETECTORS))
            best.append(float(np.mean([exact_plan(one.errors, one.rows, costs)[0] for one in streams])))
            print(f"{name} at {training:g}: {ours[-1]:,.0f}, best plan {best[-1]:,.0f}", flush=True)
    return [
        compared("cost-aware, 3 streams at 3 costs", beside, ours, other, "cost")
        for beside, other in (("best plan in hindsight", best), ("best detector of river", rival))
    ]


def stream_rows(seeds: int) -> Iterator[Row]:
    """Yield a row of the table for each stream and cost of a training."""
    for name in STREAMS:
        streams = [Stream(name, seed) for seed in range(seeds)]
        for training in TRAININGS:
            costs = Costs(training=training)
            plans = [exact_plan(one.errors, one.rows, costs) for one in streams]
            found = {policy: [one.run(policy, costs) for one in streams] for policy in POLICIES}
            yield Row(
                name, f"{training:.0f}", np.array([cost for cost, _ in plans]),
                float(np.mean([len(steps) for _, steps in plans])),
                {policy: np.array([cost for cost, _ in runs]) for policy, runs in found.items()},
                {policy: float(np.mean([trained for _, trained in runs])) for policy, runs in found.items()},
            )  # fmt: skip


def verdict(row: Row) -> str:
    """Return how much more than the best detector cost-aware costs, with its 95 % interval."""
    rival = min(DETECTORS, key=lambda one: row.totals[one].mean())
    gap = row.totals["cost-aware"] / row.totals[rival] - 1.0
    if row.periods:  # one past: its periods are drawn again
        low, high = gap_interval(row.periods["cost-aware"], row.periods[rival])
    else:
        half = stats.t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / len(gap) ** 0.5
        low, high = gap.mean() - half, gap.mean() + half
    said = "costs more" if low > 0 else "costs less" if high < 0 else "no difference beyond chance"
    return f"{row.name} at {row.training}: {gap.mean():+.1%} ({low:+.1%} to {high:+.1%}) beside {rival}: {said}"


def main() -> None:
    """Print the mean cost and trainings of each policy by stream or model and cost, and the ratios to the best plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--bike", type=Path, help="the public bike file; without it the models of the repository are left out"
    )
    parser.add_argument("--work", type=Path, help="where homes are kept, to be gone on with; default: thrown away")
    said = parser.parse_args()
    ratios: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    print(f"{'':8}{'training':>9}{'exact':>14}" + "".join(f"{name:>20}" for name in POLICIES), flush=True)
    verdicts = []
    with tempfile.TemporaryDirectory() as scratch:
        models = model_rows(said.bike, said.work or Path(scratch), POLICIES, said.seeds) if said.bike else iter(())
        for row in itertools.chain(stream_rows(said.seeds), models):
            for policy in POLICIES:
                ratios[policy].append(float((row.totals[policy] / row.best).mean()))
            cells = [f"{row.totals[one].mean():,.0f} ({row.trained[one]:.0f})" for one in POLICIES]
            plan = f"{row.best.mean():,.0f} ({row.best_trained:.0f})"
            print(f"{row.name:8}{row.training:>9}{plan:>14}" + "".join(f"{cell:>20}" for cell in cells), flush=True)
            verdicts.append(verdict(row))
    print("\nover the exact plan:", ", ".join(f"{policy} {np.mean(all_):.3f}" for policy, all_ in ratios.items()))
    print("cost-aware and the best detector, 95 % interval over seeds, or over periods of one past:")
    print("\n".join(verdicts))


if __name__ == "__main__":
    main()
