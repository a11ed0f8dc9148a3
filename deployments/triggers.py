"""The triggers with what is known of each: when it fired last, why, what came of it, when it comes next."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any

from sqlalchemy.engine import Engine

from deployments.declared import Deployment, Trigger
from flows import causes, run_records
from flows.causes import Cause
from flows.events import Kind
from flows.spec import Frozen
from flows.steps.decision import NAMED

RETRAIN = "retrain"


class Listed(Frozen):
    """A trigger as a person asks for it.

    Times are aware. Those of the server, and whether somebody has paused it there, are None while it does not answer.
    """

    kind: Kind
    name: str
    deployment: str
    how: str
    last_fired: datetime | None = None
    why: str | None = None
    outcome: str | None = None
    run: str | None = None
    next: datetime | None = None
    paused: bool | None = None


def listing(engine: Engine, model: str, declared: list[Deployment], api_url: str | None) -> list[Listed]:
    """Return all triggers of a model: those of trainings as the ledger knows them, the others as the server does."""
    known = causes.listed(engine, model)
    found = [_on_demand(engine, model)]
    off = _paused(api_url, [one for one in declared if one.model == model]) if api_url else None
    for deployment in declared:
        if deployment.model == model:
            server = _asked(api_url, deployment) if api_url else {}
            given = tuple(
                filter(None, (one.parameters.get("reason") for one in deployment.triggers if one.how != "event"))
            )
            for trigger in deployment.triggers:
                entry = Listed(
                    kind=trigger.kind, name=trigger.name, deployment=trigger.deployment, how=how(trigger),
                    next=server.get("next") if trigger.how == "cron" else None,
                    paused=None if off is None else trigger.name in off,
                )  # fmt: skip
                if trigger.deployment.startswith(f"{RETRAIN}/"):
                    last = next((cause for cause in known if caused(trigger, cause, given)), None)
                    found.append(entry.model_copy(update=_told(last)) if last else entry)
                else:
                    found.append(
                        entry.model_copy(update=server.get("SCHEDULE" if trigger.how == "cron" else "AUTOMATION", {}))
                    )
    return found


def how(trigger: Trigger) -> str:
    """Return in words what fires a trigger."""
    if trigger.how == "cron":
        return f"cron {trigger.cron} {trigger.timezone}"
    names = " or ".join(trigger.expect)
    return f"event {names}" if trigger.how == "event" else f"no {names} for {(trigger.within or 0) / 86_400:g} days"


def caused(trigger: Trigger, cause: Cause, given: tuple[str, ...]) -> bool:
    """Say whether a cause came by a trigger: by its event, or with the reason that the trigger gives.

    A cause without an event of ours came by an event of another system, unless its reason is one of those ``given``.
    """
    if cause.kind != trigger.kind:
        return False
    if trigger.how != "event":
        return cause.reason.endswith(trigger.parameters.get("reason", ""))
    return cause.event in trigger.expect or not (cause.event or cause.reason.endswith(given))


def _told(cause: Cause) -> dict[str, Any]:
    waits = "waits" if cause.claimed_by is None else "under way"
    return {
        "last_fired": cause.at, "why": cause.reason, "outcome": cause.outcome or waits, "run": cause.claimed_by,
    }  # fmt: skip


def _on_demand(engine: Engine, model: str) -> Listed:
    """Return the trainings that people start: of the command, of `prefect deployment run`, of the UI's quick run."""
    entry = Listed(
        kind="on demand", name=f"{model}: on demand", deployment=f"train/{model}",
        how=f"evergreen train, prefect deployment run train/{model}, quick run in the UI",
    )  # fmt: skip
    trainings = run_records.newest(engine, model, 1000, "train")
    last = next((run for run in trainings if not run.reason.startswith(NAMED)), None)
    if last is None:
        return entry
    update = {"last_fired": last.started_at, "why": last.reason, "outcome": last.state, "run": last.id}
    return entry.model_copy(update=update)


def _paused(api_url: str, declared: list[Deployment]) -> set[str] | None:
    """Ask the server which triggers somebody has paused; None if it does not answer.

    Of a paused deployment only the schedules are paused: Prefect's automations start it all the same.
    """
    import httpx
    from prefect import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import PREFECT_API_URL, temporary_settings

    off: set[str] = set()
    try:
        with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
            for deployment in declared:
                with suppress(ObjectNotFound):
                    found = client.read_deployment_by_name(deployment.name)
                    idle = {getattr(one.schedule, "cron", None) for one in found.schedules if not one.active}
                    crons = [one for one in deployment.triggers if one.how == "cron"]
                    off |= {one.name for one in crons if found.paused or one.cron in idle}
                for one in deployment.triggers:
                    if one.how != "cron" and not all(it.enabled for it in client.read_automations_by_name(one.name)):
                        off.add(one.name)
    except httpx.HTTPError:
        return None
    return off


def _asked(api_url: str, deployment: Deployment) -> dict[str, Any]:
    """Ask the server for the next scheduled run of a deployment, and for the last one of a schedule and of an event."""
    import httpx
    from prefect import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, FlowFilter, FlowFilterName
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.settings import PREFECT_API_URL, temporary_settings

    flow, name = deployment.name.split("/")
    filters: dict[str, Any] = {
        "flow_filter": FlowFilter(name=FlowFilterName(any_=[flow])),
        "deployment_filter": DeploymentFilter(name=DeploymentFilterName(any_=[name])),
    }
    try:
        with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
            runs = client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=200, **filters)
    except httpx.HTTPError:
        return {}
    found: dict[str, Any] = {}
    for run in runs:  # the latest first
        if run.state_name == "Scheduled":
            found["next"] = run.next_scheduled_start_time or run.expected_start_time
        elif run.created_by and run.created_by.type and run.created_by.type not in found:
            found[run.created_by.type] = {
                "last_fired": run.start_time or run.expected_start_time, "why": run.created_by.display_value,
                "outcome": (run.state_name or "").lower(), "run": str(run.id),
            }  # fmt: skip
    return found
