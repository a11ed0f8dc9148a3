"""The prediction log: every answer as a line of JSON, written before it is given, read back as a table."""

from __future__ import annotations

import fcntl
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from flows.errors import ContractError, UnavailableError
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps.prediction_hours import COLUMNS, FEATURE, HOUR, REQUEST, ROLE, files, journal_folder, journal_relation
from flows.steps.sql import identifier, identifiers

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MAX_JOURNAL_BYTES = 2**26  # a journal that has grown so far is closed, to be folded before its hour is over
LONGEST_SECONDS = 300.0
READ_ATTEMPTS = 20  # a busy machine folds several journals while one list is read
Role = Literal["served", "shadow"]


class Answer(NamedTuple):
    """The answer to one row; ``features`` are what the model saw, ``unknown`` the views that know nothing of it."""

    prediction: float | str | bool | int
    probabilities: dict[str, float] | None
    features: Mapping[str, Any]
    unknown: list[str]


class PredictionLog:
    """Appends answers to a journal of its own, a new one each UTC hour.

    A request is one write, so that a kill leaves at most one torn line at the end of a file. It is safe against the
    end of the process, not of the machine: nothing is synced for each answer.
    """

    def __init__(self, settings: Settings, spec: ModelSpec) -> None:
        taken = sorted({field.name for field in spec.request} & COLUMNS.keys())
        if taken:
            raise ContractError(f"{spec.name}: the prediction log has columns {', '.join(taken)}; rename the fields")
        self._folder = journal_folder(settings, spec.name)
        self._event_time_field = spec.source.event_time
        self._zone = ZoneInfo(spec.source.time_zone)
        self._writer = f"{os.getpid()}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
        self._number = 0
        self._lock = threading.Lock()
        self._hour = -1
        self._file = -1
        self._opened = 0.0
        self._longest = LONGEST_SECONDS if settings.storage_url else math.inf

    def append(
        self,
        request_id: str,
        at: datetime,
        version: int,
        rows: Sequence[Mapping[str, Any] | None],
        answers: Sequence[Answer],
        role: Role = "served",
    ) -> None:
        """Write the answers to a request's rows; ``rows`` hold times local to the source and without zone.

        A row is None where the request brought the features themselves. A shadow answers nobody. Raises
        UnavailableError if they cannot be written whole; then nothing of them stays.
        """
        import orjson

        unserved = {ROLE: role} if role != "served" else {}
        lines = [
            orjson.dumps(
                {
                    "request_id": request_id, "row": index, "at": at, "version": version,
                    "event_timestamp": self._event_time(row), "request": row, "features": answer.features,
                    "prediction": answer.prediction, "probabilities": answer.probabilities, "unknown": answer.unknown,
                    **unserved,
                },
                option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE,
            )
            for index, (row, answer) in enumerate(zip(rows, answers, strict=True))
        ]  # fmt: skip
        self.write(b"".join(lines), at.timestamp())

    def write(self, lines: bytes, at: float) -> None:
        """Write the finished lines of one request; ``at`` in seconds since 1970. Raises as ``append``."""
        hour = int(at) // 3600
        with self._lock:
            try:
                before = self._open(hour)
                written = os.write(self._file, lines)
                if written != len(lines):  # the disk is full: take back what was written, the file is ours alone
                    os.ftruncate(self._file, before)
                    raise OSError(f"only {written} of {len(lines)} bytes were written")
            except OSError as error:
                raise UnavailableError(
                    f"the prediction log in {self._folder} cannot be written ({error}); free some space"
                ) from error

    def roll(self, now: datetime) -> None:
        """Close the journal if its hour is over, so that it can be folded though nothing more is asked.

        Where the log goes into a bucket it is closed after five minutes: until then it is on this machine alone.
        """
        with self._lock:
            over = self._hour != int(now.timestamp()) // 3600
            if self._file >= 0 and (over or now.timestamp() - self._opened > self._longest):
                self._close()

    def close(self) -> None:
        """Close the journal."""
        with self._lock:
            self._close()

    def _event_time(self, row: Mapping[str, Any] | None) -> datetime | None:
        moment = row.get(self._event_time_field) if row else None
        return moment.replace(tzinfo=self._zone).astimezone(UTC) if isinstance(moment, datetime) else None

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file, self._hour = -1, -1

    def _open(self, hour: int) -> int:
        """Make sure that the hour's journal is open and still has a name, and return its length."""
        if self._file >= 0:
            state = os.fstat(self._file)
            if self._hour == hour and state.st_nlink and state.st_size < MAX_JOURNAL_BYTES:
                return state.st_size
            self._close()
        name = f"{datetime.fromtimestamp(hour * 3600, UTC):{HOUR}}.{self._writer}.{self._number}.jsonl"
        self._number += 1
        self._folder.mkdir(parents=True, exist_ok=True)
        hidden = self._folder / f".{name}"
        self._file = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._hour, self._opened = hour, time.time()
        # Locked before it can be found: whoever folds journals sees that somebody writes this one.
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        hidden.rename(self._folder / name)
        return 0


def read_predictions(
    settings: Settings,
    spec: ModelSpec,
    start: datetime | None = None,
    end: datetime | None = None,
    by: Literal["at", "event_timestamp"] = "at",
    role: Role | None = "served",
    request_id: str | None = None,
) -> pa.Table:
    """Return the logged answers of [start, end), by when they were given or by their event time, in order of ``at``.

    They are those that were served, a canary's among them, or those of a shadow (None: both, told apart by a column
    ``role``), of one request alone if it is named; read from open journals and parquet alike. By event time, those that
    have none (their features came with the request) are left out. Columns: ``COLUMNS``, each request field, each feature
    of any version (NULL where a version had none). Raises ContractError if a feature
    bears the name of another column.
    """
    import duckdb

    attempts = READ_ATTEMPTS
    while True:
        try:
            with duckdb.connect() as connection:
                return _read(connection, settings, spec, start, end, by, role, request_id)
        except duckdb.IOException:  # a journal was folded between being listed and being read: list again
            attempts -= 1
            if not attempts:
                raise


def _read(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    spec: ModelSpec,
    start: datetime | None,
    end: datetime | None,
    by: str,
    role: Role | None,
    request_id: str | None,
) -> pa.Table:
    connection.execute("SET TimeZone = 'UTC'")
    found = files(settings, spec.name, start, end) if by == "at" else files(settings, spec.name)
    source = journal_relation(connection, spec, found.journals)
    values: dict[str, Any] = {"journals": found.journals} if found.journals else {}
    if found.parquet:
        source += " UNION ALL BY NAME SELECT * FROM read_parquet($parquet, union_by_name = true)"
        values["parquet"] = found.parquet
    names = [row[0] for row in connection.execute(f"DESCRIBE {source}", values).fetchall()]
    features = [name.removeprefix(FEATURE) for name in names if name.startswith(FEATURE)]
    fields = [field.name for field in spec.request]
    taken = sorted({*features} & {*COLUMNS, *fields})
    if taken:
        raise ContractError(
            f"{spec.name}: features and prediction log both have {', '.join(taken)}; rename the features"
        )
    picked = [
        identifiers(COLUMNS),
        *(f"{identifier(REQUEST + name)} AS {identifier(name)}" for name in fields),
        *(f"{identifier(FEATURE + name)} AS {identifier(name)}" for name in features),
    ]
    when = identifier(by)
    return connection.execute(
        f"""
        SELECT {", ".join(picked)}{"" if role else f", coalesce({ROLE}, 'served') AS {ROLE}"} FROM ({source})
        WHERE (coalesce({ROLE}, 'served') = $role OR $role IS NULL) AND (request_id = $request_id OR $request_id IS NULL)
          AND {when} IS NOT NULL AND ({when} >= $start OR $start IS NULL) AND ({when} < $end OR $end IS NULL)
        ORDER BY "at", request_id, "row"
        """,
        {**values, "start": start, "end": end, "role": role, "request_id": request_id},
    ).to_arrow_table()
