"""What is kept of a version, read back: its lineage, its evidence, its figures and where its model card is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flows.errors import EvergreenError, RefusedError
from flows.settings import Settings
from flows.spec import Frozen
from flows.steps import registry
from flows.steps.lineage import Lineage
from flows.steps.registry import Version

ORIGIN = "evergreen.copied_from"  # the tag of a version that came from another place


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
    return VersionRecord(
        version=version, lineage=read_lineage(settings, version), evidence=registry.read_evidence(version),
        card=_card(settings, version), origin=run.data.tags.get(ORIGIN, ""),
    )  # fmt: skip


def read_lineage(settings: Settings, version: Version) -> Lineage:
    """Return the lineage that was logged with a version; raises RefusedError if it is gone or cannot be read."""
    from mlflow.exceptions import MlflowException

    try:
        path = registry.open_client(settings).download_artifacts(version.run_id, registry.LINEAGE)
        return Lineage.model_validate(json.loads(Path(path).read_bytes()))
    except (OSError, ValueError, ValidationError, MlflowException) as error:
        raise RefusedError(
            f"{version.model} version {version.version}: its lineage cannot be read ({type(error).__name__}); "
            "restore the artifacts of its run, or take another version"
        ) from error


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


def _card(settings: Settings, version: Version) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(registry.open_client(settings).download_artifacts(version.run_id, registry.CARD))
    except (OSError, MlflowException):
        return ""
