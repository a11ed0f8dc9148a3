"""Deploy: what prefect.yaml declares comes to be on a Prefect server, with the work pool that it needs; again changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from deployments import declared
from deployments.declared import Deployment
from flows.errors import ContractError, UnavailableError, UsageError
from flows.settings import Settings

ENVIRONMENTS = Path(__file__).with_name("environments")
DEPLOY_SECONDS = 180.0
WAIT_SECONDS = 120.0


def use_environment(name: str) -> None:
    """Put the variables of an environment into this process; those that are set already win.

    Raises UsageError for one that is not known.
    """
    from dotenv import dotenv_values

    known = sorted(file.stem for file in ENVIRONMENTS.glob("*.env"))
    if name not in known:
        raise UsageError(f"no environment {name!r} in {ENVIRONMENTS}; known are: {', '.join(known)}")
    for key, value in dotenv_values(ENVIRONMENTS / f"{name}.env").items():
        os.environ.setdefault(key, value or "")


def wait_for_server(api_url: str) -> None:
    """Wait until the server answers; raises UnavailableError after two minutes."""
    from flows.steps.prefect_server import is_healthy

    deadline = time.monotonic() + WAIT_SECONDS
    while not is_healthy(api_url):
        if time.monotonic() > deadline:
            raise UnavailableError(f"the Prefect server at {api_url} did not answer within {WAIT_SECONDS:.0f} s")
        time.sleep(0.1)


def deploy(settings: Settings, file: Path = declared.PREFECT_YAML) -> dict[str, Any]:
    """Make the work pool if it is not there, deploy all of the file with Prefect's own command, and check what came of it.

    The server is the one that ``PREFECT_API_URL`` names. With them come the automations that mark killed runs as crashed.
    Then each model is reported as watched, from which on silence counts, and the causes that wait are told again. What
    a person has paused stays so, deployments and triggers: Prefect's command makes them anew, and would start them.
    Raises ContractError if the file was not taken whole, UsageError for a work pool of another type; the template of one
    that is there stays as it is, for people set its variables.
    """
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, FlowFilter, FlowFilterName
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as client:
        try:
            kind = settings.work_pool_type
            pool = WorkPoolCreate(name=declared.POOL, type=kind, base_job_template=declared.pool_template(kind))
            client.create_work_pool(pool)
            made = True
        except ObjectAlreadyExists:
            made = False
            there = client.read_work_pool(declared.POOL).type
            if there != kind:
                raise UsageError(
                    f"the work pool {declared.POOL} is one of type {there}, not {kind}: set EVERGREEN_WORK_POOL_TYPE={there}, "
                    f"or `prefect work-pool delete {declared.POOL}` and deploy again"
                ) from None
    expected = declared.read(file)
    off = paused(expected)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)],
            env=os.environ | settings.environment(), cwd=settings.home, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=DEPLOY_SECONDS, check=False,
        )  # fmt: skip
    finally:  # also where it is ended: nobody would know any more what was paused
        for name in off:
            pause(name)
    flow_names, names = (sorted({one.name.split("/")[part] for one in expected}) for part in (0, 1))
    with get_client(sync_client=True) as client:
        flow_filter = FlowFilter(name=FlowFilterName(any_=flow_names))
        flows = {flow.id: flow.name for flow in client.read_flows(flow_filter=flow_filter)}
        named = DeploymentFilter(name=DeploymentFilterName(any_=names))
        made_there = client.read_deployments(flow_filter=flow_filter, deployment_filter=named)
        found = {f"{flows.get(one.flow_id)}/{one.name}" for one in made_there}
    missing = sorted({one.name for one in expected} - found)
    if done.returncode or missing:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise ContractError(f"{file} was not deployed{f', {missing} are missing' if missing else ''}: {last}")
    from deployments.crashed import deploy_automations

    deploy_automations()
    return {
        "deployments": [one.name for one in expected], "triggers": sum(len(one.triggers) for one in expected),
        "work_pool": declared.POOL, "work_pool_made": made, "told": watch(settings, sorted({one.model for one in expected})),
        "paused": off,
    }  # fmt: skip


def paused(expected: list[Deployment]) -> list[str]:
    """Return the names of those deployments, and of their triggers by events, that somebody has paused on the server."""
    from prefect import get_client
    from prefect.exceptions import ObjectNotFound

    found = []
    with get_client(sync_client=True) as client:
        for deployment in expected:
            with suppress(ObjectNotFound):
                if client.read_deployment_by_name(deployment.name).paused:
                    found.append(deployment.name)
            triggers = [one.name for one in deployment.triggers if one.how != "cron"]
            found += [one for one in triggers if not all(it.enabled for it in client.read_automations_by_name(one))]
    return found


def pause(name: str) -> None:
    """Pause a deployment, or a trigger, on the server by its name."""
    from prefect import get_client

    with get_client(sync_client=True) as client:
        triggers = client.read_automations_by_name(name)
        for one in triggers:
            client.pause_automation(one.id)
        if not triggers:
            client.pause_deployment(client.read_deployment_by_name(name).id)


def watch(settings: Settings, models: list[str]) -> int:
    """Report each model as watched and tell again of the causes that wait; return how many.

    Those that a run was answering when it was killed, with the whole stack perhaps, wait as well. So do files of the
    landing folder: who told of them before there was a trigger was not heard.
    """
    from deployments.watch import tell
    from flows import arrivals, database, events, outbox
    from flows.lookup import load_model
    from flows.runs import close_ended

    engine = database.connect(settings)
    told = 0
    for model in models:
        close_ended(engine, model)
        outbox.send(events.MODEL_WATCHED, model, {"model": model})
        told += outbox.flush(engine, load_model(model, settings))
        files = arrivals.untaken(engine, model, settings.landing(model))
        if files:
            tell(model, files)
    return told
