"""MLflow: the only code that registers versions and moves aliases."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from flows.errors import RefusedError, UnavailableError
from flows.locks import locked
from flows.secret import shown
from flows.settings import Settings
from flows.spec import Frozen, ModelSpec
from flows.steps import storage

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from flows.steps.lineage import Lineage

EVIDENCE, LINEAGE, CARD = "evidence.json", "lineage.json", "card.html"
DIGEST, FINGERPRINT, REASON = "evergreen.digest", "evergreen.fingerprint", "evergreen.reason"
EVIDENCE_DIGEST, WORK, REFUSED = "evergreen.evidence_sha256", "evergreen.work", "evergreen.refused"
FAILED, LINEAGE_DIGEST = "evergreen.failed_gates", "evergreen.lineage_sha256"
ORIGIN = "evergreen.copied_from"  # of a version that came from another place
CHAMPION, CHALLENGER = "champion", "challenger"
GLANCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


class Version(Frozen):
    """A registered version: its number, the run that made it, its bundle's folder and digest, who refused it and why."""

    model: str
    version: int
    run_id: str
    folder: str
    digest: str
    evidence_digest: str = ""
    lineage_digest: str = ""  # none of a version from before it was registered
    refused: str = ""
    fingerprint: str
    reason: str
    created_at: datetime


@contextmanager
def at_a_glance() -> Iterator[None]:
    """Ask MLflow once and for seconds only, for as long as the block runs: for a look at whether it answers."""
    before = {name: os.environ.get(name) for name in GLANCE}
    os.environ.update(GLANCE)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def open_client(settings: Settings) -> MlflowClient:
    """Open MLflow's tracking and registry; its schema is made and brought up to date once, under a lock.

    Raises UnavailableError if it does not answer.
    """
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # what fails is raised as well
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import mlflow
    from mlflow import MlflowClient

    # A server has made its own schema.
    with nullcontext() if settings.tracking_uri.startswith("http") else locked(settings, "mlflow", 120):
        try:
            mlflow.set_tracking_uri(settings.tracking_uri)
            mlflow.set_registry_uri(settings.tracking_uri)
            client = MlflowClient(settings.tracking_uri, settings.tracking_uri)
            client.search_experiments(max_results=1)
        except Exception as error:
            raise UnavailableError(
                f"MLflow at {shown(settings.tracking_uri)} cannot be opened ({type(error).__name__}); start it, or run "
                "`mlflow db upgrade` on it if it is older"
            ) from error
    return client


def register(
    settings: Settings,
    spec: ModelSpec,
    lineage: Lineage,
    run_id: str,
    model_id: str,
    folder: str,
    digest: str,
    above: int = 0,
) -> Version:
    """Register a logged model as the next version and give it the alias ``challenger``; twice makes one version.

    A new version has a number ``above`` the highest that the ledger knows: a model that was deleted whole in MLflow, or is
    in a new database, counts from 1 again, and one number would be two versions.
    """
    from mlflow.exceptions import MlflowException

    client = open_client(settings)
    try:
        client.create_registered_model(spec.name, description=spec.description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # A call that MLflow obeyed but did not answer is made again.
    made = next(iter(client.search_model_versions(f"name = '{spec.name}' and run_id = '{run_id}'")), None)
    if made is None:
        run = client.get_run(run_id)
        make = partial(
            client.create_model_version, spec.name, source=folder, run_id=run_id, model_id=model_id,
            description=f"[Model card](#/experiments/{run.info.experiment_id}/runs/{run_id}/artifacts/{CARD})",
            tags={
                DIGEST: digest, FINGERPRINT: lineage.fingerprint, REASON: lineage.reason,
                EVIDENCE_DIGEST: run.data.tags.get(EVIDENCE_DIGEST, ""),
                LINEAGE_DIGEST: run.data.tags.get(LINEAGE_DIGEST, ""),
            },
        )  # fmt: skip
        made = make()
        while int(made.version) <= above:  # a number that was deleted is not given again
            client.delete_model_version(spec.name, made.version)
            made = make()
    client.set_registered_model_alias(spec.name, CHALLENGER, made.version)
    return _version(made)


def versions(settings: Settings, model: str) -> list[Version]:
    """Return the registered versions of a model, newest first; those that others registered without our tags left out."""
    if not settings.mlflow_exists:  # to ask would make it
        return []
    client = open_client(settings)
    found = client.search_model_versions(f"name = '{model}'", max_results=1000)
    ours = [_version(one) for one in found if DIGEST in one.tags]
    return sorted(ours, key=lambda one: -one.version)


def get_version(settings: Settings, model: str, version: int) -> Version:
    """Return a version.

    Raises RefusedError if there is none, or if it was not registered by a finished training run, and UnavailableError if
    MLflow fails.
    """
    unknown = f"{model} has no version {version}; `evergreen versions` lists them"
    if not settings.mlflow_exists:
        raise RefusedError(unknown)
    from mlflow.exceptions import MlflowException

    client = open_client(settings)
    try:
        found = client.get_model_version(model, str(version))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise UnavailableError(
                f"MLflow could not say whether there is a {model} version {version} ({error.error_code}); its log says why: "
                "mend it, then run again"
            ) from error
        raise RefusedError(unknown) from error
    if DIGEST not in found.tags or not found.run_id:
        raise RefusedError(
            f"{model} version {version} was not made by `evergreen train`, so nothing vouches for it; train one"
        )
    try:
        status = client.get_run(found.run_id).info.status
    except MlflowException:
        status = "gone"
    if status != "FINISHED":
        raise RefusedError(
            f"{model} version {version}: its training run is {status.lower()}, not finished; train again"
        )
    return _version(found)


def read_evidence(version: Version) -> dict[str, Any]:
    """Return the gates, metrics and slices that were logged with a version.

    Raises RefusedError if they are gone, or are not those that were registered.
    """
    what = f"{version.model} version {version.version}: {EVIDENCE} in {version.folder}"
    mend = "restore it, or promote another version"
    try:
        text = storage.read(f"{version.folder}/{EVIDENCE}")
    except OSError as error:
        raise RefusedError(f"{what} cannot be read ({error.strerror or 'it is not there'}); {mend}") from error
    if sha256(text).hexdigest() != version.evidence_digest:
        raise RefusedError(f"{what} is not what was registered (its sha256 differs); {mend}")
    try:
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("it is not an object")
    except ValueError as error:
        raise RefusedError(f"{what} cannot be read ({error}); {mend}") from error
    return found


def refuse(settings: Settings, version: Version, text: str) -> None:
    """Note with a version that a person has refused it, and why; it is not offered for promotion again."""
    open_client(settings).set_model_version_tag(version.model, str(version.version), REFUSED, text[:1000])


def aliases(settings: Settings, model: str) -> dict[str, int]:
    """Return the aliases of a model and the versions that they name; none if the model is not registered."""
    from mlflow.exceptions import MlflowException

    try:
        found = open_client(settings).get_registered_model(model).aliases
    except MlflowException:
        return {}
    return {name: int(version) for name, version in found.items()}


def follow(settings: Settings, model: str, version: int, digest: str) -> bool:
    """Make the alias ``champion`` name the ledger's champion; return whether it had to be repaired.

    The alias ``challenger`` is taken from a version that has become champion. Raises RefusedError if MLflow has the
    version no more, or another under its number, UnavailableError if it cannot be reached: the ledger stands all the same,
    and the next call repairs the alias.
    """
    from mlflow.exceptions import MlflowException

    client = open_client(settings)
    known = aliases(settings, model)
    try:
        there = client.get_model_version(model, str(version)).tags.get(DIGEST)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise _not_set(model, version, error) from error
        there = None
    if there != digest:
        raise RefusedError(
            f"the alias `{CHAMPION}` of {model} names {f'version {known[CHAMPION]}' if CHAMPION in known else 'nothing'}: "
            f"MLflow has not the version {version} that the ledger promoted"
        )
    try:
        if known.get(CHALLENGER) == version:
            client.delete_registered_model_alias(model, CHALLENGER)
        if known.get(CHAMPION) == version:
            return False
        client.set_registered_model_alias(model, CHAMPION, str(version))
    except Exception as error:
        raise _not_set(model, version, error) from error
    return True


def _not_set(model: str, version: int, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"the alias `{CHAMPION}` of {model} could not be set to version {version} ({type(error).__name__}); "
        "the ledger holds the promotion, `evergreen status` repairs the alias"
    )


def _version(found: Any) -> Version:
    return Version(
        model=found.name, version=int(found.version), run_id=found.run_id or "",
        folder=path_of(found.source), digest=found.tags[DIGEST],
        evidence_digest=found.tags.get(EVIDENCE_DIGEST, ""), lineage_digest=found.tags.get(LINEAGE_DIGEST, ""),
        refused=found.tags.get(REFUSED, ""),
        fingerprint=found.tags.get(FINGERPRINT, ""), reason=found.tags.get(REASON, ""),
        created_at=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
    )  # fmt: skip


def path_of(uri: Any) -> str:
    """Return where MLflow has put something, as a path or an address that is no file's."""
    return str(uri).removeprefix("file://")
