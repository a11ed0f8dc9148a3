"""A small history of versions as plain data, for tests of what is drawn and compared."""

from datetime import UTC, datetime, timedelta
from typing import Any

from flows.ledger import Partition, Promotion
from flows.run_records import Run
from flows.steps.feature_record import FeatureFile, ViewRecord
from flows.steps.lineage import Code, Lineage, Machine, Stage, UsedPartition
from flows.steps.registry import Version
from flows.steps.training_set import Window
from flows.steps.version_record import VersionRecord

START = datetime(2024, 1, 1, tzinfo=UTC)
CHECKS = {"rules": 1, "checks": [{"rule": "columns", "verdict": "passed", "observed": "all are", "source": "contract"}]}
GATE = {
    "gate": "champion",
    "passed": True,
    "number": -1.0,
    "threshold": 0.0,
    "direction": "at most",
    "reason": "better",
}


def hours(number: float) -> datetime:
    return START + timedelta(hours=number)


def partition(day: int, revision: int = 1, **values: Any) -> Partition:
    landed = {
        "id": 10 * day + revision, "model": "taxi", "key": f"2024-01-{day:02}", "revision": revision,
        "digest": f"{day}{revision}" * 32, "source": "days", "status": "accepted", "uri": "raw", "accepted_uri": "accepted",
        "rejected_uri": None, "docs_uri": None, "rows": 100, "accepted_rows": 100, "rejected_rows": 0, "reasons": [],
        "statistics": {}, "validation": CHECKS, "first_event": hours(0), "last_event": hours(1), "landed_at": hours(100),
        "decided_at": hours(100.5), "featurized_at": hours(101.5),
    }  # fmt: skip
    return Partition.model_validate(landed | values)


def used(day: int, revision: int = 1) -> UsedPartition:
    landed = partition(day, revision)
    return UsedPartition(
        key=landed.key, revision=revision, digest=landed.digest, rows=100, accepted_rows=100, rejected_rows=0,
        accepted_sha256="f" * 64, validation=CHECKS,
    )  # fmt: skip


def record(number: int, days: tuple[int, ...] = (1, 2), champion: int | None = None, **values: Any) -> VersionRecord:
    """Return the record of a version; ``values`` are what its lineage says otherwise."""
    stages = [("choose-window", 0.0, 0.1), ("fit", 0.1, 0.5), ("judge", 0.5, 0.6)]
    lineage = {
        "model": "taxi", "fingerprint": "a" * 64, "reason": "new data", "run_id": f"run-{number}", "executor": "me@here pid 1",
        "code": Code(
            commit="c" * 40, changed=False, lock_sha256="b" * 64, sources_sha256="d" * 64, files={"flows.fit": "1" * 64},
            python="3.11", libraries={"numpy": "2.0"}, machine=Machine(system="Linux", processor="x", cores=2, instructions=()),
        ),
        "partitions": tuple(used(day) for day in days),
        "window": Window(start=hours(0), split=hours(24), end=hours(48), partition_ids=(11, 21)),
        "training_set_sha256": "e" * 64, "train_rows": 90, "judge_rows": 10, "feature_service": "taxi_v1",
        "feature_definitions_sha256": "9" * 64, "features": ("miles", "hour"), "estimator": "flows.models.taxi.estimator:build",
        "params": {"depth": 3}, "trials": 0, "seed": 0, "threads": 2, "champion_version": champion,
        "stages": tuple(
            Stage(
                name=name, start=hours(110 + number + a), end=hours(110 + number + b), executor="me@here pid 1",
                run_id=f"run-{number}",
            )
            for name, a, b in stages
        ),
        "feature_files": (FeatureFile(view="zone", name="1.parquet", sha256="7" * 64),),
        "views": (ViewRecord(name="zone", sha256="8" * 64, fields=("miles",), ttl=timedelta(days=7)),),
    }  # fmt: skip
    part = {
        "column": "hour",
        "value": "1",
        "rows": 5,
        "error": 2.0,
        "baseline": 9.0,
        "champion": 3.0 if champion else None,
    }
    return VersionRecord(
        version=Version(
            model="taxi", version=number, run_id=f"mlflow-{number}", folder="bundle", digest=f"{number}" * 64,
            fingerprint="a" * 64, reason="new data", created_at=hours(111 + number),
        ),
        lineage=Lineage(**(lineage | values)),
        evidence={
            "error": 2.0, "train_error": 1.0, "baseline_error": 9.0, "champion_error": 3.0 if champion else None,
            "judge_rows": 10, "metrics": {"rmse": 2.0}, "train_metrics": {"rmse": 1.0}, "slices": [part],
            "importance": {"miles": 5.0, "hour": 0.1}, "gates": [GATE], "failed": [],
        },
    )  # fmt: skip


def run(flow: str, start: float, name: str = "") -> Run:
    return Run(
        id=name or f"{flow}-{start}", model="taxi", flow=flow, reason="", state="completed", executor="me@here pid 1",
        summary={}, started_at=hours(start), ended_at=hours(start + 1),
    )  # fmt: skip


def promotion(sequence: int, version: int, previous: int | None, kind: str = "promote") -> Promotion:
    return Promotion(
        id=sequence, model="taxi", sequence=sequence, kind=kind, version=version, previous_version=previous,
        run_id=f"mlflow-{version}", model_uri="bundle", digest=f"{version}" * 64, who="me", why="better", evidence={},
        at=hours(120 + sequence),
    )  # fmt: skip
