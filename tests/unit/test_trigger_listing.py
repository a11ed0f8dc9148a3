"""By which trigger a cause came: one that a person reads must not be credited with what another has started."""

from datetime import UTC, datetime

import pytest

from deployments import declared, triggers
from flows import events
from flows.causes import Cause

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def cause(kind: str, event: str, reason: str) -> Cause:
    return Cause(
        id=1, key="k", model="taxi", kind=kind, event=event, reason=reason, payload={}, at=NOW, sent_at=None,
        claimed_by=None, claimed_at=None, answered_at=None, outcome=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("came", "by"),
    [
        (cause("staleness", "", "staleness: no partition was accepted for 2 days"), ["taxi: no new partition"]),
        (cause("staleness", "", "staleness: no version was promoted for 30 days"), ["taxi: old champion"]),
        (cause("staleness", events.MODEL_STALE, "staleness: 31 days old"), ["taxi: staleness"]),
        (cause("staleness", "", "staleness: seen elsewhere"), ["taxi: staleness"]),
        (cause("schedule", "", "schedule: weekly"), ["taxi: retrain weekly"]),
        (cause("distribution", events.DATA_DRIFTED, "drift: hour 0.3"), ["taxi: distribution"]),
    ],
)
def test_a_cause_came_by_one_trigger(came, by):
    (retrain,) = [one for one in declared.read() if one.name == "retrain/taxi"]
    given = tuple(one.parameters["reason"] for one in retrain.triggers if one.how != "event")
    assert [one.name for one in retrain.triggers if triggers.caused(one, came, given)] == by
