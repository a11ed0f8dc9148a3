"""Batch scoring: a file of requests in, the same rows with predictions out; features as known at each event."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from flows.errors import ContractError, UnavailableError, UsageError
from flows.spec import Frozen, ModelSpec
from flows.steps.files import replacing
from flows.steps.in_memory import connect
from flows.steps.score_requests import answered_by_time, batches, beside, in_time_order, prepare, requests_of
from flows.steps.sources import SUFFIXES
from flows.steps.storage import pull

if TYPE_CHECKING:
    from feast import FeatureStore

    from flows.settings import Settings
    from flows.steps.bundle import Bundle
    from flows.steps.spark_scoring import Asked

WRITTEN = (".parquet", ".csv")


class Scored(Frozen):
    """A written file of predictions."""

    target: str
    rows: int
    version: int


def score_file(
    settings: Settings,
    spec: ModelSpec,
    store: FeatureStore,
    bundle: Bundle,
    version: int,
    source: str,
    target: str,
    question: Asked | None = None,
) -> Scored:
    """Predict every row of a parquet or CSV file and write all of it with the predictions to another, atomically.

    A CSV file to read may be a ``.csv.gz``. The source needs the request fields, and the event time if that is not one
    of them; other columns are kept. Added are ``prediction``, ``probability_<class>`` for classes, and
    ``model_version``. Rows keep their order. Raises UsageError for input that does not fit, by column and row, and for
    a target that cannot be; nothing is written then.

    A file whose batches do not follow one another in time is predicted in order of time, and written in its own.

    With ``question``, what workers have to know of this very bundle, the Spark cluster of the settings answers.
    """
    origin, goal = _checked_paths(source, target)
    pull(settings, settings.features(spec.name))
    added = ["prediction", *(f"probability_{name}" for name in bundle.manifest.classes or ()), "model_version"]
    rows = 0
    with connect(settings.home) as connection:
        columns = prepare(connection, spec, origin, added)
        read, requests = partial(batches, connection, origin), partial(requests_of, spec)
        answer = partial(predict, spec, store, bundle, version)
        answered: Generator[pa.Table]
        if question is not None:
            answered = _on_spark(settings, question, bundle, read, requests)
        elif in_time_order(connection, spec):
            answered = (beside(table, answer(requests(table))) for table in read())
        else:
            answered = answered_by_time(connection, spec, origin, answer)
        try:
            with replacing(goal) as temporary, _Writer(temporary, goal) as writer, closing(answered):
                for table in answered:
                    writer.write(table.select([*columns, *added]))
                    rows += table.num_rows
        except OSError as error:
            raise UnavailableError(f"{goal} cannot be written ({error}); free some space or write elsewhere") from error
    return Scored(target=str(goal), rows=rows, version=version)


def _on_spark(
    settings: Settings,
    question: Asked,
    bundle: Bundle,
    read: Callable[[], Iterator[pa.Table]],
    requests: Callable[[pa.Table], pa.Table],
) -> Generator[pa.Table]:
    """Yield the rows of a file with their predictions beside, made by the cluster: the file is read twice."""
    from flows.steps.spark_scoring import answering

    classes = bundle.manifest.classes
    kind = pa.float64() if classes is None else pa.array(list(classes)).type
    shares = [pa.field(f"probability_{name}", pa.float64()) for name in classes or ()]
    schema = pa.schema([pa.field("prediction", kind), *shares, pa.field("model_version", pa.int64())])
    with answering(settings, question, map(requests, read()), schema) as answers:
        for table, answer in zip(read(), answers, strict=True):
            yield beside(table, answer)


def predict(spec: ModelSpec, store: FeatureStore, bundle: Bundle, version: int, requests: pa.Table) -> pa.Table:
    """Return the predictions of requests: columns ``prediction``, ``probability_<class>``, ``model_version``.

    ``requests`` has the request fields and ``event_timestamp`` (aware); features come from the offline store as they
    were known then. Raises ContractError if the model answers with a value that is not finite.
    """
    from flows.steps.arrival import arrived
    from flows.steps.feature_store import historical
    from flows.steps.training_set import matrix

    joined = historical(store, spec, requests, arrived(spec, requests["event_timestamp"]))
    missing = [name for name in bundle.manifest.feature_names if name not in joined.column_names]
    if missing:
        raise ContractError(
            f"{spec.name}: version {version} needs {', '.join(missing)}, which {spec.feature_service} does not give; "
            "run `evergreen featurize`, then train again"
        )
    scores = bundle.scores(matrix(joined, bundle.manifest.feature_names))
    if not np.isfinite(scores).all():
        raise ContractError(
            f"{spec.name}: version {version} answered with a value that is not finite; "
            "roll back with `evergreen rollback`"
        )
    versions = pa.array(np.full(len(scores), version, dtype=np.int64))
    classes = bundle.manifest.classes
    if classes is None:
        return pa.table({"prediction": scores, "model_version": versions})
    best = pa.array(list(classes)).take(pa.array(scores.argmax(axis=1)))
    shares = {f"probability_{name}": scores[:, place] for place, name in enumerate(classes)}
    return pa.table({"prediction": best, **shares, "model_version": versions})


def _checked_paths(source: str, target: str) -> tuple[Path, Path]:
    origin, goal = Path(source).expanduser(), Path(target).expanduser()
    for path, what, endings in ((origin, "read", SUFFIXES), (goal, "written", WRITTEN)):
        if not path.name.lower().endswith(endings):
            raise UsageError(f"{path} cannot be {what}: name a file that ends in {' or '.join(endings)}")
    if not origin.is_file():
        raise UsageError(f"{origin} is not a file; name a parquet or CSV file of requests")
    if goal.is_dir() or goal.resolve() == origin.resolve():
        raise UsageError(f"{goal} is {'a folder' if goal.is_dir() else 'the input itself'}; name another file to write")
    return origin, goal


class _Writer:
    """Writes tables of one schema into a parquet or CSV file."""

    def __init__(self, path: Path, goal: Path) -> None:
        self._path, self._csv, self._goal = path, goal.suffix.lower() == ".csv", goal
        self._file: Any = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, table: pa.Table) -> None:
        import pyarrow.csv as pcsv
        import pyarrow.parquet as pq

        nested = [field.name for field in table.schema if pa.types.is_nested(field.type)]
        if self._csv and nested:
            raise UsageError(f"{self._goal}: CSV cannot hold the nested column {nested[0]}; write .parquet instead")
        if self._file is None:
            self._file = (
                pcsv.CSVWriter(self._path, table.schema)
                if self._csv
                else pq.ParquetWriter(self._path, table.schema, compression="zstd")
            )
        self._file.write_table(table)
