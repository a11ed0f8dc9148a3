"""Copying a version from one registry to another: run, lineage, pictures and bundle, hashes checked on both sides."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from sqlalchemy.engine import Engine

from flows import ledger
from flows.errors import RefusedError, TamperedError
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import promotion, registry, run_log, storage, version_record
from flows.steps.bundle import load_bundle
from flows.steps.files import sha256_of
from flows.steps.lineage import Lineage
from flows.steps.registry import Version

LEFT = ("MLmodel", "requirements.txt", "python_env.yaml", registry.EVIDENCE)  # written again by the target


def served(engine: Engine, model: str) -> int:
    """Return the number of the version that serves; raises RefusedError if none does."""
    reigning = ledger.champion(engine, model)
    if reigning is None:
        raise RefusedError(f"{model} has no champion to copy; promote one there first, or name a version")
    return reigning.version


def refuse_incomparable(source: Engine, target: Engine, model: str) -> None:
    """Raise RefusedError if the target's champion never served in the source.

    What the gates of the source compare with are its own champions, each with the one before: a version stands against
    the target's champion only through them.
    """
    reigning = ledger.champion(target, model)
    known = {one.digest for one in ledger.list_promotions(source, model)}
    if reigning is not None and reigning.digest not in known:
        raise RefusedError(
            f"{model}: the target's champion, version {reigning.version}, never served in the source, so no gate has "
            "compared the two; say with --why why it shall be replaced all the same"
        )


def copy_version(source: Settings, target: Settings, spec: ModelSpec, number: int, above: int = 0) -> Version:
    """Copy a version that may serve into the target's registry and return it there; again makes no second one.

    Its number in the target is the target's next, ``above`` what its ledger knows. Raises RefusedError if it may not serve
    or its lineage is gone, TamperedError if what arrived is not what was sent; the target's champion is not touched.
    """
    version = registry.get_version(source, spec.name, number)
    evidence = promotion.check(source, version)
    target.home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="transfer-", dir=target.home) as folder:
        bundle = Path(folder) / "bundle"
        with storage.folder(source, version.folder) as files:
            shutil.copytree(files, bundle, ignore=shutil.ignore_patterns(*LEFT))
        pictures = Path(folder) / "pictures"
        lineage, metrics, card = _fetch(source, version, pictures)
        load_bundle(bundle, version.digest, target.trusted_types)
        run_id, model_id, kept = run_log.log_run(
            target, spec, lineage=lineage, evidence=evidence, bundle=bundle, pictures=pictures, card=card, metrics=metrics,
            passed=True, digest=version.digest, work_key=f"copy of {version.run_id}",
        )  # fmt: skip
    made = registry.register(target, spec, lineage, run_id, model_id, kept, version.digest, above)
    _compare(source, target, version, made)
    client = registry.open_client(target)
    origin = f"version {version.version}, run {version.run_id}"
    client.set_tag(run_id, registry.ORIGIN, origin)
    client.set_model_version_tag(spec.name, str(made.version), registry.ORIGIN, origin)
    return made


def _fetch(source: Settings, version: Version, pictures: Path) -> tuple[Lineage, dict[str, float], Path | None]:
    """Bring the pictures into a folder and return lineage, metrics and model card of a version's run."""
    client = registry.open_client(source)
    run = client.get_run(version.run_id)
    pictures.mkdir(parents=True)
    try:
        for one in client.list_artifacts(version.run_id, "pictures"):
            shutil.copy(client.download_artifacts(version.run_id, one.path), pictures)
        card = pictures.with_name(registry.CARD)
        if version_record.artifact(source, version.run_id, registry.CARD):
            shutil.copy(client.download_artifacts(version.run_id, registry.CARD), card)
    except OSError as error:
        raise RefusedError(
            f"{version.model} version {version.version}: the artifacts of its run cannot be read ({error}); restore them, "
            "or copy another version"
        ) from error
    lineage = version_record.read_lineage(source, version)
    return lineage, dict(run.data.metrics), card if card.exists() else None


def _compare(source: Settings, target: Settings, sent: Version, made: Version) -> None:
    """Raise TamperedError unless a copy has the bytes, the evidence and the fingerprint of what was sent."""
    registry.read_evidence(made)
    with storage.folder(source, sent.folder) as theirs, storage.folder(target, made.folder) as ours:
        load_bundle(ours, sent.digest, target.trusted_types)
        for name in ("serving.json", "model.skops", registry.EVIDENCE):
            if sha256_of(theirs / name) != sha256_of(ours / name):
                raise TamperedError(
                    f"{sent.model} version {made.version}: {name} did not arrive as it was sent; delete this version in "
                    "MLflow and copy again"
                )
    if (made.digest, made.fingerprint) != (sent.digest, sent.fingerprint):
        raise TamperedError(
            f"{sent.model} version {made.version} is not registered as what was sent; delete it in MLflow and copy again"
        )
