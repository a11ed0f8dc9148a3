"""Schedules of trainings over a matrix of errors: what one costs, the best in hindsight, and CARA's parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.spec import Costs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flows.steps.policies import Past

    Floats = NDArray[np.float64]

MOST_CHOICES = 64  # of a parameter that is tried
SHARES = (1.0, 0.97, 0.94, 0.9, 0.85, 0.8, 0.7)
LEAST_STEPS = 4  # of the past, to learn from
CLEAR = 0.01


def step_costs(errors: Floats, rows: Floats, in_force: Sequence[int], trained: Iterable[int], costs: Costs) -> Floats:
    """Return the cost of each step, shape (steps,): of the errors of the model ``in_force`` then, and of each training."""
    steps = np.arange(len(in_force))
    spent = costs.error * np.asarray(rows)[: len(steps)] * np.asarray(errors)[np.asarray(in_force, dtype=int), steps]
    spent[list(trained)] += costs.training
    return np.asarray(spent, dtype=np.float64)


def exact_plan(errors: Floats, rows: Floats, costs: Costs) -> tuple[float, list[int]]:
    """Return the least cost over all schedules, and the steps before which it trains; step 0 has its model for nothing.

    ``errors[s, t]``, shape (steps, steps), t >= s, is that of the model trained before step s on step t. Solved by
    retrainopt's dynamic program (Yang and Mathioudakis, ECML PKDD 2026).
    """
    from retrainopt import DecisionAction
    from retrainopt.core.dp import solve_exact_schedule

    total, decisions, _, _ = solve_exact_schedule(len(errors), _candidates(errors, rows, costs))
    return float(total), [step for step, one in enumerate(decisions) if one.action == DecisionAction.RETRAIN]


def _candidates(errors: Floats, rows: Floats, costs: Costs) -> dict[tuple[int, int], dict[str, Any]]:
    """Return every model with its costs in retrainopt's form: key (step, 1), the first model under (-1, 0)."""
    spent = np.asarray(errors) * np.asarray(rows)[: len(errors)] * costs.error
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for first, row in enumerate(spent):
        losses = {step: float(row[step]) for step in range(first, len(row))}
        key = (first, 1) if first else (-1, 0)
        found[key] = {"training_cost": costs.training if first else 0.0, "future_losses": losses}
    return found


def tune(variant: str, past: Past, costs: Costs) -> float | None:
    """Return the parameter of one of CARA's variants that would have cost least over the past, None without two steps.

    ``threshold`` is in units of error, ``cumulative`` of error summed over rows, ``periodic`` in days. A policy sees a step
    when it is over, and trains before the next. Of equally good parameters the one that trains soonest is taken: a past
    without any drift then still tells what is unusual.
    """
    errors, rows = past.errors, past.rows
    steps = len(errors)
    if steps < 2:
        return None
    known = np.triu(np.ones_like(errors, dtype=bool))
    if variant == "threshold":
        choices = _choices(past.seen[known])
    elif variant == "cumulative":
        choices = _choices(np.cumsum(np.where(known, errors * rows, 0.0), axis=1)[known])
    else:
        choices = np.arange(1.0, steps + 1.0)
    model, seen = np.zeros(len(choices), dtype=int), np.zeros(len(choices))
    total = np.zeros(len(choices))
    for step in range(steps):
        if step:
            newest = past.seen[model, step]
            seen = {"threshold": newest, "cumulative": seen + newest * rows[step - 1]}.get(variant, step - model)
            trains = seen >= choices if variant == "periodic" else seen > choices
            model, seen = np.where(trains, step, model), np.where(trains, 0.0, seen)
            total += trains * costs.training
        total += costs.error * rows[step] * errors[model, step]
    best = float(choices[np.flatnonzero(total <= total.min() * (1 + 1e-12))[0]])
    return best * past.days if variant == "periodic" else best


def tune_share(past: Past, costs: Costs) -> float:
    """Return the share of the expected error that a new model really has, as far as the cost of the past tells.

    It is the one with which training whenever the excess over it has reached the cost of a training would have cost least
    (see ``policies``); one that spares less than ``CLEAR`` is no better than 1.
    """
    shares, steps = np.array(SHARES), len(past.errors)
    if steps < LEAST_STEPS:
        return 1.0
    model, spent, total = np.zeros(len(shares), dtype=int), np.zeros(len(shares)), np.zeros(len(shares))
    for step in range(steps):
        if step:
            excess = past.seen[model, step] - shares * past.expected[model, step]
            spent = np.maximum(0.0, spent + costs.error * past.rows[step - 1] * excess)
            trains = (spent > 0) & (spent >= costs.training)
            model, spent = np.where(trains, step, model), np.where(trains, 0.0, spent)
            total += trains * costs.training
        total += costs.error * past.rows[step] * past.errors[model, step]
    best = int(np.argmin(total))
    return float(shares[best]) if total[best] < (1.0 - CLEAR) * total[0] else 1.0


def _choices(values: Floats) -> Floats:
    """Return at most ``MOST_CHOICES`` of the values that occur, rising, and before them one that always trains."""
    found = np.unique(values[np.isfinite(values)])
    if len(found) > MOST_CHOICES:
        found = np.unique(np.quantile(found, np.linspace(0.0, 1.0, MOST_CHOICES), method="inverted_cdf"))
    return np.concatenate([[-1.0], found])
