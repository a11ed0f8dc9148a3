"""Pieces of work on the Spark cluster, each a task of one worker: a text goes there, a text comes back.

What a worker refuses is an answer as well, so that it is raised here as it was there, and Spark does not try it again. A
worker that is lost in mid-task is no answer: Spark gives the task to another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flows import errors
from flows.errors import EvergreenError
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import same_code, spark

if TYPE_CHECKING:
    import pyarrow as pa

Work = Callable[[str], str]
# Spark sets it to the cores of a task where nobody else has, and scikit-learn then takes no heed of how many cores there are.
THREADS = "OMP_NUM_THREADS"


def each(settings: Settings, what: str, work: Work, asked: Sequence[str]) -> list[str]:
    """Have workers do ``work``, a function that is found by its name there, for each text; return the answers in order.

    Raises what a worker refused with, UnavailableError about ``what`` if the cluster did not end it.
    """
    session = spark.session(settings)
    with spark.told(settings, what):
        numbers = session.range(0, len(asked), numPartitions=len(asked))
        there = partial(answered, work, list(asked), os.environ.get(THREADS))
        done = numbers.mapInArrow(there, "id bigint, answer string, refusal string")
        found = sorted(done.collect(), key=lambda row: int(row["id"]))
    for row in found:
        if row["refusal"] is not None:
            raise spark.refusal(*row["refusal"].split(": ", 1))
    return [row["answer"] for row in found]


def look(settings: Settings, spec: ModelSpec) -> str:
    """Have the workers write into the home and compare their code with ours, and return what is to be said of the cluster.

    Raises as ``spark.session``, ContractError if one would make another model.
    """
    said, many = spark.look(settings), 4 * spark.session(settings).sparkContext.defaultParallelism
    each(
        settings, "a look at the workers", partial(_compared, same_code.code_of(spec)), [spec.model_dump_json()] * many
    )
    return f"{said} and have its code"


def _compared(code: str, spec: str) -> str:
    same_code.require(code, ModelSpec.model_validate_json(spec))
    return "the same"


def answered(
    work: Work, asked: Sequence[str], threads: str | None, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Answer, on a worker, the texts whose numbers are in the one column of each batch.

    ``threads`` is what the environment of the process that asks says of OpenMP: as many must sum here, to the same bits.
    """
    import pyarrow as pa

    os.environ.pop(THREADS, None)
    if threads is not None:
        os.environ[THREADS] = threads

    for batch in batches:
        answers: list[str | None] = []
        refusals: list[str | None] = []
        for number in batch.column(0).to_pylist():
            try:
                answer, refusal = work(asked[number]), None
            except EvergreenError as error:
                answer, refusal = None, f"{_kind(error)}: {error}"
            answers.append(answer)
            refusals.append(refusal)
        columns = [batch.column(0), pa.array(answers, pa.string()), pa.array(refusals, pa.string())]
        yield pa.record_batch(columns, names=["id", "answer", "refusal"])


def _kind(error: EvergreenError) -> str:
    """Return the name of the nearest kind of an error that everybody knows."""
    return next(str(kind.__name__) for kind in type(error).__mro__ if vars(errors).get(kind.__name__) is kind)


def settings_there(
    home: str, model_packages: tuple[str, ...], trusted_types: tuple[str, ...], feature_registry: str = ""
) -> Settings:
    """Return, on a worker, the settings of a home that it sees: servers are the affair of the process that asks."""
    return Settings(
        home=Path(home), profile="local", ledger_url="", mlflow_tracking_uri="", online_store_url="", storage_url="",
        compute_url="", dask_url="", feature_registry_url=feature_registry, model_packages=model_packages,
        trusted_types=trusted_types,
    )  # fmt: skip
