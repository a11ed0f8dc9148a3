"""The prediction log at rest: closed journals folded into parquet by hour, and where both are found.

A journal is ``journal/<hour>.<writer>.<number>.jsonl``. Its writer holds a lock on it, which the end of the process
frees; what nobody holds is folded into ``hours/<day>/<hour>/<same name>.parquet`` and then removed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps.in_memory import connect
from flows.steps.sql import identifier, literal
from flows.steps.storage import pull, writing

if TYPE_CHECKING:
    import duckdb

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
ROLE = "role"  # "shadow" for an answer that nobody was given; NULL, or not there in older files: it was served
FIELD_TYPES = {"int": "BIGINT", "float": "DOUBLE", "string": "VARCHAR", "timestamp": "TIMESTAMP"}
REQUEST, FEATURE = "request.", "feature."  # how the columns of request fields and features begin in parquet
HOUR = "%Y-%m-%dT%H"


@dataclass(frozen=True)
class Files:
    """The files of the log: journals that are not folded yet, and parquet."""

    journals: list[str]
    parquet: list[str]


def journal_folder(settings: Settings, model: str) -> Path:
    """Return where the journals are."""
    return settings.predictions(model) / "journal"


def files(settings: Settings, model: str, start: datetime | None = None, end: datetime | None = None) -> Files:
    """Return the files of the UTC hours that [start, end) touches.

    Journals are listed first: one that is folded meanwhile is found in both places, and its parquet counts.
    """
    first = f"{start.astimezone(UTC):{HOUR}}" if start else ""
    last = f"{end.astimezone(UTC) - timedelta(microseconds=1):{HOUR}}" if end else "9999"
    folder = settings.predictions(model)
    pull(settings, folder / "hours", lambda name: first <= name[:13] <= last)
    journals = {path.stem: str(path) for path in sorted(_journals(settings, model))}
    parquet = {path.stem: str(path) for path in sorted(folder.glob("hours/*/*/*.parquet"))}
    return Files(
        journals=[path for name, path in journals.items() if first <= name[:13] <= last and name not in parquet],
        parquet=[path for name, path in parquet.items() if first <= name[:13] <= last],
    )


def foldable(settings: Settings, model: str) -> bool:
    """Say whether there is a journal that nobody writes any more."""
    for path in _journals(settings, model):
        handle = _hold(path)
        if handle >= 0:
            os.close(handle)
            return True
    return False


def fold(settings: Settings, spec: ModelSpec) -> int:
    """Fold each journal that nobody writes any more into parquet, and return how many there were.

    Several may do it at once: each journal is folded by the one that holds its lock. Killed at any point, the next
    call goes on.
    """
    done = 0
    for path in sorted(_journals(settings, spec.name)):
        handle = _hold(path)
        if handle < 0:
            continue
        try:
            day, hour = path.stem[:10], path.stem[11:13]
            target = settings.predictions(spec.name) / "hours" / day / hour / f"{path.stem}.parquet"
            if path.stat().st_size and not target.exists():
                with connect(threads=1) as connection:
                    _convert(connection, settings, spec, str(path), target)
            path.unlink()
            done += 1
        finally:
            os.close(handle)
    return done


def journal_relation(connection: duckdb.DuckDBPyConnection, spec: ModelSpec, paths: list[str]) -> str:
    """Return SQL for the lines of some journals, flat as in parquet; ``$journals`` is to be bound to their paths.

    A line that was torn by a kill is left out.
    """
    columns = COLUMNS | {
        ROLE: "VARCHAR",
        "prediction": "DOUBLE" if spec.task == "regression" else "VARCHAR",
        "request": _struct({field.name: FIELD_TYPES[field.type] for field in spec.request}),
    }
    features = _feature_types(connection, paths) if paths else {}
    if features:
        columns["features"] = _struct(features)
    picked = [
        *map(identifier, [*COLUMNS, ROLE]),
        *(f"request.{identifier(field.name)} AS {identifier(REQUEST + field.name)}" for field in spec.request),
        *(f"features.{identifier(name)} AS {identifier(FEATURE + name)}" for name in features),
    ]
    if paths:
        typed = ", ".join(f"{identifier(name)}: {literal(kind)}" for name, kind in columns.items())
        rows = (
            f"read_json($journals, format = 'newline_delimited', ignore_errors = true, columns = {{{typed}}}, "
            "maximum_object_size = 67108864)"
        )
    else:
        empty = ", ".join(f"NULL::{kind} AS {identifier(name)}" for name, kind in columns.items())
        rows = f"(SELECT {empty} LIMIT 0)"
    return f"SELECT {', '.join(picked)} FROM {rows} WHERE request_id IS NOT NULL"


def _journals(settings: Settings, model: str) -> Iterator[Path]:
    """Return the journals; one that is hidden has no lock yet."""
    return journal_folder(settings, model).glob("[!.]*.jsonl")


def _hold(path: Path) -> int:
    """Open a journal and lock it; -1 if its writer lives, another one folds it, or it is gone."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return -1
    if not os.fstat(handle).st_nlink:  # folded and removed since it was opened
        os.close(handle)
        return -1
    return handle


def _convert(
    connection: duckdb.DuckDBPyConnection, settings: Settings, spec: ModelSpec, journal: str, target: Path
) -> None:  # fmt: skip
    rows = journal_relation(connection, spec, [journal])
    with writing(settings, target) as temporary:
        connection.execute(
            f"""COPY ({rows} ORDER BY "at", request_id, "row") TO {literal(temporary)} (FORMAT parquet, CODEC zstd)""",
            {"journals": [journal]},
        )


def _feature_types(connection: duckdb.DuckDBPyConnection, paths: list[str]) -> dict[str, str]:
    """Return the DuckDB type of each feature in the journals: text if it ever was one, else a number."""
    found = connection.execute(
        """
        SELECT DISTINCT json_structure(features) FROM read_json($files, format = 'newline_delimited',
            ignore_errors = true, columns = {features: 'JSON'}) WHERE features IS NOT NULL
        """,
        {"files": paths},
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


def _struct(fields: Mapping[str, str]) -> str:
    return f"STRUCT({', '.join(f'{identifier(name)} {kind}' for name, kind in fields.items())})"
