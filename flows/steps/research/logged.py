"""Experiments in MLflow: runs of an experiment of their own, with the code that they ran, read again by their id."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from flows.database import now
from flows.errors import RefusedError, TamperedError
from flows.settings import Settings
from flows.spec import Frozen, ModelSpec
from flows.steps import registry, run_log
from flows.steps.processes import person
from flows.steps.research.source import Given, digest_of
from flows.steps.training_set import TrainingSet

if TYPE_CHECKING:
    from mlflow import MlflowClient

CODE = "estimator.py"
MODEL, CODE_DIGEST, NO_CODE, VERDICT = (
    "evergreen.model",
    "evergreen.code_sha256",
    "evergreen.no_code",
    "evergreen.verdict",
)
PARAMS = "params.json"
IMPORTS = "imports.json"


class Adoptable(Frozen):
    """What is known of an experiment when it is adopted: its code, whose hash was compared, and what it came to.

    ``imports`` are the modules of our own that the code imports, each with the sha256 of the text that was measured.
    """

    model: str
    name: str
    code: str
    params: dict[str, Any]
    verdict: str
    imports: dict[str, str] = Field(default_factory=dict)


def experiment_name(model: str) -> str:
    """Return the name of the MLflow experiment that a model's experiments are logged to."""
    return f"{model}-research"


def log(
    settings: Settings,
    spec: ModelSpec,
    given: Given,
    data: TrainingSet,
    *,
    verdict: str,
    note: str,
    evidence: Mapping[str, Any],
    metrics: Mapping[str, float],
    pictures: Path,
) -> str:
    """Log an experiment whole, finished last: parameters, metrics, evidence, pictures, code; return the run's id."""
    client = _client(settings)
    from mlflow.entities import Dataset, DatasetInput, Metric, Param

    experiment = run_log.experiment_of(client, settings, experiment_name(spec.name))
    moment = round(now().timestamp() * 1000)
    failed = ", ".join(evidence["failed"])
    run = client.create_run(
        experiment, start_time=moment, run_name=f"{given.name} {now():%Y-%m-%d %H:%M:%S}",
        tags={
            "mlflow.user": person(), "mlflow.note.content": note,
            MODEL: spec.name, CODE_DIGEST: given.digest, NO_CODE: given.why[:500], VERDICT: verdict,
            "evergreen.gates": "refused" if failed else "passed", "evergreen.failed_gates": failed,
        },
    )  # fmt: skip
    run_id = str(run.info.run_id)
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, moment, 0) for name, value in metrics.items()],
        params=[Param(name, str(one)[:6000]) for name, one in {"estimator": given.name, **given.params}.items()],
    )
    window = data.window.model_dump_json(exclude={"partition_ids"})
    dataset = Dataset(f"{spec.name} training set", data.digest[:36], "evergreen", window)
    client.log_inputs(run_id, datasets=[DatasetInput(dataset)])
    client.log_dict(run_id, dict(evidence), registry.EVIDENCE)
    client.log_artifacts(run_id, str(pictures), "pictures")
    if given.code:
        client.log_text(run_id, given.code, CODE)
        client.log_text(run_id, given.params_text, PARAMS)
        client.log_dict(run_id, dict(given.imports), IMPORTS)
    client.set_terminated(run_id, "FINISHED")
    return run_id


def read(settings: Settings, run_id: str, model: str | None) -> Adoptable:
    """Return the code of an experiment that may be adopted.

    Raises RefusedError if there is no such experiment, it is another model's, or its source is not known; TamperedError
    if the code is not what was logged.
    """
    missing = f"{run_id[:64]} is no run of an experiment; the experiment's own record names it"
    if not settings.mlflow_exists:
        raise RefusedError(missing)
    client = _client(settings)
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise RefusedError(missing) from error
    tags = run.data.tags
    of = tags.get(MODEL)
    if of is None or CODE_DIGEST not in tags:
        raise RefusedError(f"{run_id} is a run of MLflow, but no experiment of the workbench; adopt one of those")
    if model is not None and of != model:
        raise RefusedError(f"{run_id} is an experiment of {of}, not of {model}; give --model {of}, or a run of {model}")
    if run.info.status != "FINISHED":
        raise RefusedError(f"{run_id} is {run.info.status.lower()}, not finished; run the experiment again")
    if not tags[CODE_DIGEST]:
        raise RefusedError(f"{run_id} cannot be adopted: {tags.get(NO_CODE) or 'its source is not known'}")
    with tempfile.TemporaryDirectory(prefix="evergreen-") as folder:
        try:
            code, params = (Path(client.download_artifacts(run_id, one, folder)).read_bytes() for one in (CODE, PARAMS))
            has_imports = any(one.path == IMPORTS for one in client.list_artifacts(run_id))  # older runs have none
            imports = Path(client.download_artifacts(run_id, IMPORTS, folder)).read_text() if has_imports else "{}"
        except (MlflowException, OSError) as error:
            raise RefusedError(f"{run_id}: its code is gone from MLflow; run the experiment again") from error
    if digest_of(code, params) != tags[CODE_DIGEST]:
        raise TamperedError(f"{run_id}: its code is not what was logged (the sha256 differs); find out who changed it")
    return Adoptable(
        model=of, name=run.data.params.get("estimator", ""), code=code.decode(), params=json.loads(params),
        verdict=tags.get(VERDICT, ""), imports=json.loads(imports),
    )  # fmt: skip


def _client(settings: Settings) -> MlflowClient:
    """Open MLflow without the warnings of its own libraries, which say nothing to a researcher."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return registry.open_client(settings)
