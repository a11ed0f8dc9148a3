"""Policies: each a pure function of what was known, the same live and in a backtest."""

from datetime import timedelta
from typing import get_args

import numpy as np
import pytest

from flows.spec import Costs, PolicyName, Triggers
from flows.steps.backtest.findings import POLICIES as COMPARED
from flows.steps.decision import Facts, decide, enough_data, findings
from flows.steps.detectors import first_alarm
from flows.steps.policies import COSTED, POLICIES, Known, Past, Served, weigh

COSTS = Costs(training=100.0)


def served(*errors, expected=0.1, rows=1000, spread=0.005):
    return tuple(Served(rows=rows, error=one, expected=expected, spread=spread) for one in errors)


def past(errors, days=1.0):
    errors = np.asarray(errors, dtype=float)
    seen = np.full_like(errors, np.nan)
    seen[:, 1:] = errors[:, :-1]
    new = np.full_like(errors, 0.1)
    return Past(errors=errors, rows=np.full(len(errors), 1000.0), days=days, seen=seen, expected=new)


def worsening(steps, rise):
    """Models are at 0.1 when new and worsen by so much a step."""
    age = np.arange(steps)[None, :] - np.arange(steps)[:, None]
    return np.where(age >= 0, 0.1 + rise * age, np.nan)


def test_every_policy_that_a_spec_may_name_is_compared_and_weighed():
    assert set(COMPARED) == set(get_args(PolicyName))
    assert set(get_args(PolicyName)) - set(POLICIES) == {"spec", "never", "new-data", "performance", "drift"}


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_nothing_served_yet_is_no_reason_but_for_those_that_go_by_the_clock(policy):
    reason = weigh(policy, Known(costs=COSTS, past=past(worsening(16, 0.0))))
    assert bool(reason) == (policy == "every-period")


def test_cost_aware_trains_once_the_excess_has_reached_the_cost_of_a_training():
    assert not weigh("cost-aware", Known(costs=COSTS, served=served(0.14, 0.14)))
    assert weigh("cost-aware", Known(costs=COSTS, served=served(0.14, 0.14, 0.14)))
    assert not weigh("cost-aware", Known(costs=Costs(training=1000.0), served=served(0.14, 0.14, 0.14)))
    assert not weigh("cost-aware", Known(costs=COSTS, served=served(0.14, 0.14, 0.14, spread=0.05)))  # chance alone


def test_cost_aware_does_not_let_good_days_hide_new_bad_ones():
    assert weigh("cost-aware", Known(costs=COSTS, served=served(*[0.05] * 30, 0.25)))


def test_cost_aware_learns_from_the_past_that_new_models_are_better_than_expected():
    steps = 12
    better = np.where(np.isnan(worsening(steps, 0.0)), np.nan, 0.1)
    better[np.arange(steps), np.arange(steps)] = 0.05  # a new model halves the error, a test promises 0.1 all the same
    known = Known(costs=Costs(training=20.0), served=served(0.1, 0.1), past=past(better))
    assert weigh("cost-aware", known)
    assert not weigh("cost-aware", known.model_copy(update={"past": None}))


def test_cara_takes_the_parameter_that_would_have_cost_least():
    known = Known(costs=COSTS, past=past(worsening(24, 0.02)), days=1.0)
    old = {"served": served(0.1, 0.12, 0.14, 0.16, 0.18), "days": 5.0}
    for policy in ("cara-threshold", "cara-cumulative", "cara-periodic"):
        assert not weigh(policy, known.model_copy(update={"served": served(0.1)}))
        assert weigh(policy, known.model_copy(update=old))
        dear = {"costs": Costs(training=1e6)}
        assert not weigh(policy, known.model_copy(update=old | dear))


def test_the_plan_of_the_past_is_followed_by_both_policies_of_retrainopt():
    known = Known(costs=COSTS, past=past(worsening(32, 0.02)))
    for policy in ("retrainopt-base", "retrainopt-learned"):
        assert not weigh(policy, known.model_copy(update={"served": served(0.1), "days": 1.0}))
        assert weigh(policy, known.model_copy(update={"served": served(0.1, 0.12, 0.14, 0.16, 0.18), "days": 5.0}))


@pytest.mark.parametrize("name", ["adwin", "ddm", "page-hinkley"])
def test_a_detector_sees_a_rise_of_the_misses_and_none_where_there_is_none(name):
    calm, bad = (np.arange(3000) % 10 == 0).astype(float), (np.arange(1000) % 2 == 0).astype(float)
    assert first_alarm(name, calm, 0.5) is None
    assert 3000 <= first_alarm(name, np.concatenate([calm, bad]), 0.5) < 3500
    assert first_alarm(name, np.concatenate([bad, calm]), 0.5) is None  # it got better


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_decision_asks_the_policy_and_holds_it_back_as_any_cause(policy):
    losses = np.concatenate([np.zeros(2000), np.ones(2000)])
    known = Known(
        costs=COSTS,
        served=served(0.1, 0.3, 0.5, 0.7),
        losses=losses,
        limit=0.5,
        past=past(worsening(32, 0.02)),
        days=9.0,
    )
    facts = Facts(known=known, new_partitions=1, since_training=timedelta(days=9))
    triggers = Triggers(policy=policy)
    assert decide(facts, triggers).retrain
    assert len(decide(facts, triggers).reasons) == 1
    kind = (
        "staleness" if policy in ("every-period", "cara-periodic", "retrainopt-base") else "performance"
    )  # by time, or by errors
    assert list(findings(facts, triggers)) == [kind]
    assert not decide(facts.model_copy(update={"new_partitions": 0}), triggers).retrain
    assert not decide(facts, triggers.model_copy(update={"cool_down": timedelta(days=10)})).retrain
    assert not decide(facts.model_copy(update={"known": None}), triggers).retrain


def test_new_data_is_a_reason_for_the_thresholds_and_for_its_own_policy_alone():
    facts = Facts(new_partitions=9, new_rows=9, new_keys=("2024-01-01",))
    asks = {policy for policy in get_args(PolicyName) if enough_data(facts, Triggers(policy=policy))}
    assert asks == {"spec", "new-data"}
    assert set(COSTED) <= set(POLICIES)
