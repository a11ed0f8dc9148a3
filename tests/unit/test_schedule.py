"""The exact plan against all schedules there are; what a schedule costs; and how sure a comparison is."""

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.spec import Costs
from flows.steps.backtest.recommend import certainty
from flows.steps.policies import Past
from flows.steps.schedule import exact_plan, step_costs, tune


def in_force(trained, steps):
    return [max([0, *(one for one in trained if one <= step)]) for step in range(steps)]


@given(st.integers(1, 6), st.floats(0, 50), st.floats(0.1, 3), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_the_exact_plan_is_the_cheapest_of_all_schedules(steps, training, unit, seed):
    rng = np.random.default_rng(seed)
    errors, rows = np.triu(rng.random((steps, steps))), rng.integers(0, 40, steps).astype(float)
    errors[np.tril_indices(steps, -1)] = np.nan
    costs = Costs(training=training, error=unit)
    later = range(1, steps)
    schedules = chain.from_iterable(combinations(later, count) for count in range(steps))
    least = min(step_costs(errors, rows, in_force(one, steps), one, costs).sum() for one in schedules)
    total, trained = exact_plan(errors, rows, costs)
    assert total == pytest.approx(least)
    assert step_costs(errors, rows, in_force(trained, steps), trained, costs).sum() == pytest.approx(total)


def test_a_parameter_of_cara_is_tuned_as_its_policy_would_have_acted():
    # New models have no error, one that is a step old errs in all of 10 rows, and a training costs 15 of those.
    steps = 40
    age = np.arange(steps)[None, :] - np.arange(steps)[:, None]
    errors = np.where(age < 0, np.nan, np.where(age == 0, 0.0, 1.0))
    seen = np.full_like(errors, np.nan)
    seen[:, 1:] = errors[:, :-1]
    past = Past(errors=errors, rows=np.full(steps, 10.0), days=7.0, seen=seen, expected=seen)
    assert tune("periodic", past, Costs(training=9.0)) == 7.0  # each week: in days
    assert tune("periodic", past, Costs(training=11.0)) == 7.0 * steps  # never
    assert (
        tune("threshold", past, Costs(training=1e9)) == 1.0
    )  # above all that was seen: never, and what is worse still
    assert tune("cumulative", past.model_copy(update={"errors": errors[:1, :1]}), Costs(training=1.0)) is None


def test_a_comparison_is_as_sure_as_its_periods_agree():
    steady, rng = np.full(24, 10.0), np.random.default_rng(0)
    assert certainty(steady, steady + 1.0) == 1.0
    assert certainty(steady + 1.0, steady) == 0.0
    assert certainty(steady, steady) == 0.5
    swings = rng.normal(0.0, 5.0, 24)
    assert 0.05 < certainty(steady + swings - swings.mean() - 0.3, steady) < 0.95
