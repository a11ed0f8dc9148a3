"""What is kept of a version, read back: its lineage, its evidence, its figures and where its model card is."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from pydantic import ValidationError

from flows.errors import EvergreenError, RefusedError
from flows.settings import Settings
from flows.spec import Frozen
from flows.steps import registry
from flows.steps.lineage import Lineage
from flows.steps.registry import Version


class VersionRecord(Frozen):
    """A registered version with all that was written when it was made; ``origin`` says where a copied one came from."""

    version: Version
    lineage: Lineage
    evidence: dict[str, Any]
    card: str = ""
    origin: str = ""


def read(settings: Settings, model: str, number: int) -> VersionRecord:
    """Return the record of a version. Raises RefusedError if there is no such version, or its record is gone."""
    if not settings.mlflow_exists:
        raise RefusedError(f"{model} has no version {number}: nothing was trained in {settings.home}")
    version = registry.get_version(settings, model, number)
    run = registry.open_client(settings).get_run(version.run_id)
    card = artifact(settings, version.run_id, registry.CARD)
    return VersionRecord(
        version=version, lineage=read_lineage(settings, version), evidence=registry.read_evidence(version),
        card=card or "", origin=run.data.tags.get(registry.ORIGIN, ""),
    )  # fmt: skip


def read_lineage(settings: Settings, version: Version) -> Lineage:
    """Return the lineage that was logged with a version.

    Raises RefusedError if it is gone, cannot be read, or is not what was registered: a reproduction does what it says.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        uri = artifact(settings, version.run_id, registry.LINEAGE)
        text = mlflow.artifacts.load_text(uri or registry.LINEAGE)
        if version.lineage_digest and sha256(text.encode()).hexdigest() != version.lineage_digest:
            raise RefusedError(
                f"{version.model} version {version.version}: its lineage is not what was registered (its sha256 differs); "
                "restore the artifacts of its run, or take another version"
            )
        return Lineage.model_validate_json(text)
    except (OSError, ValueError, ValidationError, MlflowException) as error:
        raise RefusedError(
            f"{version.model} version {version.version}: its lineage cannot be read ({type(error).__name__}); "
            "restore the artifacts of its run, or take another version"
        ) from error


def artifact(settings: Settings, run_id: str, name: str) -> str | None:
    """Return where a file that was logged with a run is, a path on this machine if it is one; None if it is not there."""
    client = registry.open_client(settings)
    if not any(one.path == name for one in client.list_artifacts(run_id)):
        return None
    return f"{client.get_run(run_id).info.artifact_uri}/{name}".removeprefix("file://")


def ancestors(settings: Settings, record: VersionRecord) -> list[VersionRecord]:
    """Return the versions that a version was judged against, each against the one after it, as far as they can be read.

    A copied version's champion is one of the place it came from: its number means nothing here.
    """
    found: list[VersionRecord] = []
    number = None if record.origin else record.lineage.champion_version
    seen = {record.version.version}
    while number is not None and number not in seen:
        seen.add(number)
        try:
            found.append(read(settings, record.version.model, number))
        except EvergreenError:  # who asks sees that the chain ends here
            break
        number = None if found[-1].origin else found[-1].lineage.champion_version
    return found
