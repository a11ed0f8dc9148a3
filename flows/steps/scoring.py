"""Batch scoring: a file of requests in, the same rows with predictions out; features as known at each event."""

from __future__ import annotations

import glob
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from flows.errors import ContractError, UnavailableError, UsageError
from flows.spec import Frozen, ModelSpec, RequestField
from flows.steps.files import replacing
from flows.steps.reading import connect, describe
from flows.steps.sql import identifier, literal
from flows.steps.storage import pull

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from feast import FeatureStore

    from flows.settings import Settings
    from flows.steps.bundle import Bundle
    from flows.steps.spark_scoring import Asked

BATCH = 500_000  # rows that are joined and predicted at once
SUFFIXES = (".parquet", ".csv")
TYPES = {"int": "BIGINT", "float": "DOUBLE", "string": "VARCHAR", "timestamp": "TIMESTAMP"}
OFFSET = r"[0-9]([zZ]|[+-][0-9]{2}(:?[0-9]{2})?)$"  # after its date, a text that ends so is an instant, no local time


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

    The source needs the request fields, and the event time if that is not one of them; other columns are kept. Added
    are ``prediction``, ``probability_<class>`` for classes, and ``model_version``. Rows keep their order. Raises
    UsageError for input that does not fit, by column and row, and for a target that cannot be; nothing is written then.

    With ``question``, what workers have to know of this very bundle, the Spark cluster of the settings answers.
    """
    origin, goal = _checked_paths(source, target)
    pull(settings, settings.features(spec.name))
    added = ["prediction", *(f"probability_{name}" for name in bundle.manifest.classes or ()), "model_version"]
    rows = 0
    with connect(settings.home) as connection:
        columns = _prepare(connection, spec, origin, added)
        batches, requests = partial(_batches, connection, origin), partial(_requests, spec)
        if question is None:
            answered = ((table, predict(spec, store, bundle, version, requests(table))) for table in batches())
        else:
            answered = _on_spark(settings, question, bundle, batches, requests)
        try:
            with replacing(goal) as temporary, _Writer(temporary, goal) as writer, closing(answered):
                for table, predictions in answered:
                    kept = table.select(list(columns))
                    for name in added:
                        kept = kept.append_column(name, predictions[name])
                    writer.write(kept)
                    rows += kept.num_rows
        except OSError as error:
            raise UnavailableError(f"{goal} cannot be written ({error}); free some space or write elsewhere") from error
    return Scored(target=str(goal), rows=rows, version=version)


def _on_spark(
    settings: Settings,
    question: Asked,
    bundle: Bundle,
    batches: Callable[[], Iterator[pa.Table]],
    requests: Callable[[pa.Table], pa.Table],
) -> Generator[tuple[pa.Table, pa.Table]]:
    """Yield the rows of a file with their predictions, made by the cluster: the file is read twice."""
    from flows.steps.spark_scoring import answering

    classes = bundle.manifest.classes
    kind = pa.float64() if classes is None else pa.array(list(classes)).type
    shares = [pa.field(f"probability_{name}", pa.float64()) for name in classes or ()]
    schema = pa.schema([pa.field("prediction", kind), *shares, pa.field("model_version", pa.int64())])
    with answering(settings, question, map(requests, batches()), schema) as answers:
        yield from zip(batches(), answers, strict=True)


def predict(spec: ModelSpec, store: FeatureStore, bundle: Bundle, version: int, requests: pa.Table) -> pa.Table:
    """Return the predictions of requests: columns ``prediction``, ``probability_<class>``, ``model_version``.

    ``requests`` has the request fields and ``event_timestamp`` (aware); features come from the offline store as they
    were known then. Raises ContractError if the model answers with a value that is not finite.
    """
    from flows.steps.feature_store import historical
    from flows.steps.training_set import matrix

    joined = historical(store, spec, requests)
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
    for path, what in ((origin, "read"), (goal, "written")):
        if path.suffix.lower() not in SUFFIXES:
            raise UsageError(f"{path} cannot be {what}: name a file that ends in {' or '.join(SUFFIXES)}")
    if not origin.is_file():
        raise UsageError(f"{origin} is not a file; name a parquet or CSV file of requests")
    if goal.is_dir() or goal.resolve() == origin.resolve():
        raise UsageError(f"{goal} is {'a folder' if goal.is_dir() else 'the input itself'}; name another file to write")
    return origin, goal


def _prepare(connection: DuckDBPyConnection, spec: ModelSpec, origin: Path, added: list[str]) -> tuple[str, ...]:
    """Make the view ``typed``, the file's columns and its request fields as the model takes them; check every row.

    Returns the names of the file's own columns.
    """
    path = literal(glob.escape(str(origin)))
    reader = f"read_parquet({path})" if origin.suffix.lower() == ".parquet" else f"read_csv({path}, sample_size = -1)"
    with _told(origin):
        columns = describe(connection, f"SELECT * FROM {reader}", {})
    fields = _fields(spec)
    missing = [field.name for field in fields if field.name not in columns]
    if missing:
        has = ", ".join(columns)[:300]
        raise UsageError(f"{origin} lacks column {', '.join(missing)} (it has {has}); add it, or rename what holds it")
    clash = [name for name in columns if name in added]
    if clash:
        raise UsageError(f"{origin} has a column {', '.join(clash)}, which scoring adds; rename it in the input")
    casts = [f"{_cast(field, columns[field.name], spec)} AS {identifier(_typed(field))}" for field in fields]
    with _told(origin):
        connection.execute(f"CREATE TEMP VIEW typed AS SELECT *, {', '.join(casts)} FROM {reader}")
        found = connection.execute(
            f"SELECT count(*), {', '.join(map(_check, fields))} FROM (SELECT row_number() OVER () AS n, * FROM typed)"
        ).fetchone()
    assert found is not None
    if not found[0]:
        raise UsageError(f"{origin} holds no rows; there is nothing to score")
    for place, field in enumerate(fields):
        count, first, value = found[1 + 3 * place : 4 + 3 * place]
        if count:
            shown = "missing" if value is None else repr(value[:40])
            raise UsageError(
                f"{origin}: column {field.name} is {shown} in row {first} ({count:,} such rows); it must be "
                f"{_wanted(field)}: correct or drop the rows"
            )
    return tuple(columns)


def _batches(connection: DuckDBPyConnection, origin: Path) -> Iterator[pa.Table]:
    """Yield the rows of ``typed`` in their order."""
    with _told(origin):
        for batch in connection.execute("SELECT * FROM typed").to_arrow_reader(BATCH):
            yield pa.Table.from_batches([batch])


def _requests(spec: ModelSpec, table: pa.Table) -> pa.Table:
    """Return the request fields of a batch under their own names, and ``event_timestamp``, UTC."""
    import pyarrow.compute as pc

    typed = {field.name: table[_typed(field)] for field in _fields(spec)}
    times = pc.assume_timezone(
        typed[spec.source.event_time], spec.source.time_zone, ambiguous="earliest", nonexistent="latest"
    )
    fields = {field.name: typed[field.name] for field in spec.request}
    return pa.table({**fields, "event_timestamp": times.cast(pa.timestamp("us", "UTC"))})


def _fields(spec: ModelSpec) -> list[RequestField]:
    """Return the request fields, and the event time if it is not one of them."""
    time = spec.source.event_time
    if any(field.name == time for field in spec.request):
        return list(spec.request)
    return [*spec.request, RequestField(name=time, type="timestamp", description="event time", example=None)]


def _typed(field: RequestField) -> str:
    return f"__typed_{field.name}"


def _cast(field: RequestField, found: str, spec: ModelSpec) -> str:
    """Return SQL for a column as the type of its field, NULL where it is not; times become local, without zone."""
    column, wanted = identifier(field.name), TYPES[field.type]
    if field.type == "timestamp":
        zone = literal(spec.source.time_zone)
        instant = f"(TRY_CAST({column} AS TIMESTAMPTZ) AT TIME ZONE {zone})"
        if found == "TIMESTAMP WITH TIME ZONE":
            return instant
        if found == "VARCHAR":
            zoned = f"regexp_matches(substr({column}, 11), {literal(OFFSET)})"
            return f"CASE WHEN {zoned} THEN {instant} ELSE TRY_CAST({column} AS TIMESTAMP) END"
    if field.type == "int":  # 74.0 is a whole number, 74.6 is none
        whole = f"TRY_CAST({column} AS BIGINT)"
        return f"CASE WHEN {whole} = TRY_CAST({column} AS DOUBLE) THEN {whole} END"
    return f"TRY_CAST({column} AS {wanted})"


def _check(field: RequestField) -> str:
    """Return SQL for how many values are missing, of another type or out of bounds, and row and value of the first."""
    column = identifier(_typed(field))
    tests = [f"{column} IS NULL" if field.required else f"{column} IS NULL AND {identifier(field.name)} IS NOT NULL"]
    if field.type == "float":
        tests.append(f"NOT isfinite({column})")
    if field.minimum is not None:
        tests.append(f"{column} < {field.minimum!r}")
    if field.maximum is not None:
        tests.append(f"{column} > {field.maximum!r}")
    bad = f"FILTER (WHERE {' OR '.join(tests)})"
    return f"count(*) {bad}, min(n) {bad}, arg_min_null({identifier(field.name)}::VARCHAR, n) {bad}"


def _wanted(field: RequestField) -> str:
    kind = {"int": "a whole number", "float": "a number", "string": "a text", "timestamp": "a time"}[field.type]
    bounds = [
        *([f"at least {field.minimum:g}"] if field.minimum is not None else []),
        *([f"at most {field.maximum:g}"] if field.maximum is not None else []),
    ]
    return ", ".join([kind, *bounds])


@contextmanager
def _told(origin: Path) -> Iterator[None]:
    """Turn a reader's error into one line."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        line = str(error).strip().splitlines()[0][:300]
        raise UsageError(f"{origin} cannot be read ({line}); name a whole parquet or CSV file") from error


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
                else pq.ParquetWriter(self._path, table.schema, compression="zstd", coerce_timestamps="us")
            )
        self._file.write_table(table)
