"""The prediction log: every answer as a line of JSON, written before it is given, read back as a table."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zoneinfo import ZoneInfo

from flows.errors import ContractError, UnavailableError
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps.sql import identifier, identifiers, literal

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

# Columns of the table beside request fields and features, with their DuckDB types; the task decides on "prediction".
COLUMNS = {
    "request_id": "VARCHAR",
    "row": "BIGINT",
    "at": "TIMESTAMPTZ",
    "version": "BIGINT",
    "event_timestamp": "TIMESTAMPTZ",
    "prediction": "",
    "probabilities": "MAP(VARCHAR, DOUBLE)",
    "unknown": "VARCHAR[]",
}
FIELD_TYPES = {"int": "BIGINT", "float": "DOUBLE", "string": "VARCHAR", "timestamp": "TIMESTAMP"}


@dataclass(frozen=True)
class Answer:
    """The answer to one row; ``features`` are what the model saw, ``unknown`` the views that know nothing of it."""

    prediction: float | str | bool | int
    probabilities: dict[str, float] | None
    features: dict[str, Any]
    unknown: list[str]


class PredictionLog:
    """Appends answers to one file a process and UTC day.

    A request is one write, so that a kill leaves at most one torn line at the end of a file. It is safe against the
    end of the process, not of the machine: nothing is synced for each answer.
    """

    def __init__(self, settings: Settings, spec: ModelSpec) -> None:
        taken = sorted({field.name for field in spec.request} & COLUMNS.keys())
        if taken:
            raise ContractError(f"{spec.name}: the prediction log has columns {', '.join(taken)}; rename the fields")
        self._folder = settings.predictions(spec.name)
        self._spec = spec
        self._zone = ZoneInfo(spec.source.time_zone)
        self._name = f"{os.getpid()}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.jsonl"
        self._lock = threading.Lock()
        self._day = ""
        self._file = -1

    def append(
        self,
        request_id: str,
        at: datetime,
        version: int,
        rows: Sequence[Mapping[str, Any]],
        answers: Sequence[Answer],
    ) -> None:
        """Write the answers to a request's rows; ``rows`` hold times local to the source and without zone.

        Raises UnavailableError if they cannot be written whole; then nothing of them stays.
        """
        import orjson

        lines = [
            orjson.dumps(
                {
                    "request_id": request_id, "row": index, "at": at, "version": version,
                    "event_timestamp": self._event_time(row), "request": row, "features": answer.features,
                    "prediction": answer.prediction, "probabilities": answer.probabilities, "unknown": answer.unknown,
                },
                option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE,
            )
            for index, (row, answer) in enumerate(zip(rows, answers, strict=True))
        ]  # fmt: skip
        with self._lock:
            self._write(b"".join(lines), f"{at.astimezone(UTC):%Y-%m-%d}")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file, self._day = -1, ""

    def _event_time(self, row: Mapping[str, Any]) -> datetime | None:
        moment = row.get(self._spec.source.event_time)
        return moment.replace(tzinfo=self._zone).astimezone(UTC) if isinstance(moment, datetime) else None

    def _write(self, data: bytes, day: str) -> None:
        try:
            before = self._open(day)
            written = os.write(self._file, data)
            if written != len(data):  # the disk is full: take back what was written, the file is ours alone
                os.ftruncate(self._file, before)
                raise OSError(f"only {written} of {len(data)} bytes were written")
        except OSError as error:
            raise UnavailableError(
                f"the prediction log in {self._folder} cannot be written ({error}); free some space"
            ) from error

    def _open(self, day: str) -> int:
        """Make sure that the day's file is open and still has a name, and return its length."""
        if self._file >= 0:
            state = os.fstat(self._file)
            if self._day == day and state.st_nlink:
                return state.st_size
            os.close(self._file)
            self._file = -1
        path = self._folder / day / self._name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._day = day
        return os.fstat(self._file).st_size


def read_predictions(
    settings: Settings,
    spec: ModelSpec,
    start: datetime | None = None,
    end: datetime | None = None,
    by: Literal["at", "event_timestamp"] = "at",
) -> pa.Table:
    """Return the logged answers of [start, end), by when they were given or by their event time, in order of ``at``.

    Columns: ``COLUMNS``, each request field, each feature of any version (NULL where a version had none). A line that
    was torn by a kill is left out. Raises ContractError if a feature bears the name of another column.
    """
    import duckdb

    files = (
        _files(settings.predictions(spec.name), start, end) if by == "at" else _files(settings.predictions(spec.name))
    )
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        features = _feature_types(connection, files) if files else {}
        taken = sorted(features.keys() & {*COLUMNS, *(field.name for field in spec.request)})
        if taken:
            raise ContractError(
                f"{spec.name}: features and prediction log both have {', '.join(taken)}; rename the features"
            )
        source, values = _source(spec, features, files)
        when = identifier(by)
        fields = ["request." + identifier(field.name) for field in spec.request]
        picked = [identifiers(COLUMNS), *fields, *("features." + identifier(name) for name in features)]
        return connection.execute(
            f"""
            SELECT {", ".join(picked)} FROM {source}
            WHERE request_id IS NOT NULL AND ({when} >= $start OR $start IS NULL)
              AND ({when} < $end OR $end IS NULL)
            ORDER BY "at", request_id, "row"
            """,
            {**values, "start": start, "end": end},
        ).to_arrow_table()


def _files(folder: Path, start: datetime | None = None, end: datetime | None = None) -> list[str]:
    """Return the files of the UTC days that [start, end) touches."""
    first = f"{start.astimezone(UTC):%Y-%m-%d}" if start else ""
    last = f"{end.astimezone(UTC) - timedelta(microseconds=1):%Y-%m-%d}" if end else "9999"
    return sorted(str(path) for path in folder.glob("*/*.jsonl") if first <= path.parent.name <= last)


def _feature_types(connection: duckdb.DuckDBPyConnection, files: list[str]) -> dict[str, str]:
    """Return the DuckDB type of each feature in the files: text if it ever was one, else a number."""
    found = connection.execute(
        """
        SELECT DISTINCT json_structure(features) FROM read_json($files, format = 'newline_delimited',
            ignore_errors = true, columns = {features: 'JSON'}) WHERE features IS NOT NULL
        """,
        {"files": files},
    ).fetchall()
    types: dict[str, str] = {}
    for (structure,) in found:
        fields = json.loads(structure)
        for name, kind in fields.items() if isinstance(fields, dict) else ():  # no features at all read as "JSON"
            if kind == "VARCHAR" or types.get(name) == "VARCHAR":
                types[name] = "VARCHAR"
            else:
                types[name] = "DOUBLE"
    return types


def _source(spec: ModelSpec, features: Mapping[str, str], files: list[str]) -> tuple[str, dict[str, Any]]:
    """Return a relation over the files, and the values bound in it; an empty one of the same columns without files."""
    columns = COLUMNS | {
        "prediction": "DOUBLE" if spec.task == "regression" else "VARCHAR",
        "request": _struct({field.name: FIELD_TYPES[field.type] for field in spec.request}),
    }
    if features:
        columns["features"] = _struct(features)
    if not files:
        empty = ", ".join(f"NULL::{kind} AS {identifier(name)}" for name, kind in columns.items())
        return f"(SELECT {empty} LIMIT 0)", {}
    typed = ", ".join(f"{identifier(name)}: {literal(kind)}" for name, kind in columns.items())
    return (
        f"read_json($files, format = 'newline_delimited', ignore_errors = true, columns = {{{typed}}})",
        {"files": files},
    )


def _struct(fields: Mapping[str, str]) -> str:
    return f"STRUCT({', '.join(f'{identifier(name)} {kind}' for name, kind in fields.items())})"
