"""The model bundle: a folder that holds an estimator in skops and, in ``serving.json``, what is needed to serve it.

Opening one trusts nothing: hashes first, then our list of types, then the golden rows must come out as when fitted.
"""

from __future__ import annotations

import json
import platform
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from flows.errors import ContractError, TamperedError
from flows.spec import Frozen, ModelSpec, RequestField
from flows.steps import metrics
from flows.steps.files import replacing, sha256_of, write_text
from flows.steps.trusted import TRUSTED_TYPES, check_archive, one_line, read_bytes

if TYPE_CHECKING:
    import pandas as pd

    from flows.steps.metrics import Floats
    from flows.steps.training_set import TrainingSet

MODEL = "model.skops"
SERVING = "serving.json"
GOLDEN_ROWS = 50
TOLERANCE = 1e-9  # relative, of the golden rows
PACKAGES = ("scikit-learn", "numpy", "scipy", "skops")
MAX_MODEL_BYTES = 2**30
MAX_SERVING_BYTES = 2**24

Row = tuple[float | str | None, ...]


class Golden(Frozen):
    """Rows from the judging part and what the estimator said of them when it had just been fitted.

    ``inputs`` are in the order of the features. ``outputs`` have one value a row for regression, one a class otherwise.
    None stands for NaN. Floats keep all their digits in JSON.
    """

    inputs: tuple[Row, ...] = Field(min_length=1)
    outputs: tuple[Row, ...] = Field(min_length=1)


class Manifest(Frozen):
    """What ``serving.json`` says of a model: input, output, key, and what it was made with."""

    model: str
    task: Literal["regression", "binary", "multiclass"]
    estimator: str
    feature_names: tuple[str, ...]
    feature_types: tuple[Literal["float", "string"], ...]
    classes: tuple[str | bool | int | float, ...] | None
    request: tuple[RequestField, ...]
    key: tuple[str, ...]
    event_time: str
    time_zone: str
    entities: dict[str, tuple[str, ...]]
    feature_service: str
    label: str
    label_unit: str
    versions: dict[str, str]
    model_sha256: str
    golden: Golden


@dataclass(frozen=True)
class Bundle:
    """An opened bundle."""

    manifest: Manifest
    estimator: Any

    def scores(self, frame: pd.DataFrame) -> Floats:
        """Return values (n,) for regression, class probabilities (n, classes) otherwise; extra columns are left out.

        Raises ContractError if a feature column is missing.
        """
        names = list(self.manifest.feature_names)
        missing = [name for name in names if name not in frame.columns]
        if missing:
            raise ContractError(
                f"{self.manifest.model}: the input lacks {', '.join(missing)}; the model needs {', '.join(names)}"
            )
        return metrics.predict(self.estimator, self.manifest.task, frame[names])


def frame_of(manifest: Manifest, columns: Sequence[Sequence[Any]]) -> pd.DataFrame:
    """Return the model's input from one sequence of values a feature: float64 with NaN for None, or strings."""
    import pandas as pd

    if "string" not in manifest.feature_types:  # one block, not one a column: a tenth of the time for one row
        return pd.DataFrame(np.array(columns, dtype=np.float64).T, columns=list(manifest.feature_names))
    return pd.DataFrame(
        {
            name: np.array(values, dtype=np.float64 if kind == "float" else object)
            for name, kind, values in zip(manifest.feature_names, manifest.feature_types, columns, strict=True)
        }
    )


def save_bundle(spec: ModelSpec, estimator: Any, data: TrainingSet, folder: Path) -> str:
    """Write a fitted estimator and its manifest into a folder and return the bundle's digest, the sha256 of the latter.

    ``serving.json`` comes last and holds the hash of ``model.skops``, so a write that broke off is never taken for a
    bundle. Raises ContractError if skops cannot write the estimator.
    """
    import skops.io

    from flows.steps.training_set import matrix, read_part

    rows = read_part(data, "judge")
    chosen = np.unique(np.linspace(0, rows.num_rows - 1, min(GOLDEN_ROWS, rows.num_rows)).astype(np.int64))
    frame = matrix(rows.take(chosen), data.features)
    outputs = _as_rows(metrics.predict(estimator, spec.task, frame))
    classes = getattr(estimator, "classes_", None)
    with replacing(folder / MODEL) as temporary:
        try:
            skops.io.dump(estimator, temporary, compression=zipfile.ZIP_DEFLATED)
        except (TypeError, ValueError, AttributeError, NotImplementedError, RecursionError) as error:
            raise ContractError(
                f"{spec.estimator}: skops cannot write this estimator ({one_line(error)}); "
                "use scikit-learn's own parts or importable classes, and no lambdas"
            ) from error
    manifest = Manifest(
        model=spec.name,
        task=spec.task,
        estimator=f"{type(estimator).__module__}.{type(estimator).__qualname__}",
        feature_names=data.features,
        feature_types=tuple("float" if frame[name].dtype.kind == "f" else "string" for name in data.features),
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
        golden=Golden(
            inputs=tuple(tuple(_plain(value) for value in row) for row in frame.itertuples(index=False, name=None)),
            outputs=tuple(tuple(_plain(value) for value in row) for row in outputs),
        ),
    )
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, allow_nan=False)
    write_text(folder / SERVING, text + "\n")
    return sha256_of(folder / SERVING)


def load_bundle(folder: Path, digest: str, trusted_types: Sequence[str] = ()) -> Bundle:
    """Open a bundle and check that its golden rows come out as they were fitted.

    Raises TamperedError if a file is not the recorded one or holds a type that nobody trusts, ContractError if it
    cannot be used here, for instance because another scikit-learn made it.
    """
    bundle = open_bundle(folder, digest, trusted_types)
    difference = golden_difference(bundle)
    if not difference <= TOLERANCE:
        raise ContractError(
            f"{folder}: the golden rows differ by {difference:.2g} (relative, tolerated {TOLERANCE:g}) from what was "
            f"fitted{_made_elsewhere(bundle.manifest)}; serve with the versions of its serving.json, or train again"
        )
    return bundle


def open_bundle(folder: Path, digest: str, trusted_types: Sequence[str] = ()) -> Bundle:
    """Open a bundle without looking at its golden rows.

    The bytes that were hashed are the bytes that are parsed. Raises as ``load_bundle``.
    """
    import skops.io

    text = read_bytes(folder / SERVING, MAX_SERVING_BYTES)
    if sha256(text).hexdigest() != digest:
        raise TamperedError(
            f"{folder / SERVING} is not the recorded file (sha256 is not {digest[:12]}…); "
            "restore it, or promote another version"
        )
    manifest = _parse_manifest(text, folder)
    data = read_bytes(folder / MODEL, MAX_MODEL_BYTES)
    if sha256(data).hexdigest() != manifest.model_sha256:
        raise TamperedError(
            f"{folder / MODEL} is not the recorded file (sha256 is not {manifest.model_sha256[:12]}…); "
            "restore it, or promote another version"
        )
    check_archive(data, folder / MODEL)
    try:
        unknown = sorted(set(skops.io.get_untrusted_types(data=data)) - TRUSTED_TYPES - set(trusted_types))
        if unknown:
            raise TamperedError(
                f"{folder / MODEL} holds types that nobody trusts: {', '.join(unknown[:5])}; if they are your own and "
                "safe, name them in EVERGREEN_TRUSTED_TYPES, else find out who wrote the file"
            )
        estimator = skops.io.loads(data, trusted=[*TRUSTED_TYPES, *trusted_types])
    except TamperedError:
        raise
    except Exception as error:  # whatever a crafted file, or another scikit-learn, makes the loader raise
        raise ContractError(
            f"{folder / MODEL} cannot be loaded here ({type(error).__name__}: {one_line(error)})"
            f"{_made_elsewhere(manifest)}; use the versions of its serving.json, or train again"
        ) from error
    return Bundle(manifest=manifest, estimator=estimator)


def golden_difference(bundle: Bundle) -> float:
    """Return the largest difference between the golden outputs as fitted and as they come out now, relative.

    Relative to the fitted value or, where that is smaller, to the mean magnitude of its column; infinite if the
    prediction fails, has another shape, or is not finite where it was.
    """
    from threadpoolctl import threadpool_limits

    golden = bundle.manifest.golden
    columns = list(zip(*golden.inputs, strict=True))
    fitted = np.array(golden.outputs, dtype=np.float64)
    try:
        with threadpool_limits(limits=1):  # so few rows are not worth a team of threads
            now = _as_rows(bundle.scores(frame_of(bundle.manifest, columns)))
    except Exception:  # noqa: BLE001 (an estimator that cannot predict differs as much as can be)
        return float("inf")
    if now.shape != fitted.shape or not np.isfinite(fitted).all():
        return float("inf")
    scale = np.maximum(np.abs(fitted), np.abs(fitted).mean(axis=0))
    gap = np.abs(now - fitted)
    relative = np.divide(gap, scale, out=np.where(gap == 0, 0.0, np.inf), where=scale > 0)
    return float(np.where(np.isnan(relative), np.inf, relative).max())


def _parse_manifest(text: bytes, folder: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise ContractError(
            f"{folder / SERVING}: {place}: {problem['msg']}; it is from another Evergreen, train again"
        ) from error
    width = len(manifest.feature_names)
    if len(manifest.feature_types) != width or any(len(row) != width for row in manifest.golden.inputs):
        raise ContractError(
            f"{folder / SERVING}: features, their types and the golden rows differ in number; train again"
        )
    return manifest


def _as_rows(outputs: Floats) -> Floats:
    return outputs.reshape(len(outputs), -1)


def _plain(value: Any) -> float | str | None:
    """Return a cell as JSON can hold it: None where it is missing, infinities by their names."""
    if value is None or isinstance(value, str):
        return value
    number = float(value)
    if np.isnan(number):
        return None
    return number if np.isfinite(number) else str(number)


def _made_elsewhere(manifest: Manifest) -> str:
    here = {name: version(name) for name in PACKAGES}
    made = {name: found for name, found in manifest.versions.items() if name in here and found != here[name]}
    others = [f"{name} {found} (here {here[name]})" for name, found in made.items()]
    return f"; it was made with {', '.join(others)}" if others else ""
