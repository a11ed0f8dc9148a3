"""What a backtest advises: the cheapest policy, the thresholds of the triggers, and how sure it is of either."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flows.spec import Frozen, Triggers
from flows.steps.backtest.replay import Bench, Outcome, replay

RATIOS = (1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.5, 2.0)
EFFECTS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
NEVER = 1e9  # a threshold that nothing reaches
RESAMPLES = 2000


class Advice(Frozen):
    """Thresholds for the triggers, None where the cause is better not looked at, what they cost, and how sure that is.

    ``sure`` is the share of resamples in which they cost less than the next best ones that train at other times, whose
    cost is ``next_total``; None where all train at the same times.
    """

    performance_ratio: float | None
    drift_effect: float | None
    trainings: int
    total: float
    next_total: float | None
    sure: float | None
    now_total: float


class Verdict(Frozen):
    """The cheapest policy, the next best that trains at other times, and how sure it is that the first costs less."""

    policy: str
    total: float
    rival: str | None
    rival_total: float | None
    sure: float | None


def advise(bench: Bench, triggers: Triggers) -> Advice:
    """Try pairs of thresholds for the rise of the error and for drift, both causes together, and return the cheapest.

    Of those that train at the same times the one nearest to the spec's own thresholds is named.
    """
    apart = triggers.model_copy(
        update={
            "new_partitions": None,
            "new_rows": None,
            "max_age": None,
            "max_champion_age": None,
            "expected_every": None,
        }
    )
    tried: list[tuple[float, float, Outcome]] = []
    for ratio in (*RATIOS, NEVER):
        for effect in (*EFFECTS, NEVER):
            wanted = apart.model_copy(update={"performance_ratio": ratio, "drift_effect": effect})
            tried.append((ratio, effect, replay(bench, "spec", wanted)))

    def rank(one: tuple[float, float, Outcome]) -> tuple[float, float]:
        away = abs(np.log(one[0] / triggers.performance_ratio)) + abs(np.log(one[1] / triggers.drift_effect))
        return one[2].total, float(away)

    ratio, effect, best = min(tried, key=rank)
    others = [one for _, _, one in tried if one.trained != best.trained]
    rival = min(others, key=lambda one: one.total, default=None)
    return Advice(
        performance_ratio=None if ratio == NEVER else ratio, drift_effect=None if effect == NEVER else effect,
        trainings=len(best.trained), total=best.total, next_total=rival.total if rival else None,
        sure=certainty(best.costs, rival.costs) if rival else None, now_total=replay(bench, "spec", apart).total,
    )  # fmt: skip


def cheapest(outcomes: Sequence[Outcome]) -> Verdict:
    """Return the policy that cost least, and how sure that is; of equals the one that trains least."""
    ranked = sorted(outcomes, key=lambda one: (one.total, len(one.trained)))
    best = ranked[0]
    rival = next((one for one in ranked if one.trained != best.trained), None)
    return Verdict(
        policy=best.policy, total=best.total, rival=rival.policy if rival else None,
        rival_total=rival.total if rival else None, sure=certainty(best.costs, rival.costs) if rival else None,
    )  # fmt: skip


def certainty(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the share of resamples of the periods in which our costs sum to less than theirs.

    Blocks of neighbouring periods are drawn, for what one period costs depends on the one before (circular block
    bootstrap: Politis and Romano, 1992); their length is the cube root of the number of periods.
    """
    gaps = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    steps = len(gaps)
    length = max(1, round(steps ** (1 / 3)))
    starts = np.random.default_rng(0).integers(0, steps, (RESAMPLES, -(-steps // length)))
    places = (starts[:, :, None] + np.arange(length)).reshape(RESAMPLES, -1)[:, :steps] % steps
    sums = gaps[places].sum(axis=1)
    return float(np.mean((sums < 0) + 0.5 * (sums == 0)))
