"""Writing a model bundle: the estimator, its compiled form, and last the manifest that vouches for both."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.spec import ModelSpec
from flows.steps import metrics
from flows.steps.bundle import MODEL, PACKAGES, as_rows
from flows.steps.compiled import COMPILED
from flows.steps.files import replacing, sha256_of, write_text
from flows.steps.manifest import SERVING, CompiledForm, Golden, Manifest
from flows.steps.model_file import write_estimator

if TYPE_CHECKING:
    from flows.steps.evaluation import Predicted
    from flows.steps.training_set import TrainingSet

GOLDEN_ROWS = 50


def save_bundle(spec: ModelSpec, estimator: Any, data: TrainingSet, folder: Path) -> str:
    """Write a fitted estimator and its manifest into a folder and return the bundle's digest, the sha256 of the latter.

    ``serving.json`` comes last and holds the hash of ``model.skops``, so a write that broke off is never taken for a
    bundle. Raises ContractError if skops cannot write the estimator.
    """
    from flows.steps.evaluation import part

    write_estimator(estimator, folder / MODEL, spec.estimator)
    judged = part(data, "judge")
    judged = replace(judged, scores=metrics.predict(estimator, spec.task, judged.inputs))
    return write_manifest(spec, estimator, judged, folder)


def write_manifest(spec: ModelSpec, estimator: Any, judged: Predicted, folder: Path) -> str:
    """Write the manifest of an estimator whose ``model.skops`` is in the folder, and return the bundle's digest.

    ``judged`` is the judging part with what the estimator says of it.
    """
    rows = len(judged.inputs)
    chosen = np.unique(np.linspace(0, rows - 1, min(GOLDEN_ROWS, rows)).astype(np.int64))
    frame = judged.inputs.iloc[chosen]
    outputs = as_rows(metrics.predict(estimator, spec.task, frame))
    form = _write_compiled(estimator, spec.task, judged, folder)
    names = tuple(map(str, frame.columns))
    classes = getattr(estimator, "classes_", None)
    manifest = Manifest(
        model=spec.name,
        task=spec.task,
        estimator=f"{type(estimator).__module__}.{type(estimator).__qualname__}",
        feature_names=names,
        feature_types=tuple("float" if frame[name].dtype.kind == "f" else "string" for name in names),
        classes=None if classes is None or spec.task == "regression" else tuple(np.asarray(classes).tolist()),
        request=spec.request,
        key=spec.key,
        event_time=spec.source.event_time,
        time_zone=spec.source.time_zone,
        entities=spec.entities,
        feature_service=spec.feature_service,
        label=spec.label.name,
        label_unit=spec.label.unit,
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        model_sha256=sha256_of(folder / MODEL),
        compiled=form,
        golden=Golden(
            inputs=tuple(tuple(_plain(value) for value in row) for row in frame.itertuples(index=False, name=None)),
            outputs=tuple(tuple(_plain(value) for value in row) for row in outputs),
        ),
    )
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, allow_nan=False)
    write_text(folder / SERVING, text + "\n")
    return sha256_of(folder / SERVING)


def _write_compiled(estimator: Any, task: str, judged: Predicted, folder: Path) -> CompiledForm:
    """Write the compiled form of an estimator if it has one that answers as it does on the judging part."""
    from flows.steps.compiled_check import compile_checked

    data, far, reason = compile_checked(estimator, task, judged.inputs, judged.scores)
    if not data:
        (folder / COMPILED).unlink(missing_ok=True)
        return CompiledForm(difference=far if np.isfinite(far) else None, reason=reason)
    with replacing(folder / COMPILED) as temporary:
        temporary.write_bytes(data)
    return CompiledForm(sha256=sha256(data).hexdigest(), difference=far, reason="")


def _plain(value: Any) -> float | str | None:
    """Return a cell as JSON can hold it: None where it is missing, infinities by their names."""
    if value is None or isinstance(value, str):
        return value
    number = float(value)
    if np.isnan(number):
        return None
    return number if np.isfinite(number) else str(number)
