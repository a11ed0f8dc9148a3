"""Batch scoring on the Spark cluster: each worker opens the bundle as the service does and answers its share of the rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.lookup import load_model
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import spark, spark_tasks
from flows.steps.files import scratch
from flows.steps.in_memory import connect
from flows.steps.score_requests import taking

if TYPE_CHECKING:
    from collections.abc import Callable

ROW = "__row"


class Asked(NamedTuple):
    """What a worker has to know to answer: it reads registry and feature tables of the home, and the bundle's folder."""

    home: str
    feature_registry: str
    model_packages: tuple[str, ...]
    trusted_types: tuple[str, ...]
    model: str
    folder: str
    digest: str
    version: int


def asked(settings: Settings, spec: ModelSpec, folder: Path, digest: str, version: int) -> Asked:
    """Return what workers need to score with the bundle in a folder that they see."""
    return Asked(
        str(settings.home), settings.feature_registry, settings.model_packages, settings.trusted_types, spec.name,
        str(folder), digest, version,
    )  # fmt: skip


@contextmanager
def answering(
    settings: Settings, question: Asked, requests: Iterable[pa.Table], answer: pa.Schema
) -> Iterator[Iterator[pa.Table]]:
    """Yield the answers to tables of requests, table by table, rows in their order; all are computed before the first.

    ``answer`` is the schema of the answers.
    """
    session = spark.session(settings).newSession()
    # Opening counts as a whole split: a file is a task, so that no core waits long for another, and little is done again.
    session.conf.set("spark.sql.files.openCostInBytes", session.conf.get("spark.sql.files.maxPartitionBytes"))
    with scratch(settings.home, "spark") as folder:
        sizes = _write(requests, folder / "requests")
        with spark.told(settings, f"scoring with {question.model}"):
            frame = session.read.parquet(spark.place(folder / "requests"))
            kinds = pa.schema([pa.field(ROW, pa.int64()), *answer])
            scored = frame.mapInArrow(partial(_answered, question), _spark_schema(kinds))
            sql = spark.written(scored, folder / "answers")
        with connect() as connection:
            found = connection.execute(f"SELECT * FROM ({sql}) ORDER BY {ROW}").to_arrow_reader(spark.ARROW_ROWS)
            take = taking(pa.Table.from_batches([batch]) for batch in found)
            yield (take(size).drop_columns([ROW]) for size in sizes)


def _spark_schema(schema: pa.Schema) -> str:
    from pyspark.sql.pandas.types import from_arrow_schema

    return ", ".join(f"`{field.name}` {field.dataType.simpleString()}" for field in from_arrow_schema(schema))


def _write(requests: Iterable[pa.Table], folder: Path) -> list[int]:
    """Write tables of requests with the numbers of their rows, in files that several workers can take; return their sizes."""
    folder.mkdir()
    sizes: list[int] = []
    for table in requests:
        start = sum(sizes)
        numbered = table.append_column(ROW, pa.array(np.arange(start, start + table.num_rows)))
        for place in range(0, table.num_rows, spark.ARROW_ROWS):
            name = f"{start + place:015d}.parquet"
            pq.write_table(
                numbered.slice(place, spark.ARROW_ROWS), folder / name, compression="zstd", coerce_timestamps="us"
            )
        sizes.append(table.num_rows)
    return sizes


def _answered(question: Asked, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Answer requests on a worker."""
    answer = _opened(question)
    for batch in batches:
        if not batch.num_rows:
            continue
        table = pa.Table.from_batches([batch])
        times = table["event_timestamp"].cast(pa.timestamp("us", "UTC"))
        place = table.column_names.index("event_timestamp")
        found = answer(table.drop_columns([ROW]).set_column(place, "event_timestamp", times))
        yield from found.add_column(0, ROW, table[ROW]).combine_chunks().to_batches()


@lru_cache(maxsize=1)
def _opened(question: Asked) -> Callable[[pa.Table], pa.Table]:
    """Return what answers requests in this process: the bundle, hashed and checked, and the feature store of the home."""
    from flows.steps.bundle import load_bundle
    from flows.steps.feature_store import open_store
    from flows.steps.scoring import predict

    settings = spark_tasks.settings_there(
        question.home, question.model_packages, question.trusted_types, question.feature_registry
    )
    bundle = load_bundle(Path(question.folder), question.digest, settings.trusted_types)
    return partial(predict, load_model(question.model, settings), open_store(settings), bundle, question.version)
