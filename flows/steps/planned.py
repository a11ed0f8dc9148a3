"""The online policies of retrainopt: what the exact plan of the past would do now (Yang and Mathioudakis, ECML PKDD 2026)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.spec import Costs
from flows.steps.schedule import LEAST_STEPS, exact_plan

if TYPE_CHECKING:
    from flows.steps.policies import Past, Served


def wants(variant: str, served: Sequence[Served], days: float, past: Past, costs: Costs) -> str:
    """Return why the policy ``base`` or ``learned`` wants a training, or nothing.

    It learns from the largest power of two of the past steps, so that it learns anew a few times only.
    """
    from retrainopt import DecisionAction, OnlineState

    steps = len(past.errors)
    if steps < LEAST_STEPS or not served:
        return ""
    steps = 2 ** (steps.bit_length() - 1)
    parts = (past.errors[:steps, :steps], past.seen[:steps, :steps], past.rows[:steps])
    policy = _learned_from(variant, *(np.asarray(one, dtype=np.float64).tobytes() for one in parts), steps, costs)
    stale = [costs.error * one.rows * (one.error - one.expected) for one in served]
    age = round(days / past.days)
    state = OnlineState(age, stale[-1], float(sum(stale)), age)
    if policy.decide(state, train_size=1).action != DecisionAction.RETRAIN:
        return ""
    return f"by the plan of {steps} past steps, after {age} steps and an excess of {sum(stale):.4g}"


@lru_cache(maxsize=64)
def _learned_from(variant: str, errors: bytes, seen: bytes, rows: bytes, steps: int, costs: Costs) -> Any:
    """Return retrainopt's policy, learned from the exact plan of the past steps."""
    from retrainopt import BaseOnlinePolicy, Decision, DecisionAction, LearnedOnlinePolicy, OnlineState

    matrix, newest, count = (np.frombuffer(one) for one in (errors, seen, rows))
    matrix, newest = matrix.reshape(steps, steps), newest.reshape(steps, steps)
    _, trained = exact_plan(matrix, count, costs)
    if variant == "base":
        period = steps / len(trained) if trained else None
        return BaseOnlinePolicy(period, None if period is None else 1.0)
    states, decisions = [], []
    model, total = 0, 0.0
    for step in range(1, steps):
        stale = float(costs.error * count[step - 1] * (newest[model, step] - matrix[model, model]))
        total += stale
        states.append(OnlineState(step, stale, total, step - model))
        again = step in trained
        decisions.append(Decision(DecisionAction.RETRAIN, 1, step) if again else Decision(DecisionAction.KEEP))
        model, total = (step, 0.0) if again else (model, total)
    return LearnedOnlinePolicy(random_seed=0).fit(states, decisions)
