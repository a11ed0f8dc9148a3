"""What has been deleted of the versions that matter, the champion and the one that a rollback leads to, and how to mend it."""

from __future__ import annotations

import shlex

from sqlalchemy.engine import Engine

from flows import ledger
from flows.errors import UnavailableError
from flows.ledger import Promotion
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import registry
from flows.steps.manifest import SERVING
from flows.steps.promotion import rollback_target
from flows.steps.storage import missing


def problems(settings: Settings, spec: ModelSpec, engine: Engine) -> list[str]:
    """Return a line for each thing that is gone: what it is, what still works without it, how to mend it."""
    history = ledger.list_promotions(engine, spec.name)
    wanted = {"champion": history[0] if history else None, "rollback target": rollback_target(history)}
    try:
        known = {one.version for one in registry.versions(settings, spec.name)} if any(wanted.values()) else set()
    except UnavailableError as error:
        return [str(error)]
    found = []
    for role, promotion in wanted.items():
        if promotion is None:
            continue
        name = f"version {promotion.version}, the {role},"
        if promotion.version not in known:
            found.append(
                f"{name} was deleted in MLflow; the ledger and its files still stand for it, so it serves and can be "
                "rolled back to; to have it in MLflow again, `evergreen train --force` and promote what comes of it"
            )
        if missing([f"{promotion.model_uri}/{SERVING}"]):
            found.append(f"{name} has lost its files in {promotion.model_uri}; {_mend(settings, promotion)}")
    return found


def _mend(settings: Settings, promotion: Promotion) -> str:
    copy = settings.cache / promotion.model / promotion.digest
    if (copy / SERVING).is_file():
        target = promotion.model_uri
        return (
            "the service has a copy and serves on; put it back with "
            f"`mkdir -p {shlex.quote(target)} && cp {shlex.quote(str(copy))}/* {shlex.quote(target)}/`"
        )
    return "there is no copy; promote another version, or `evergreen train --force`"
