"""What a policy is told: the error of each day beside the one to expect, and losses in the order in which labels came."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from flows.errors import ContractError
from flows.models.taxi.spec import spec as taxi
from flows.spec import Costs, Metric, Triggers
from flows.steps import metrics, observed, performance
from flows.steps.labels import STATE
from flows.steps.observed import know, observe

START = datetime(2024, 1, 1, 7, tzinfo=UTC)


def joined(misses, hours, known, states=None):
    """Return answers that miss by so much, at such hours after START, whose labels were known so many hours after it."""
    moments = [
        pa.array([START + timedelta(hours=hour) for hour in times], pa.timestamp("us", "UTC"))
        for times in (hours, known)
    ]
    return pa.table(
        {
            "event_timestamp": moments[0], "label_timestamp": moments[1], "label": pa.array([10.0] * len(misses)),
            "prediction": pa.array([10.0 + miss for miss in misses]), STATE: states or ["labelled"] * len(misses),
        }
    )  # fmt: skip


@pytest.mark.parametrize(("name", "power"), [("rmse", 2), ("mae", 1)])
def test_each_day_from_the_first_event_on_has_its_error_and_losses_come_as_labels_came(name, power):
    spec = taxi.model_copy(update={"metric": Metric(name=name)})
    expected = performance.plain(2.0, spec.metric)
    found = observe(spec, joined([1.0, 3.0, 4.0, 6.0], [0, 23.9, 24, 71], [80, 50, 60, 72]), expected)
    assert [one.rows for one in found["served"]] == [2, 1, 1]
    assert [one.error for one in found["served"]] == pytest.approx([((1 + 3**power) / 2) ** (1 / power), 4.0, 6.0])
    assert [one.expected for one in found["served"]] == pytest.approx([2.0] * 3)
    assert found["losses"].tolist() == pytest.approx([1.5, 2.0, 3.0, 0.5])  # in units of what is expected
    assert found["limit"] == 1.0


def test_misses_are_told_as_they_are_and_what_has_no_label_yet_is_not():
    spec = taxi.model_copy(update={"task": "multiclass", "metric": Metric(name="accuracy")})
    states = ["labelled", "waiting", "labelled", "outside"]
    rows = joined([0.0, 1.0, 1.0, 1.0], [0, 1, 2, 3], [9, 8, 7, 6], states)
    found = observe(spec, rows, performance.plain(0.2, spec.metric))
    assert (found["losses"].tolist(), found["limit"]) == ([1.0, 0.0], 0.5)
    assert [(one.rows, one.error, one.expected) for one in found["served"]] == [(2, 0.5, 0.2)]
    assert observe(spec, rows.slice(1, 1), performance.plain(0.2, spec.metric)) == {}


@pytest.mark.parametrize("name", ["rmse", "mae"])
def test_the_spread_of_a_days_error_is_what_chance_does_to_it(name):
    rng, spec = np.random.default_rng(0), taxi.model_copy(update={"metric": Metric(name=name)})
    errors, told = [], []
    for _ in range(200):
        found = observe(
            spec, joined(rng.normal(0, 3, 240), np.arange(240) / 10, [30] * 240), performance.plain(1.0, spec.metric)
        )
        (day,) = found["served"]
        errors.append(day.error)
        told.append(day.spread)
    assert np.mean(told) == pytest.approx(np.std(errors), rel=0.15)
    assert metrics.FEW_BLOCKS < 24  # that many hours are resampled as hours


def asked(monkeypatch, policy, costs=None, rows=None):
    """Return what a policy is told of predictions a day apart, of which the last two were made since the last training."""
    rows = joined([1.0, 2.0, 3.0, 4.0], [0, 24, 48, 72], [1, 25, 49, 73]) if rows is None else rows
    logged = rows.append_column("at", rows["event_timestamp"])
    monkeypatch.setattr(observed.labels, "read_newest", lambda *_: logged)
    monkeypatch.setattr(observed.labels, "join_labels", lambda _, rows, __: rows)
    monkeypatch.setattr(observed.past, "read", lambda *_: "the past")
    monkeypatch.setattr(observed, "Known", lambda **values: values)
    spec = taxi.model_copy(update={"triggers": Triggers(policy=policy), "costs": costs, "metric": Metric(name="mae")})
    reference = SimpleNamespace(drift=SimpleNamespace(end=START), expected=performance.plain(1.0, spec.metric))
    begun = START + timedelta(hours=48)
    return know(None, spec, 1, reference, [], begun, begun + timedelta(hours=36))


def test_a_policy_is_told_of_what_was_answered_since_the_last_training(monkeypatch):
    found = asked(monkeypatch, "ddm")
    assert [one.error for one in found["served"]] == [3.0, 4.0]
    assert (found["days"], found["costs"], found["past"]) == (1.5, Costs(training=0.0), None)
    nothing = asked(monkeypatch, "ddm", rows=joined([], [], []))
    assert "served" not in nothing
    assert nothing["days"] == 1.5


def test_thresholds_alone_are_told_nothing_and_costs_must_be_stated(monkeypatch):
    assert asked(monkeypatch, "spec") is None
    with pytest.raises(ContractError, match=r"the policy cost-aware weighs costs; set spec\.costs"):
        asked(monkeypatch, "cost-aware")
    found = asked(monkeypatch, "cost-aware", Costs(training=7.0))
    assert (found["costs"], found["past"]) == (Costs(training=7.0), "the past")
