"""What a lineage graph is built from, read from MLflow, the ledger and the prediction log; nothing is written."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.engine import Engine

from flows import ledger, run_records, trials
from flows.errors import RefusedError, UsageError
from flows.ledger import Partition, Promotion
from flows.run_records import Run
from flows.settings import Settings
from flows.spec import Frozen, ModelSpec
from flows.steps import version_record
from flows.steps.prediction_log import read_predictions
from flows.steps.version_record import VersionRecord
from flows.trials import Trial


class Answered(Frozen):
    """One row of the prediction log."""

    request_id: str
    row: int
    at: datetime
    version: int
    role: str
    prediction: Any
    request: dict[str, Any]
    unknown: tuple[str, ...]


class Facts(Frozen):
    """What was read for a graph; ``promotions``, ``trials`` and ``runs`` are all of the model, oldest first."""

    record: VersionRecord
    ancestors: tuple[VersionRecord, ...] = ()
    partitions: tuple[Partition, ...] = ()
    runs: tuple[Run, ...] = ()
    promotions: tuple[Promotion, ...] = ()
    trials: tuple[Trial, ...] = ()
    answered: tuple[Answered, ...] = ()


def of_version(
    settings: Settings, spec: ModelSpec, engine: Engine, number: int, answered: tuple[Answered, ...] = ()
) -> Facts:
    """Return all that is known of a version; raises RefusedError if there is none, or its record is gone."""
    record = version_record.read(settings, spec.name, number)
    return Facts(
        record=record,
        ancestors=tuple(version_record.ancestors(settings, record)),
        partitions=tuple(ledger.list_partitions(engine, spec.name)),
        runs=tuple(reversed(run_records.newest(engine, spec.name, None))),
        promotions=tuple(reversed(ledger.list_promotions(engine, spec.name))),
        trials=tuple(sorted(trials.listed(engine, spec.name), key=lambda trial: trial.id)),
        answered=answered,
    )


def of_prediction(settings: Settings, spec: ModelSpec, engine: Engine, request_id: str) -> Facts:
    """Return all that is known of the version that answered a request; a shadow's copies are told of only beside it.

    ``request_id`` is that of the answer's ``x-request-id`` header. Raises UsageError if the log has no such request,
    RefusedError if several versions answered it: clients choose ids, and may use one twice.
    """
    rows = _answered(settings, spec, request_id)
    if not rows:
        raise UsageError(
            f"{spec.name}: the prediction log has no request {request_id!r}; it is the x-request-id of an answer"
        )
    served = {one.version for one in rows if one.role == "served"} or {one.version for one in rows}
    if len(served) > 1:
        raise RefusedError(
            f"{spec.name}: versions {', '.join(map(str, sorted(served)))} answered requests of the id {request_id!r}; "
            "ask for each version, and give each request an id of its own"
        )
    return of_version(settings, spec, engine, served.pop(), tuple(rows))


def _answered(settings: Settings, spec: ModelSpec, request_id: str) -> list[Answered]:
    fields = [field.name for field in spec.request]
    return [
        Answered(
            request_id=request_id, row=row["row"], at=row["at"], version=row["version"], role=row["role"],
            prediction=row["prediction"], request={name: row[name] for name in fields}, unknown=tuple(row["unknown"] or ()),
        )
        for row in read_predictions(settings, spec, role=None, request_id=request_id).to_pylist()
    ]  # fmt: skip
