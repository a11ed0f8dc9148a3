"""Rollout: a challenger meets the traffic as shadow, then as canary; its flow judges it, promotes it or ends it."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.events import emit_event
from pydantic import Field
from sqlalchemy.engine import Engine

from flows import database, events, ledger, trials
from flows.errors import ConflictError, RefusedError
from flows.lookup import load_model
from flows.promote import announce, check, choose, record, stop_outdated
from flows.runs import recorded, run_name, stage
from flows.settings import Settings, load
from flows.spec import ModelSpec
from flows.steps import promotion, rollout, storage
from flows.steps.processes import person
from flows.steps.status import on_trial
from flows.trials import Kind, Trial

measure = stage(rollout.measure, retries=2)
begin = stage(trials.begin, name="begin")


@flow(name="begin-trial", flow_run_name=run_name)
def begin_trial(
    model: str = "taxi",
    version: int | None = None,
    kind: Kind = "canary",
    share: Annotated[float | None, Field(gt=0, lt=1)] = None,
    why: str = "",
    who: str = "",
    automatic: bool = False,
) -> dict[str, Any]:
    """Put a version, or the newest challenger, on trial beside the champion: as canary, or as shadow and then as canary.

    Raises RefusedError for a version that may not serve or without a champion, ConflictError if another trial runs, or for an
    ``automatic`` one that was judged against another champion.

    Args:
        model: Name of the model.
        version: Its number; without one, the newest challenger.
        kind: Answer a share of the requests (canary), or first copies of them that nobody sees (shadow).
        share: Of the requests that a canary answers, if another than the spec's.
        why: Kept with the trial.
        who: Kept with the trial; without one, the user whose process runs it.
        automatic: Nobody has asked for it: try only what was judged against the champion of this moment.
    """
    home = load()
    spec = load_model(model, home)
    engine = database.connect(home)
    terms = spec.rollout if share is None else spec.rollout.model_validate(spec.rollout.model_dump() | {"share": share})
    with recorded(engine, model, "begin-trial", why) as run:
        champion = ledger.champion(engine, model)
        if champion is None:
            raise RefusedError(f"{model}: no champion to compare with; promote the version: `evergreen promote`")
        stop_outdated(engine, trials.running(engine, model))
        chosen = choose(home, spec, engine, version)
        if chosen.version == champion.version:
            raise RefusedError(f"{model} version {chosen.version} is the champion already; nothing to try")
        evidence = check(home, chosen)
        if automatic:
            promotion.refuse_stale(chosen, evidence, champion)
        begun = begin(
            engine, kind=kind, champion=champion, version=chosen.version, run_id=chosen.run_id,
            model_uri=chosen.folder, digest=chosen.digest, rollout=terms, who=who or person(), why=why or "on demand",
        )  # fmt: skip
        run.summary = on_trial(begun)
    return run.summary


@flow(name="judge-trial", flow_run_name=run_name)
def judge_trial(model: str = "taxi") -> dict[str, Any] | None:
    """Judge the trial that runs by what the service counted and by its labels, and do what follows from it.

    What has passed as shadow goes on as canary, what has passed as canary is promoted with the evidence; what has failed
    stays a challenger. A run that broke off in between is gone on with. Returns the newest trial, None if there never
    was one.

    Args:
        model: Name of the model.
    """
    home = load()
    spec = load_model(model, home)
    engine = database.connect(home)
    newest = next(iter(trials.listed(engine, model)), None)
    if newest is None or (newest.state != "running" and not is_due(engine, newest)):
        return on_trial(newest) if newest else None
    with recorded(engine, model, "judge-trial", f"version {newest.version} as {newest.kind}") as run:
        if newest.state == "running" and not stop_outdated(engine, newest):
            judge(home, spec, engine, newest)
        newest = trials.get(engine, newest.id)
        if is_due(engine, newest):
            follow(home, spec, engine, newest)
        if newest.state != "running":
            emit_event(events.TRIAL_ENDED, resource=events.resource(model), payload=on_trial(newest))
        run.summary = on_trial(trials.listed(engine, model)[0])
    return run.summary


def judge(home: Settings, spec: ModelSpec, engine: Engine, trial: Trial) -> None:
    """End a trial if its bounds or its labels say so."""
    accepted = ledger.list_partitions(engine, spec.name, "accepted")
    files = storage.locals_of(home, [one.accepted_uri for one in accepted if one.accepted_uri])
    scores = measure(home, spec, trial, files)
    tally = rollout.together(trial.tallies)
    ruling = rollout.rule(trial.rollout, tally, scores, trial.started_at, database.now())
    if ruling.state != "running":
        evidence = {"tally": tally.model_dump(), "scores": scores.model_dump()}
        trials.end(engine, trial.id, ruling.state, ruling.why, evidence)


def follow(home: Settings, spec: ModelSpec, engine: Engine, trial: Trial) -> None:
    """Let a shadow that has passed go on as canary, and promote a canary that has; what is refused now has failed."""
    champion = ledger.champion(engine, spec.name)
    try:
        chosen = choose(home, spec, engine, trial.version)
        if chosen.digest != trial.digest:
            raise RefusedError(f"{spec.name} version {chosen.version} is not the one that was on trial; train again")
        evidence = check(home, chosen)
        if trial.kind == "shadow" and champion is not None:
            begin(
                engine, kind="canary", champion=champion, version=trial.version, run_id=trial.run_id,
                model_uri=trial.model_uri, digest=trial.digest, rollout=trial.rollout, who=trial.who,
                why=f"passed as shadow: {trial.outcome}",
            )  # fmt: skip
            return
        proof = evidence | {"trial": {"id": trial.id, "outcome": trial.outcome, **trial.evidence}}
        made = record(spec, engine, chosen, proof, champion, trial.who, f"passed as canary: {trial.outcome}")
    except (RefusedError, ConflictError) as error:
        trials.refuse_passed(engine, trial.id, f"passed, but {error}")
        raise
    announce(home, engine, made)


def is_due(engine: Engine, trial: Trial) -> bool:
    """Say whether a trial has passed and what follows from it was not done: the champion is the one that it ran beside."""
    champion = ledger.champion(engine, trial.model)
    return trial.state == "passed" and champion is not None and champion.sequence == trial.champion_sequence
