"""MLflow: a training run, logged whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps.files import sha256_of, write_text
from flows.steps.mlflow_model import write_mlmodel
from flows.steps.registry import (
    DIGEST,
    EVIDENCE,
    EVIDENCE_DIGEST,
    FAILED,
    FINGERPRINT,
    LINEAGE,
    LINEAGE_DIGEST,
    REASON,
    WORK,
    open_client,
    path_of,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from flows.steps.lineage import Lineage


def log_run(
    settings: Settings,
    spec: ModelSpec,
    *,
    lineage: Lineage,
    evidence: Mapping[str, Any],
    bundle: Path,
    pictures: Path,
    card: Path | None = None,
    metrics: Mapping[str, float],
    passed: bool,
    digest: str,
    work_key: str = "",
) -> tuple[str, str, str]:
    """Log a training run whole: parameters, metrics, evidence, lineage, pictures, card, model; return run, model and folder.

    The run is finished last; one that broke off is marked as killed by the next attempt with the same ``work_key``, and a
    version of it cannot be promoted. One that was finished and could not say so is returned as it is, if its gates failed
    and passed as these: latency is measured anew.
    """
    from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

    evidence_file = write_text(bundle / EVIDENCE, json.dumps(evidence, indent=1) + "\n")
    record = json.dumps(lineage.model_dump(mode="json"), indent=1) + "\n"
    write_mlmodel(bundle)
    client = open_client(settings)
    experiment = experiment_of(client, settings, spec.name)
    failed = ", ".join(evidence["failed"])
    before = _logged_before(client, experiment, work_key, digest, failed) if work_key else None
    if before:
        return before
    started = min((stage.start for stage in lineage.stages), default=datetime.now(UTC))
    verdict = "passed" if passed else "refused"
    run = client.create_run(
        experiment, start_time=_milliseconds(started), run_name=f"{spec.name} {started:%Y-%m-%d %H:%M:%S} {verdict}",
        tags={
            "mlflow.user": lineage.executor, "mlflow.source.git.commit": lineage.code.commit or "",
            "evergreen.gates": verdict, REASON: lineage.reason, FINGERPRINT: lineage.fingerprint,
            "evergreen.prefect_run": lineage.run_id, DIGEST: digest, WORK: work_key,
            EVIDENCE_DIGEST: sha256_of(evidence_file), LINEAGE_DIGEST: sha256(record.encode()).hexdigest(),
        },
    )  # fmt: skip
    run_id, now = run.info.run_id, _milliseconds(datetime.now(UTC))
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
        params=[
            Param(name, str(one)[:6000]) for name, one in {"estimator": lineage.estimator, **lineage.params}.items()
        ],
        tags=[RunTag(FAILED, failed)],
    )
    source = json.dumps({"partitions": [f"{p.key} r{p.revision}" for p in lineage.partitions]})
    dataset = Dataset(f"{spec.name} training set", lineage.training_set_sha256[:36], "evergreen", source[:60000])
    client.log_inputs(run_id, datasets=[DatasetInput(dataset)])
    client.log_text(run_id, record, LINEAGE)
    client.log_dict(run_id, dict(evidence), EVIDENCE)
    client.log_artifacts(run_id, str(pictures), "pictures")
    if card:
        client.log_artifact(run_id, str(card))
    logged = client.create_logged_model(experiment, name=spec.name, source_run_id=run_id, tags={DIGEST: digest})
    client.log_model_artifacts(logged.model_id, str(bundle))
    client.finalize_logged_model(logged.model_id, "READY")
    client.set_terminated(run_id, "FINISHED")
    return run_id, logged.model_id, path_of(logged.artifact_location)


def _logged_before(
    client: MlflowClient, experiment: str, key: str, digest: str, failed: str
) -> tuple[str, str, str] | None:
    """Return what an earlier attempt at the same work has logged whole; those that broke off are marked as killed."""
    runs = client.search_runs([experiment], f"tags.`{WORK}` = '{key}'")
    for run in runs:
        if run.info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "KILLED")
        elif run.info.status == "FINISHED" and (run.data.tags.get(DIGEST), run.data.tags.get(FAILED, "")) == (
            digest,
            failed,
        ):
            models = client.search_logged_models([experiment], f"source_run_id = '{run.info.run_id}'")
            if models:
                return run.info.run_id, models[0].model_id, path_of(models[0].artifact_location)
    return None


def experiment_of(client: MlflowClient, settings: Settings, name: str) -> str:
    """Return the id of an experiment, made if it is not there, restored with its runs if somebody deleted it."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=_artifacts(settings)))
        except MlflowException:  # another process made it in between
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":  # MLflow keeps its name, and lets nothing be logged into it
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _artifacts(settings: Settings) -> str | None:
    """Return where clients put a model's artifacts; None leaves it to a server without a bucket."""
    if settings.storage_url:
        return f"{settings.storage_url}/{settings.artifacts.name}"
    return None if settings.tracking_uri.startswith("http") else str(settings.artifacts)


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
