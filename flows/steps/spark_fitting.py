"""Fits on the Spark cluster: the trials of a tuning, each a task of one worker.

A worker reads the training set's file from the home; parameters go there and a number comes back, no estimator is sent. It
fits with the same code, libraries and number of threads as this process would, or refuses.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.errors import ContractError, TamperedError
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import spark
from flows.steps.files import sha256_of
from flows.steps.fitting import Measure, trial_error
from flows.steps.training_set import TrainingSet

if TYPE_CHECKING:
    import pyarrow as pa


class Asked(NamedTuple):
    """What a worker has to know to fit: spec and training set as JSON, the factory, and what code must be there."""

    model: str
    spec: str
    data: str
    factory: str
    code: str


def measuring(settings: Settings, spec: ModelSpec, data: TrainingSet, factory: str) -> Measure:
    """Return what has the cluster fit an estimator of the factory for each set of parameters, and returns their errors."""
    question = Asked(
        spec.name, spec.model_dump_json(), data.model_dump_json(), factory, _code(spec, factory)
    )  # fmt: skip
    return partial(_errors, settings, question)


def _errors(settings: Settings, question: Asked, tried: Sequence[dict[str, Any]]) -> list[float]:
    """Return the validation error of each set of parameters, in their order; each is a task."""
    with spark.told(settings, f"the trials of {question.model}"):
        numbers = spark.session(settings).range(0, len(tried), numPartitions=len(tried))
        found = numbers.mapInArrow(
            partial(_trials, question, [json.dumps(params) for params in tried]), "id bigint, error double"
        ).collect()
    return [row["error"] for row in sorted(found, key=lambda row: int(row["id"]))]


def _trials(question: Asked, tried: list[str], batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    for batch in batches:
        errors = []
        for number in batch.column(0).to_pylist():
            spec, data = _opened(question)
            errors.append(trial_error(spec, data, json.loads(tried[number]), question.factory))
        yield pa.record_batch([batch.column(0), pa.array(errors, pa.float64())], names=["id", "error"])


def _opened(question: Asked) -> tuple[ModelSpec, TrainingSet]:
    """Return the model and the training set of a question, on a worker.

    Raises ContractError if code or libraries here would make another estimator, TamperedError for another training set.
    """
    spec, data = ModelSpec.model_validate_json(question.spec), TrainingSet.model_validate_json(question.data)
    if _code(spec, question.factory) != question.code:
        raise ContractError(
            f"{question.model}: a worker has other code or libraries than the process that asks; install the same there"
        )
    if sha256_of(Path(data.uri)) != data.digest:
        raise TamperedError(
            f"{data.uri} is not the training set that was written; each worker must see this very folder"
        )
    return spec, data


def _code(spec: ModelSpec, factory: str) -> str:
    """Return what tells apart the code and the libraries that fit."""
    from flows.steps.lineage import LIBRARIES, sources_hash

    return f"{sources_hash(spec, factory)} {[metadata.version(name) for name in LIBRARIES]}"
