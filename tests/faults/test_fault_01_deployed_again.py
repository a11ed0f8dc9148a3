"""Fault 1, and a deployment right after the kill, as the next `evergreen up` makes: the run is found all the same."""

import time
from datetime import timedelta

import pytest
from prefect import flow
from prefect.states import Running

from deployments import crashed
from flows.runs import TAG

SILENCE_SECONDS = 12  # Prefect takes no less than ten
PATIENCE_SECONDS = 60


@flow
def nothing() -> None:
    """End at once."""


@pytest.fixture
def client(prefect_api):
    """Return a client of the server, which is left to the other tests as it was: their hearts may beat more slowly."""
    from prefect import get_client

    with get_client(sync_client=True) as client:
        yield client
        for automation in crashed.automations():
            for made in client.read_automations_by_name(automation.name):
                client.delete_automation(made.id)


def wait(what: str, condition) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {PATIENCE_SECONDS} s")
        time.sleep(0.5)


def test_a_deployment_after_the_kill_does_not_make_the_server_forget_the_killed_run(client, monkeypatch):
    from prefect.events import emit_event

    monkeypatch.setattr(crashed, "SILENCE", timedelta(seconds=SILENCE_SECONDS))
    crashed.deploy_automations()
    killed = client.create_flow_run(nothing, state=Running(), tags=[TAG]).id
    resource = {"prefect.resource.id": f"prefect.flow-run.{killed}"}
    beat = emit_event(crashed.HEARTBEAT, resource=resource, related=[crashed.OURS])
    heard = {"filter": {"id": {"id": [str(beat.id)]}}, "limit": 1}
    wait("its last heartbeat is heard", lambda: client.request("POST", "/events/filter", json=heard).json()["events"])
    time.sleep(2)  # the trigger hears it beside what keeps it

    crashed.deploy_automations()
    wait("it is marked as crashed", lambda: client.read_flow_run(killed).state_type.value == "CRASHED")


def test_an_automation_that_is_another_is_brought_up_to_date(client, monkeypatch):
    names = crashed.deploy_automations()
    monkeypatch.setattr(crashed, "SILENCE", timedelta(seconds=SILENCE_SECONDS))
    assert crashed.deploy_automations() == names
    (found,) = client.read_automations_by_name(names[0])
    assert found.trigger.within == timedelta(seconds=SILENCE_SECONDS)
