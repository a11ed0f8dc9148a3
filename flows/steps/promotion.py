"""Which version may serve: what is checked before a promotion, and where a rollback leads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import Engine

from flows import ledger
from flows.errors import ConflictError, EvergreenError, RefusedError
from flows.ledger import Promotion
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import registry, storage
from flows.steps.bundle import load_bundle
from flows.steps.registry import Version


def choose(settings: Settings, spec: ModelSpec, engine: Engine, wanted: int | None) -> Version:
    """Return the wanted version, or the newest that was never promoted and nobody has refused.

    Raises RefusedError if there is none.
    """
    if wanted is not None:
        return registry.get_version(settings, spec.name, wanted)
    promoted = {promotion.version for promotion in ledger.list_promotions(engine, spec.name)}
    last = max(promoted, default=0)
    newer = [one for one in registry.versions(settings, spec.name) if one.version > last and not one.refused]
    if not newer:
        raise RefusedError(
            f"{spec.name}: no challenger waits for promotion; train one, or name a version: `evergreen versions` lists them"
        )
    return registry.get_version(settings, spec.name, newer[0].version)


def check(settings: Settings, version: Version) -> dict[str, Any]:
    """Return the evidence of a version that may serve: its gates passed, and its files are those that were judged.

    Raises RefusedError with the reason otherwise: a file is missing or altered, holds a type that nobody trusts, or
    does not predict as it did when it was fitted.
    """
    evidence = registry.read_evidence(version)
    name, gates = f"{version.model} version {version.version}", evidence.get("gates")
    if not isinstance(gates, list) or not gates or evidence.get("failed") is None:
        raise RefusedError(f"{name} has no record of its gates; it cannot be promoted")
    # Both are looked at, so that evidence that contradicts itself does not pass.
    failed = {*evidence["failed"], *(str(gate.get("gate")) for gate in gates if gate.get("passed") is not True)}
    if failed:
        raise RefusedError(f"{name} failed its gates: {', '.join(sorted(failed))}; it cannot be promoted")
    _open(settings, f"{name} cannot be promoted", version.folder, version.digest)
    return evidence


def refuse_stale(version: Version, evidence: dict[str, Any], champion: Promotion | None) -> None:
    """Raise ConflictError if a version was judged against another champion than this one."""
    reigning = champion.version if champion else None
    if evidence.get("champion") != reigning:
        raise ConflictError(
            f"{version.model} version {version.version} was judged against version {evidence.get('champion')}, but "
            f"the champion is version {reigning} by now; train again, or promote it by hand"
        )


def promote(
    spec: ModelSpec,
    engine: Engine,
    version: Version,
    evidence: dict[str, Any],
    expected: Promotion | None,
    who: str,
    why: str,
) -> Promotion:
    """Write the promotion of a checked version into the ledger, if ``expected`` still is the promotion in force.

    Raises RefusedError if it is the champion already, ConflictError if another promotion came first.
    """
    if expected and expected.version == version.version:
        raise RefusedError(f"{spec.name} version {version.version} is the champion already; nothing to do")
    return ledger.promote(
        engine, model=spec.name, expected=expected, kind="promote", version=version.version, run_id=version.run_id,
        model_uri=version.folder, digest=version.digest, who=who, why=why, evidence=evidence,
    )  # fmt: skip


def roll_back(settings: Settings, spec: ModelSpec, engine: Engine, who: str, why: str) -> Promotion:
    """Promote what served before the champion, as it was; raises RefusedError if there is nothing to go back to."""
    target, champion = rollback_goal(engine, spec)
    _open(settings, f"{spec.name}: cannot roll back to version {target.version}", target.model_uri, target.digest)
    return ledger.promote(
        engine, model=spec.name, expected=champion, kind="rollback", version=target.version, run_id=target.run_id,
        model_uri=target.model_uri, digest=target.digest, who=who, why=why,
        evidence={**target.evidence, "rolled_back_from": champion.version},
    )  # fmt: skip


def rollback_goal(engine: Engine, spec: ModelSpec) -> tuple[Promotion, Promotion]:
    """Return what a rollback goes back to, and the champion that it takes back; raises RefusedError if there is nothing."""
    history = ledger.list_promotions(engine, spec.name)
    target = rollback_target(history)
    if target is None:
        raise RefusedError(f"{spec.name}: nothing to roll back to, no version served before the champion")
    return target, history[0]


def _open(settings: Settings, refusal: str, folder: str, digest: str) -> None:
    try:
        with storage.folder(settings, folder) as files:
            load_bundle(files, digest, settings.trusted_types)
    except EvergreenError as error:
        raise RefusedError(f"{refusal}: {error}") from error


def rollback_target(history: Sequence[Promotion]) -> Promotion | None:
    """Return the promotion that a rollback goes back to, from the history, newest first.

    A rollback takes back the newest promotion that stands, so that two of them go back two steps and do not swing to and
    fro.
    """
    kept = standing(history)
    return kept[-2] if len(kept) > 1 else None


def standing(history: Sequence[Promotion]) -> list[Promotion]:
    """Return the promotions that stand, oldest first, from the history, newest first."""
    found: list[Promotion] = []
    for promotion in reversed(history):
        if promotion.kind == "promote":
            found.append(promotion)
        else:
            found.pop()
    return found
