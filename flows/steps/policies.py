"""The policies by which a model is trained anew: each one pure function of what was known, to the reason or to nothing.

Live, ``decision.decide`` asks the one that the spec names; ``evergreen backtest`` asks all of them of the past.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ConfigDict

from flows.spec import Costs, Frozen, PolicyName

SURE = 2.0  # standard deviations that an excess must have over chance


class Served(Frozen):
    """A step (a day, or a period of a backtest) since the last training: how the model in force did on its labelled rows.

    ``expected`` is the error that a new model would have on them, as far as one could tell; ``spread`` the standard
    deviation of ``error`` by chance alone.
    """

    rows: int
    error: float
    expected: float
    spread: float


class Past(Frozen):
    """What a backtest of the steps before tells; all shapes are (steps, steps), NaN for what is not there.

    ``errors[s, t]`` is that of the model trained before step s on step t >= s; ``rows[t]`` counts its predictions; a step
    lasts ``days``. For t > s, ``seen[s, t]`` is the newest error of model s that was known when step t began, and
    ``expected[s, t]`` what a new model was then expected to have on the same rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    errors: Any
    rows: Any
    days: float
    seen: Any
    expected: Any


class Known(Frozen):
    """All that a policy may look at.

    ``losses`` are those of the labelled rows since the last training, in the order in which labels came, shape (n,), in
    units of the loss to expect, or 0 and 1 where they are misses; ``limit`` is the loss above which one is a miss.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    costs: Costs
    served: tuple[Served, ...] = ()
    losses: Any = ()
    limit: float = 1.0
    past: Past | None = None
    days: float = 0.0  # since the last training


def weigh(policy: PolicyName, known: Known) -> str:
    """Return why the policy wants a training now, or nothing if it keeps the model."""
    return POLICIES[policy](known) if policy in POLICIES else ""


def _every_period(_: Known) -> str:
    return "trained at every look"


def _detector(name: str, known: Known) -> str:
    from flows.steps.detectors import first_alarm

    found = first_alarm(name, known.losses, known.limit)
    return "" if found is None else f"{name} sees a change of the errors at labelled row {found + 1} since the training"


def _cost_aware(known: Known) -> str:
    """Train once what a new model would have spared since the last training has reached the cost of a training.

    Rent or buy (Karlin, Manasse, Rudolph and Sleator, Algorithmica 3, 1988): whoever waits just that long pays at most
    twice what the best choice would have cost. The excess is a cumulative sum that never falls below nothing (Page,
    Biometrika 41, 1954), so that old good days do not hide a new bad one, and it must be more than chance. Where new
    models have been better than expected, because there is ever more to learn from, the past tells by how much.
    """
    from flows.steps.schedule import tune_share

    share = tune_share(known.past, known.costs) if known.past is not None else 1.0
    spent = variance = 0.0
    for step, one in enumerate(known.served, 1):
        value = known.costs.error * one.rows
        spent = max(0.0, spent + value * (one.error - share * one.expected))
        variance = variance + 2.0 * (value * one.spread) ** 2 if spent else 0.0
        if spent and spent >= known.costs.training and spent >= SURE * variance**0.5:  # and good days do not undo it
            return f"a new model would have spared {spent:.4g} by step {step}, and a training costs {known.costs.training:.4g}"
    return ""


def _cara_threshold(known: Known) -> str:
    """CARA-T: train when the error of the newest step is above a threshold (Mahadevan and Mathioudakis, 2024).

    As all three variants, it takes the parameter that would have cost least over the past steps.
    """
    limit = _tuned("threshold", known)
    newest = known.served[-1].error if known.served else 0.0
    return "" if limit is None or newest <= limit else f"error {newest:.4g} is above {limit:.4g}"


def _cara_cumulative(known: Known) -> str:
    """CARA-CT: train when the errors since the last training, summed over rows, are above a threshold."""
    limit = _tuned("cumulative", known)
    spent = sum(one.rows * one.error for one in known.served)
    return "" if limit is None or spent <= limit else f"errors of {spent:.4g} since the last training, over {limit:.4g}"


def _cara_periodic(known: Known) -> str:
    """CARA-P: train after so many days."""
    limit = _tuned("periodic", known)
    return "" if limit is None or known.days < limit else f"trained {known.days:.4g} days ago, over {limit:.4g}"


def _tuned(variant: str, known: Known) -> float | None:
    from flows.steps.schedule import tune

    return tune(variant, known.past, known.costs) if known.past is not None else None


def _planned(variant: str, known: Known) -> str:
    from flows.steps.planned import wants

    return wants(variant, known.served, known.days, known.past, known.costs) if known.past is not None else ""


def _of(function: Callable[[str, Known], str], name: str) -> Callable[[Known], str]:
    return lambda known: function(name, known)


POLICIES: dict[PolicyName, Callable[[Known], str]] = {
    "every-period": _every_period,
    "adwin": _of(_detector, "adwin"),
    "ddm": _of(_detector, "ddm"),
    "page-hinkley": _of(_detector, "page-hinkley"),
    "cara-threshold": _cara_threshold,
    "cara-cumulative": _cara_cumulative,
    "cara-periodic": _cara_periodic,
    "retrainopt-base": _of(_planned, "base"),
    "retrainopt-learned": _of(_planned, "learned"),
    "cost-aware": _cost_aware,
}
# Those that weigh costs, and learn from the past what they come to.
COSTED = ("cost-aware", "cara-threshold", "cara-cumulative", "cara-periodic", "retrainopt-base", "retrainopt-learned")
