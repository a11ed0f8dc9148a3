"""The prediction log: every answer as a line of JSON, written before it is given, read back as a table."""

from __future__ import annotations

import fcntl
import math
import mmap
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
from flows.steps.in_memory import connect
from flows.steps.prediction_hours import (
    COLUMNS,
    FEATURE,
    FIELD_TYPES,
    HOUR,
    REQUEST,
    ROLE,
    files,
    journal_folder,
    journal_relation,
)
from flows.steps.sql import identifier, identifiers

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MAX_JOURNAL_BYTES = 2**26  # a journal that has grown so far is closed, to be folded before its hour is over
LONGEST_SECONDS = 300.0
WINDOW_BYTES = 2**18  # of a journal that are reserved and mapped at once
SMOKE = "evergreen-smoke-"  # how the ids of requests begin that ask the spec's example, only to try the service
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

    A journal is written through mapped memory: no system call for an answer, and what is written is the kernel's, so
    that a kill leaves at most one torn line. Its space is reserved before, zeros that are cut off when it is closed and
    that its readers skip. It is safe against the end of the process, not of the machine: nothing is synced for each answer.
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
        self.problem: str | None = None  # why the newest request could not be logged, and so was not answered
        self._lock = threading.Lock()
        self._hour = -1
        self._second = -1
        self._file = -1
        self._window: mmap.mmap | None = None
        self._begin = self._place = self._end = 0  # of the window in the file, of the next line in it, and its length
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
        second = int(at)
        with self._lock:
            try:
                if second != self._second:
                    self._look(second)
                if self._window is None or self._place + len(lines) > self._end:
                    self._reserve(len(lines))
                assert self._window is not None
                self._window[self._place : self._place + len(lines)] = lines
                self._place += len(lines)
                self.problem = None
            except OSError as error:
                self.problem = f"the prediction log in {self._folder} cannot be written ({error}); free some space"
                raise UnavailableError(self.problem) from error

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
            written = self._begin + self._place
            if self._window is not None:
                self._window.close()
            os.ftruncate(self._file, written)
            os.close(self._file)
        self._window, self._file, self._hour, self._second = None, -1, -1, -1
        self._begin = self._place = self._end = 0

    def _look(self, second: int) -> None:
        """Make sure, once a second, that the journal of this hour is open and still has a name."""
        if self._file >= 0 and (self._hour != second // 3600 or not os.fstat(self._file).st_nlink):
            self._close()
        if self._file < 0:
            self._open(second // 3600)
        self._second = second

    def _reserve(self, size: int) -> None:
        """Map the next part of the journal, or of another if it is long; raises OSError, and all is as it was."""
        if self._begin + self._place >= MAX_JOURNAL_BYTES:
            hour, second = self._hour, self._second
            self._close()
            self._open(hour)
            self._second = second
        written, had = self._begin + self._place, self._begin + self._end
        begin = written - written % mmap.ALLOCATIONGRANULARITY
        end = max(min(begin + WINDOW_BYTES, MAX_JOURNAL_BYTES), written + size)
        # Zeros, not a hole: mapped memory with no room on the disk behind it would end the process.
        wrote = os.pwrite(self._file, bytes(end - had), had)
        if wrote != end - had:
            os.ftruncate(self._file, had)
            raise OSError(f"only {wrote} of {end - had} bytes were reserved")
        window = mmap.mmap(self._file, end - begin, offset=begin)
        if self._window is not None:
            self._window.close()
        self._window, self._begin, self._place, self._end = window, begin, written - begin, end - begin

    def _open(self, hour: int) -> None:
        name = f"{datetime.fromtimestamp(hour * 3600, UTC):{HOUR}}.{self._writer}.{self._number}.jsonl"
        self._number += 1
        self._folder.mkdir(parents=True, exist_ok=True)
        hidden = self._folder / f".{name}"
        self._file = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._hour, self._opened = hour, time.time()
        try:
            # Locked before it can be found: whoever folds journals sees that somebody writes this one.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.rename(self._folder / name)
        except OSError:  # what is written into one without lock or name would be lost
            os.close(self._file)
            self._file = -1
            hidden.unlink(missing_ok=True)
            raise


def read_predictions(
    settings: Settings,
    spec: ModelSpec,
    start: datetime | None = None,
    end: datetime | None = None,
    by: Literal["at", "event_timestamp"] = "at",
    role: Role | None = "served",
    request_id: str | None = None,
    version: int | None = None,
    only: Sequence[str] = (),
) -> pa.Table:
    """Return the logged answers of [start, end), by when they were given or by their event time, in order of ``at``.

    They are those that were served, a canary's among them, or those of a shadow (None: both, told apart by a column
    ``role``), of one request or version alone if it is named; read from open journals and parquet alike. Those of a smoke
    test, copies of the spec's example, are found by their request alone. By event time, those that have none (their
    features came with the request) are left out. Columns: ``COLUMNS``, each request field, each feature of any version
    (NULL where a version had none); or ``only`` some of ``COLUMNS``, in no order. Raises ContractError if a feature bears
    the name of another column.
    """
    import duckdb

    attempts = READ_ATTEMPTS
    while True:
        try:
            with connect() as connection:
                return _read(connection, settings, spec, start, end, by, role, request_id, version, only)
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
    version: int | None,
    only: Sequence[str],
) -> pa.Table:
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
    selected, order = ", ".join(picked), 'ORDER BY "at", request_id, "row"'
    if only:
        selected, order = identifiers(only), ""
    when = identifier(by)
    # Any client may call a request as a smoke test does; what it asks of its own is counted all the same.
    example = {field.name: field for field in spec.request if field.type != "timestamp"}
    copied = [
        f"{identifier(REQUEST + name)} IS NOT DISTINCT FROM CAST($example_{number} AS {FIELD_TYPES[field.type]})"
        for number, (name, field) in enumerate(example.items())
    ]
    values |= {f"example_{number}": field.example for number, field in enumerate(example.values())}
    smoke = " AND ".join([f"starts_with(request_id, '{SMOKE}')", *copied])
    return connection.execute(
        f"""
        SELECT {selected}{"" if role else f", coalesce({ROLE}, 'served') AS {ROLE}"} FROM ({source})
        WHERE (coalesce({ROLE}, 'served') = $role OR $role IS NULL)
          AND (request_id = $request_id OR ($request_id IS NULL AND NOT ({smoke})))
          AND (version = $version OR $version IS NULL)
          AND {when} IS NOT NULL AND ({when} >= $start OR $start IS NULL) AND ({when} < $end OR $end IS NULL)
        {order}
        """,
        {**values, "start": start, "end": end, "role": role, "request_id": request_id, "version": version},
    ).to_arrow_table()
