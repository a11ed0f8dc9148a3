"""The manifest of a bundle, ``serving.json``: all that is needed to serve a model, as records."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from flows.errors import ContractError
from flows.spec import Frozen, RequestField

SERVING = "serving.json"
Row = tuple[float | str | None, ...]


class Golden(Frozen):
    """Rows from the judging part and what the estimator said of them when it had just been fitted.

    ``inputs`` are in the order of the features. ``outputs`` have one value a row for regression, one a class otherwise.
    None stands for NaN. Floats keep all their digits in JSON.
    """

    inputs: tuple[Row, ...] = Field(min_length=1)
    outputs: tuple[Row, ...] = Field(min_length=1)


class CompiledForm(Frozen):
    """What came of compiling: the hash of ``compiled.npz`` and how far from scikit-learn it was on the test set, relative.

    Without a file ``sha256`` is None, and ``reason`` says why; then scikit-learn itself serves.
    """

    sha256: str | None = None
    difference: float | None = None
    reason: str = "made before there was one"


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
    compiled: CompiledForm = CompiledForm()
    golden: Golden


def parse_manifest(text: bytes, path: Path) -> Manifest:
    """Read a manifest from the bytes of ``serving.json``; raises ContractError if it is from another Evergreen."""
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise ContractError(f"{path}: {place}: {problem['msg']}; it is from another Evergreen, train again") from error
    width = len(manifest.feature_names)
    if len(manifest.feature_types) != width or any(len(row) != width for row in manifest.golden.inputs):
        raise ContractError(f"{path}: features, their types and the golden rows differ in number; train again")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a bundle; raises ContractError if it is not there or from another Evergreen."""
    path = folder / SERVING
    try:
        return parse_manifest(path.read_bytes(), path)
    except OSError as error:
        raise ContractError(f"{path} cannot be read ({error.strerror}); train and promote again") from error
