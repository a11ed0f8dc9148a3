"""Streams as in CARA's paper: the total cost of each policy beside the best plan in hindsight, at three costs of a training.

Use: ``python -m tests.benchmarks.policies [--seeds 5]``. CovCon and Circle as Mallick et al. (Matchmaker, MLSys 2022) and
Pesaranghader et al. (2016) define them, Gauss after Gama et al. (SBIA 2004). 100 steps; at each 1,000 labelled rows come,
the policy decides, and 1,000 more are answered, each wrong answer costing 1. A new model learns the step's labelled rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from flows.spec import Costs, PolicyName
from flows.steps.bench import Figure, compared
from flows.steps.detectors import first_alarm
from flows.steps.policies import Known, Past, Served, weigh
from flows.steps.schedule import exact_plan, step_costs

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


def main() -> None:
    """Print the mean cost and trainings of each policy by stream and cost, and the ratios to the best plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    ratios: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    print(f"{'stream':8}{'training':>9}{'exact':>14}" + "".join(f"{name:>20}" for name in POLICIES), flush=True)
    verdicts = []
    for name in STREAMS:
        streams = [Stream(name, seed) for seed in range(seeds)]
        for training in TRAININGS:
            costs = Costs(training=training)
            plans = [exact_plan(one.errors, one.rows, costs) for one in streams]
            found = {policy: [one.run(policy, costs) for one in streams] for policy in POLICIES}
            total = {policy: np.array([cost for cost, _ in runs]) for policy, runs in found.items()}
            best = np.array([cost for cost, _ in plans])
            for policy in POLICIES:
                ratios[policy] += (total[policy] / best).tolist()
            cells = [f"{np.mean(total[p]):,.0f} ({np.mean([n for _, n in found[p]]):.0f})" for p in POLICIES]
            plan = f"{best.mean():,.0f} ({np.mean([len(steps) for _, steps in plans]):.0f})"
            print(f"{name:8}{training:9.0f}{plan:>14}" + "".join(f"{cell:>20}" for cell in cells), flush=True)
            rival = min(DETECTORS, key=lambda one: total[one].mean())
            gap = total["cost-aware"] / total[rival] - 1.0
            half = 2.776 if seeds == 5 else 2.0  # Student's t, 95 %
            error = half * gap.std(ddof=1) / seeds**0.5
            verdicts.append(f"{name} at {training:.0f}: cost-aware {gap.mean():+.1%} (± {error:.1%}) beside {rival}")
    print("\nover the exact plan:", ", ".join(f"{policy} {np.mean(all_):.3f}" for policy, all_ in ratios.items()))
    print("\n".join(verdicts))


if __name__ == "__main__":
    main()
