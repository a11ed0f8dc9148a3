"""What there is: champion, challenger, partitions, runs and service of a model, as plain data."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Engine

from flows import causes, ledger, run_records, trials
from flows.errors import RefusedError, UnavailableError
from flows.ledger import Partition, Promotion
from flows.run_records import Run
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import lost, registry, serving
from flows.steps.rollout import together
from flows.trials import Trial


def status(settings: Settings, spec: ModelSpec, engine: Engine) -> dict[str, Any]:
    """Return the state of a model; an MLflow alias that does not name the ledger's champion is repaired on the way."""
    reigning = ledger.champion(engine, spec.name)
    partitions = ledger.list_partitions(engine, spec.name)
    accepted = [partition for partition in partitions if partition.status == "accepted"]
    in_force = {partition.key for partition in accepted}
    alias = _alias(settings, spec, reigning)
    return {
        "model": spec.name,
        "description": spec.description,
        "champion": champion(reigning) if reigning else None,
        "challenger": alias["challenger"],
        "trial": on_trial(tried[0]) if (tried := trials.listed(engine, spec.name)) else None,
        "alias": alias["state"],
        "problems": lost.problems(settings, spec, engine),
        "partitions": {
            "accepted": len(accepted),
            "quarantined": sum(partition.status == "quarantined" for partition in partitions),
            "mended": sum(one.status == "quarantined" and one.key in in_force for one in partitions),
            "landed": sum(partition.status == "landed" for partition in partitions),
            "replaced": sum(partition.status == "replaced" for partition in partitions),
            "rows": sum(partition.accepted_rows for partition in accepted),
            "rejected_rows": sum(partition.rejected_rows for partition in accepted),
            "first": accepted[0].key if accepted else None,
            "last": accepted[-1].key if accepted else None,
        },
        "causes": [one.reason for one in causes.waiting(engine, spec.name)],
        "last_runs": [run(one) for one in run_records.newest(engine, spec.name, 8)],
        "promotions": [champion(one) for one in ledger.list_promotions(engine, spec.name, 8)],
        "service": serving.find(settings, spec.name),
    }


def champion(promotion: Promotion) -> dict[str, Any]:
    """Return a promotion as a person asks for it."""
    return {
        "version": promotion.version, "since": promotion.at.isoformat(), "kind": promotion.kind,
        "previous_version": promotion.previous_version, "run_id": promotion.run_id,
        "metrics": promotion.evidence.get("metrics", {}), "who": promotion.who, "why": promotion.why,
    }  # fmt: skip


def on_trial(trial: Trial) -> dict[str, Any]:
    """Return a shadow or canary as a person asks for it."""
    return {
        "model": trial.model, "version": trial.version, "kind": trial.kind, "state": trial.state,
        "share": trial.rollout.share if trial.kind == "canary" else 0.0, "champion_version": trial.champion_version,
        "since": trial.started_at.isoformat(), "until": trial.ended_at.isoformat() if trial.ended_at else None,
        "who": trial.who, "why": trial.why, "outcome": trial.outcome,
        "counts": together(trial.tallies).model_dump(), "evidence": trial.evidence,
    }  # fmt: skip


def run(one: Run) -> dict[str, Any]:
    """Return a flow run without its details."""
    seconds = (one.ended_at - one.started_at).total_seconds() if one.ended_at else None
    return {
        "id": one.id, "flow": one.flow, "state": one.state, "reason": one.reason or one.summary.get("why") or "",
        "started_at": one.started_at.isoformat(), "seconds": seconds, "executor": one.executor,
        "refused_by": one.summary.get("failed") or [],
        "error": None if one.state in ("running", "completed") else one.summary.get("error"),  # else it is a training's figure
    }  # fmt: skip


def partition(one: Partition) -> dict[str, Any]:
    """Return a partition without its statistics."""
    return one.model_dump(mode="json", exclude={"statistics", "validation"})


def versions(settings: Settings, spec: ModelSpec, engine: Engine) -> list[dict[str, Any]]:
    """Return the registered versions, newest first, with what the ledger says of each."""
    history = ledger.list_promotions(engine, spec.name)
    found = []
    for one in registry.versions(settings, spec.name):
        mine = [promotion for promotion in history if promotion.version == one.version]
        state = (
            "champion" if history and history[0].version == one.version else "served before" if mine else "challenger"
        )
        evidence = mine[0].evidence if mine else _evidence(one)
        found.append({**one.model_dump(mode="json"), "state": state, "metrics": evidence.get("metrics", {})})
    return found


def _evidence(version: registry.Version) -> dict[str, Any]:
    try:
        return registry.read_evidence(version)
    except RefusedError:
        return {}


def _alias(settings: Settings, spec: ModelSpec, reigning: Promotion | None) -> dict[str, Any]:
    """Repair the alias and return the challenger that waits; MLflow is left alone if nothing was ever trained."""
    if reigning is None and not settings.mlflow_exists:
        return {"challenger": None, "state": "none"}
    try:
        aliases = registry.aliases(settings, spec.name)
        known = aliases.get(registry.CHALLENGER)
        repaired = reigning and registry.follow(settings, spec.name, reigning.version, reigning.digest)
        state = "repaired" if repaired else "as the ledger says"
        if reigning is None and registry.CHAMPION in aliases:
            state = f"names version {aliases[registry.CHAMPION]}, the ledger has no champion; see `evergreen doctor`"
    except RefusedError as error:
        state = str(error)
    except UnavailableError as error:
        return {"challenger": None, "state": str(error)}
    ours = {one.version for one in registry.versions(settings, spec.name)}  # not one that somebody else registered
    waits = known in ours and (reigning is None or known != reigning.version)
    return {"challenger": {"version": known} if waits else None, "state": state}
