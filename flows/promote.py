"""Promote and roll back: one row in the ledger each, which the MLflow alias and the service follow."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger
from prefect.events import emit_event
from sqlalchemy.engine import Engine

from flows import approval, database, events, ledger, trials
from flows.errors import RefusedError, UnavailableError
from flows.ledger import Promotion
from flows.lookup import load_model
from flows.runs import recorded, run_name, stage
from flows.settings import Settings, load
from flows.steps import promotion, registry, rollout
from flows.steps.processes import person
from flows.trials import Trial

choose = stage(promotion.choose, name="choose")
check = stage(promotion.check, name="check")
record = stage(promotion.promote, name="record")
record_rollback = stage(promotion.roll_back, name="record-rollback")


@flow(name="promote", flow_run_name=run_name)
def promote(
    model: str = "taxi",
    version: int | None = None,
    why: str = "",
    who: str = "",
    automatic: bool = False,
    approve: bool = False,
) -> dict[str, Any]:
    """Make a version the champion: the named one, or the newest challenger.

    Raises RefusedError for a version that may not serve, ConflictError if another promotion came first; the champion
    is then as it was.

    Args:
        model: Name of the model.
        version: Its number; without one, the newest challenger.
        why: Kept with the promotion.
        who: Kept with the promotion; without one, the user whose process runs it.
        automatic: Nobody has asked for it: promote only what was judged against the champion of this moment.
        approve: Wait for a person's word in Prefect; what the person refuses stays a challenger.
    """
    home = load()
    spec = load_model(model, home)
    engine = database.connect(home)
    if approve:
        asked = promotion.choose(home, spec, engine, version)
        word = approval.ask(asked)
        version, who, why = asked.version, word.who or "a person in Prefect", word.why or why
        if not word.approve:
            return refuse(home, engine, asked, f"{who}: {word.why or 'no reason given'}")
    with recorded(engine, model, "promote", why) as run:
        expected = ledger.champion(engine, model)
        chosen = choose(home, spec, engine, version)
        evidence = check(home, chosen)
        if automatic:
            promotion.refuse_stale(chosen, evidence, expected)
        made = record(spec, engine, chosen, evidence, expected, who or person(), why or f"passed {_gates(evidence)}")
        run.summary = announce(home, engine, made)
    return run.summary


@flow(name="rollback", flow_run_name=run_name)
def rollback(model: str = "taxi", why: str = "", who: str = "") -> dict[str, Any]:
    """Make the version that served before the champion the champion again; raises RefusedError if there is none.

    Args:
        model: Name of the model.
        why: Kept with the rollback.
        who: Kept with the rollback; without one, the user whose process runs it.
    """
    home = load()
    spec = load_model(model, home)
    engine = database.connect(home)
    with recorded(engine, model, "rollback", why) as run:
        made = record_rollback(home, spec, engine, who or person(), why or "rolled back by hand")
        run.summary = announce(home, engine, made)
    return run.summary


def refuse(home: Settings, engine: Engine, version: registry.Version, word: str) -> dict[str, Any]:
    """Keep a person's refusal with the version; nothing else changes."""
    with recorded(engine, version.model, "promote", f"refused by {word}") as run:
        registry.refuse(home, version, word)
        run.summary = {"model": version.model, "version": version.version, "refused": word}
    return run.summary


def announce(home: Settings, engine: Engine, made: Promotion) -> dict[str, Any]:
    """End a trial beside the former champion, set the MLflow alias and emit the event; the ledger's row stands without them."""
    stop_outdated(engine, trials.running(engine, made.model))
    try:
        registry.follow(home, made.model, made.version, made.digest)
    except (UnavailableError, RefusedError) as error:
        get_run_logger().warning(str(error))
    summary = {
        "model": made.model, "version": made.version, "previous_version": made.previous_version, "kind": made.kind,
        "sequence": made.sequence, "why": made.why, "who": made.who,
    }  # fmt: skip
    emit_event(events.MODEL_PROMOTED, resource=events.resource(made.model), payload=summary)
    return summary


def outdated(engine: Engine, trial: Trial) -> Promotion | None:
    """Return the champion if it is another than the one that a trial runs beside."""
    champion = ledger.champion(engine, trial.model)
    return champion if champion and champion.sequence != trial.champion_sequence else None


def stop_outdated(engine: Engine, trial: Trial | None) -> bool:
    """Stop a trial beside a champion that serves no more, and say whether it was one."""
    champion = outdated(engine, trial) if trial else None
    if trial is None or champion is None:
        return False
    why = f"version {champion.version} became the champion meanwhile: {champion.why}"
    trials.end(engine, trial.id, "stopped", why, {"tally": rollout.together(trial.tallies).model_dump()})
    return True


def _gates(evidence: dict[str, Any]) -> str:
    return f"all {len(evidence['gates'])} gates"
