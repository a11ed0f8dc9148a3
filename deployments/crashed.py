"""Runs that were killed with all that could have said so: two automations mark them as crashed, which frees their slots."""

from __future__ import annotations

from datetime import timedelta

from prefect.automations import AutomationCore, EventTrigger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import Posture

from flows.runs import TAG

OURS = {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}  # others may use the server too
HEARTBEAT = "prefect.flow-run.heartbeat"
# Three times the frequency that the settings give, so that two beats may be lost.
SILENCE = timedelta(seconds=90)
# A run that waits so long for its process will not get it; images may have to be fetched before.
START = timedelta(minutes=10)
# The names of the states in which no heart beats.
AT_REST = (
    "Completed", "Cached", "Failed", "TimedOut", "Cancelled", "Crashed", "Paused", "Suspended", "AwaitingRetry",
    "AwaitingConcurrencySlot", "Scheduled", "Late",
)  # fmt: skip


def automations() -> list[AutomationCore]:
    """Return the automations: a run whose heart has stopped, and one whose process never began.

    A heartbeat that comes after a run's end (its process took its time to stop) starts the clock again; the server then
    refuses to change what has ended, so that a completed run stays completed.
    """
    ended = {f"prefect.flow-run.{name}" for name in AT_REST}
    return [
        _automation(
            "evergreen: silent runs have crashed", {HEARTBEAT}, {HEARTBEAT, *ended}, SILENCE,
            "no heartbeat any more: its process was killed",
        ),
        _automation(
            "evergreen: runs that never start have crashed", {"prefect.flow-run.Pending"},
            {"prefect.flow-run.Running", HEARTBEAT, *ended}, START, "its process never began",
        ),
    ]  # fmt: skip


def _automation(name: str, after: set[str], expect: set[str], within: timedelta, message: str) -> AutomationCore:
    trigger = EventTrigger(
        match={"prefect.resource.id": "prefect.flow-run.*"}, match_related=OURS, for_each={"prefect.resource.id"},
        after=after, expect=expect, posture=Posture.Proactive, threshold=1, within=within,
    )  # fmt: skip
    change = ChangeFlowRunState(state=StateType.CRASHED, message=message)
    return AutomationCore(
        name=name, description="Marks it as crashed; retry it, it goes on where it was.", trigger=trigger,
        actions=[change],
    )  # fmt: skip


def deploy_automations() -> list[str]:
    """Make the automations on the server that ``PREFECT_API_URL`` names, or bring them up to date; return their names.

    One that is as it is to be is left alone: updated, it would forget the runs whose silence it measures.
    """
    with get_client(sync_client=True) as client:
        for automation in automations():
            known = client.read_automations_by_name(automation.name)
            if known and not _same(known[0], automation):
                client.update_automation(known[0].id, automation)
            elif not known:
                client.create_automation(automation)
            for twin in known[1:]:
                client.delete_automation(twin.id)
    return [automation.name for automation in automations()]


def _same(known: AutomationCore, wanted: AutomationCore) -> bool:
    """Say whether the server has what is wanted; whether it is paused is left to who paused it."""
    apart = {"id", "enabled"}
    return known.model_dump(exclude=apart) == wanted.model_dump(exclude=apart)
