"""The outbox: causes are in the ledger before they are told as events, and told again until a run has answered them."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from prefect import get_client
from sqlalchemy.engine import Engine

from flows import causes, database, events, ledger, run_records
from flows.causes import Cause
from flows.events import Kind
from flows.spec import ModelSpec
from flows.steps import decision

SEND_SECONDS = 5.0
AGAIN = timedelta(minutes=15)  # an event that led to no run in this time was lost


def raise_cause(
    engine: Engine, model: str, kind: Kind, event: str, reason: str, payload: dict[str, Any] | None = None
) -> Cause:
    """Record a cause and tell of it; if the server does not take the event, a later ``flush`` sends it."""
    cause = causes.record(engine, model=model, kind=kind, event=event, reason=reason, payload=payload)
    tell(engine, cause)
    return cause


def flush(engine: Engine, spec: ModelSpec) -> int:
    """Tell again of the causes that no run has answered, if they would lead to a training now; return how many.

    These are the ones that could not be sent, whose event was lost, or that had to wait for a cool-down or for data.
    """
    found = causes.waiting(engine, spec.name)
    if not found or not decision.decide(weigh(engine, spec, found), spec.triggers).retrain:
        return 0
    due = [one for one in found if one.event and (one.sent_at is None or database.now() - one.sent_at > AGAIN)]
    return sum(tell(engine, one) for one in due)


def weigh(engine: Engine, spec: ModelSpec, found: list[Cause]) -> decision.Facts:
    """Return the facts on which a retraining for the waiting causes is decided."""
    partitions = ledger.list_partitions(engine, spec.name)
    trainings = run_records.newest(engine, spec.name, 1000, "train")
    return decision.standing(ledger.champion(engine, spec.name), partitions, trainings, database.now(), found)


def tell(engine: Engine, cause: Cause) -> bool:
    """Send the event of a cause; return whether the server took it.

    Each time it is another event: the server drops one that it has seen, even if nothing came of it.
    """
    payload = {**cause.payload, "model": cause.model, "cause": cause.key, "reason": cause.reason}
    taken = send(cause.event, cause.model, payload)
    if taken:
        causes.mark_sent(engine, cause.id)
    return taken


def send(event: str, model: str, payload: dict[str, Any]) -> bool:
    """Send an event to the Prefect server and wait for its answer; return whether it took the event."""
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    body = {
        "id": str(uuid.uuid4()), "occurred": database.now().isoformat(), "event": event,
        "resource": events.resource(model), "related": [], "payload": payload,
    }  # fmt: skip
    try:
        with get_client(sync_client=True, httpx_settings={"timeout": SEND_SECONDS}) as client:
            client.request("POST", "/events", json=[body])
    except (httpx.HTTPError, PrefectHTTPStatusError, RuntimeError, OSError):
        return False
    return True
