"""Fits on the Spark cluster: the trials of a tuning, each a task of one worker.

A worker reads the training set's file from the home; parameters go there and a number comes back, no estimator is sent. It
fits with the same code, libraries and number of threads as this process would, or refuses.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flows.errors import TamperedError
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import same_code, spark_tasks
from flows.steps.files import sha256_of
from flows.steps.fitting import Measure, trial_error
from flows.steps.training_set import TrainingSet


class Asked(NamedTuple):
    """What a worker has to know to fit: spec and training set as JSON, the factory, and what code must be there."""

    spec: str
    data: str
    factory: str
    code: str


def measuring(settings: Settings, spec: ModelSpec, data: TrainingSet, factory: str) -> Measure:
    """Return what has the cluster fit an estimator of the factory for each set of parameters, and returns their errors."""
    question = Asked(
        spec.model_dump_json(), data.model_dump_json(), factory, same_code.code_of(spec, factory)
    )  # fmt: skip
    return partial(_errors, settings, f"the trials of {spec.name}", question)


def _errors(settings: Settings, what: str, question: Asked, tried: Sequence[dict[str, Any]]) -> list[float]:
    """Return the validation error of each set of parameters, in their order; each is a task."""
    asked = [json.dumps(params) for params in tried]
    return [float(error) for error in spark_tasks.each(settings, what, partial(_trial, question), asked)]


def _trial(question: Asked, params: str) -> str:
    """Return the validation error of one set of parameters, on a worker, to the last bit."""
    spec, data = _opened(question)
    return repr(float(trial_error(spec, data, json.loads(params), question.factory)))


def _opened(question: Asked) -> tuple[ModelSpec, TrainingSet]:
    """Return the model and the training set of a question, on a worker.

    Raises ContractError if code or libraries here would make another estimator, TamperedError for another training set.
    """
    spec, data = ModelSpec.model_validate_json(question.spec), TrainingSet.model_validate_json(question.data)
    same_code.require(question.code, spec, question.factory)
    if sha256_of(Path(data.uri)) != data.digest:
        raise TamperedError(
            f"{data.uri} is not the training set that was written; each worker must see this very folder"
        )
    return spec, data
