"""The champion and what a rollback would lead to, as the doctor sees them: in MLflow, on disk, in the service's cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.engine import Engine

from flows import ledger
from flows.errors import EvergreenError, UnavailableError
from flows.ledger import Promotion
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import promotion, registry
from flows.steps.bundle import load_bundle
from flows.steps.finding import Finding
from flows.steps.storage import folder


def champions(settings: Settings, spec: ModelSpec, engine: Engine) -> Iterator[Finding]:
    """Yield what there is to say of the champion, its alias and the rollback target."""
    history = ledger.list_promotions(engine, spec.name)
    alias = registry.aliases(settings, spec.name).get(registry.CHAMPION)
    if not history:
        yield _without_history(alias)
        return
    registered = {one.version for one in registry.versions(settings, spec.name)}
    for part, one in (("champion", history[0]), ("rollback target", promotion.rollback_target(history))):
        if one is None:
            yield Finding(part, "good", "none: no version served before the champion")
        else:
            yield _version(settings, spec, part, one, registered)
    if alias != history[0].version and history[0].version in registered:
        named = f"names version {alias}" if alias else "is gone"
        yield Finding(
            "MLflow alias",
            "warning",
            f"`{registry.CHAMPION}` {named}, the ledger says version {history[0].version}",
            "`evergreen status` repairs it",
        )


def _without_history(alias: int | None) -> Finding:
    if alias is None:
        return Finding("champion", "good", "none yet")
    return Finding(
        "champion", "warning", f"none in the ledger, and MLflow's alias `{registry.CHAMPION}` names version {alias}",
        f"was the ledger deleted or replaced? Restore a backup of it, or `evergreen promote {alias}`",
    )  # fmt: skip


def _version(settings: Settings, spec: ModelSpec, part: str, one: Promotion, registered: set[int]) -> Finding:
    other = (
        "`evergreen promote VERSION`" if part == "champion" else "none needed until a rollback: promote a good version"
    )
    try:
        with folder(settings, one.model_uri) as files:
            load_bundle(files, one.digest, settings.trusted_types)
    except EvergreenError as error:
        if isinstance(error, UnavailableError) and not isinstance(error.__cause__, FileNotFoundError):
            return Finding(part, "bad", f"version {one.version} cannot be looked at: {error}", "mend the storage first")
        copy = settings.cache / spec.name / one.digest
        mend = f"copy the files of {copy} to {one.model_uri}" if _intact(copy, one, settings) else "restore a backup"
        return Finding(part, "bad", f"version {one.version} cannot be opened: {error}", f"{mend}, or {other}")
    if one.version not in registered:
        return Finding(
            part,
            "bad",
            f"version {one.version} was deleted in MLflow; its files are whole, and the service goes on with them",
            f"`mlflow gc` must not run before it is registered again: restore a backup, or {other}",
        )
    return Finding(part, "good", f"version {one.version}: registered, files whole, predicts as when it was fitted")


def _intact(copy: Path, one: Promotion, settings: Settings) -> bool:
    try:
        load_bundle(copy, one.digest, settings.trusted_types)
    except EvergreenError:
        return False
    return True
