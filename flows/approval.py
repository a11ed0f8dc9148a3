"""Approval: a promotion that waits for a person, who sees the evidence in the Prefect UI and answers there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.input import RunInput
from prefect.logging import get_logger
from prefect.runtime import flow_run
from pydantic import Field

from flows.errors import RefusedError
from flows.steps import gates, registry

PATIENCE_SECONDS = 7 * 86400
POLL_SECONDS = 2


class Approval(RunInput):
    """A person's word on a version."""

    approve: bool = Field(description="Make this version the champion?")
    who: str = Field(default="", description="Your name, kept in the ledger")
    why: str = Field(default="", description="Your reason, kept in the ledger")


def ask(version: registry.Version) -> Approval:
    """Wait for a person's word on a version, with its evidence on the run's page, and return it.

    A run of a deployment is suspended: its process ends, the answer starts another one. Any other run waits where it is.
    The answer counts for this version alone. Raises RefusedError if nobody answers within a week.
    """
    evidence = registry.read_evidence(version)
    text = gates.markdown([gates.Verdict.model_validate(gate) for gate in evidence["gates"]])
    title = f"{version.model} version {version.version}: may it serve? (trained: {version.reason})"
    key = f"approve-{version.model}-{version.version}"
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    answered = run is not None and run.state is not None and run.run_count > 1
    if not answered:
        page = key.replace("_", "-")
        create_markdown_artifact(key=page, markdown=f"## {title}\n\n{text}", description=f"MLflow run {version.run_id}")
        get_run_logger().warning(f"{title} Answer at {flow_run.ui_url or flow_run.id}")
    question: Any = Approval.with_initial_data(description=f"**{title}**\n\n{text}")
    try:
        if run is not None and run.deployment_id is not None and run.parent_task_run_id is None:
            word = suspend_flow_run(wait_for_input=question, timeout=PATIENCE_SECONDS, key=key)
        else:
            word = pause_flow_run(
                wait_for_input=question, timeout=PATIENCE_SECONDS, poll_interval=POLL_SECONDS, key=key
            )
        return Approval.model_validate(word.model_dump())
    except TimeoutError as error:
        raise RefusedError(f"nobody answered whether {version.model} version {version.version} may serve") from error


def request(version: registry.Version, why: str, promote: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Have a version promoted after a person's word, by the deployment of the promotion flow if there is one, else here.

    A request that was made before is not made again.
    """
    options = {"model": version.model, "version": version.version, "why": why, "automatic": True, "approve": True}
    name = deployment(version.model)
    if name is None:
        answer = promote(**options)
        return {"promoted": "refused" not in answer}
    run: Any = run_deployment(
        name, parameters=options, timeout=0, as_subflow=False, idempotency_key=f"approve-{version.run_id}"
    )
    get_logger("approval").warning(
        f"{version.model} version {version.version} waits for a person's word: run {run.id} of {name}"
    )
    return {"promoted": False, "approval": str(run.id)}


def deployment(model: str) -> str | None:
    """Return the deployment of the promotion flow on the server: the model's own, or one for all; None if there is none."""
    with get_client(sync_client=True) as client:
        found = client.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=["promote"])))
    fitting = [one for one in found if (one.parameters or {}).get("model", model) == model]
    return f"promote/{fitting[0].name}" if fitting else None
