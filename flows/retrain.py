"""Retrain: what a trigger starts. The causes that wait are weighed, claimed, answered by one training that names them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import flow
from sqlalchemy.engine import Engine

from flows import causes, database, outbox, run_records
from flows.errors import ConflictError
from flows.events import Kind
from flows.limits import PATIENCE_SECONDS, alone
from flows.lookup import load_model
from flows.runs import recorded, run_name
from flows.settings import load
from flows.spec import ModelSpec
from flows.steps import decision

GLANCE_SECONDS = 1.0


@flow(name="retrain", flow_run_name=run_name)
def retrain(
    model: str = "taxi",
    trigger: Kind = "on demand",
    reason: str = "",
    cause: str = "",
    partitions: Sequence[str] = (),
) -> dict[str, Any]:
    """Train if the causes that wait ask for it, and say in the ledger what came of them.

    While another run is at it, this one leaves its cause and ends: that run looks again when it is done.

    Args:
        model: Name of the model.
        trigger: What kind of cause it is.
        reason: Why, in words; kept with the version.
        cause: The key that came with the event: the same one again changes nothing.
        partitions: The newly accepted ones that the event names.
    """
    home = load()
    spec = load_model(model, home)
    engine = database.connect(home)
    why = worded(trigger, reason)
    with recorded(engine, model, "retrain", why) as run:
        # The cause of a schedule, a person or another system is not in the ledger yet; one that is stays as it is.
        named = {"partitions": list(partitions)}
        causes.record(engine, model=model, kind=trigger, event="", reason=why, payload=named, key=cause or run.id)
        going_on = bool(causes.claimed(engine, run.id))
        # If no other run lives, a slot that is taken is a killed run's, and comes free with its lease.
        brief = not going_on and under_way(engine, model, run.id)
        try:
            with alone("retrain", model, GLANCE_SECONDS if brief else PATIENCE_SECONDS):
                run.summary = answer(engine, spec, run.id)
        except ConflictError as error:
            if going_on:
                raise
            run.summary = summary((), (str(error),))
            causes.mark_unsent(engine, model)
        if not (run.summary["held"] and under_way(engine, model, run.id)):
            outbox.flush(engine, spec)
    return run.summary


def under_way(engine: Engine, model: str, run_id: str) -> bool:
    """Say whether another run of this flow is at it."""
    return any(one.flow == "retrain" and one.id != run_id for one in run_records.under_way(engine, model))


def worded(trigger: Kind, reason: str) -> str:
    """Return a reason that names its kind."""
    return reason if reason.startswith(decision.NAMED) else ": ".join(filter(None, [trigger, reason]))


def answer(engine: Engine, spec: ModelSpec, run_id: str) -> dict[str, Any]:
    """Decide on the causes that wait, and train for them or say why not; a run that goes on first ends what it had begun."""
    mine = causes.claimed(engine, run_id)
    if mine:
        choice = decision.Decision(retrain=True, reasons=tuple(dict.fromkeys(one.reason for one in mine)))
    else:
        waiting = causes.waiting(engine, spec.name)
        choice = decision.decide(outbox.weigh(engine, spec, waiting), spec.triggers)
        # A state waits until it can be answered; a moment, such as a schedule's, has its answer now.
        due = [one.id for one in waiting if choice.retrain or not one.event]
        mine = causes.claim(engine, due, run_id)
    if not (choice.retrain and mine):
        held = choice.held or ("no cause waits: they were answered before",)
        causes.answer(engine, run_id, f"not trained: {'; '.join(held)}")
        return summary(choice.reasons, held)
    # Only here: a run that finds its cause answered need not wait for what a training imports.
    from flows.featurize import featurize
    from flows.train import train

    try:
        featurize(model=spec.name)
        made = train(model=spec.name, reason="; ".join(choice.reasons))
    except BaseException:
        causes.release(engine, run_id)
        raise
    causes.answer(engine, run_id, told(made))
    return summary(choice.reasons, training=made)


def summary(reasons: Sequence[str], held: Sequence[str] = (), training: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what a run came to: the outcome of its training, or what held it back."""
    return {"reasons": list(reasons), "held": list(held), "training": training}


def told(made: dict[str, Any]) -> str:
    """Return the outcome of a training in words."""
    if made["failed"]:
        return f"trained, refused by {', '.join(made['failed'])}"
    if made.get("unchanged"):
        return f"version {made['version']} was made of the same data and code"
    return f"trained version {made['version']}{', promoted' if made['promoted'] else ''}"
