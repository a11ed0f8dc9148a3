"""The lineage of a version: all that one must know to say how it was made, and to make it again."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from flows.errors import ContractError
from flows.ledger import Partition
from flows.spec import Frozen, ModelSpec
from flows.steps.files import sha256_of
from flows.steps.own_code import code_hash
from flows.steps.training_set import TrainingSet, Window

ROOT = Path(__file__).parents[2]
LIBRARIES = (
    "duckdb",
    "feast",
    "great-expectations",
    "mlflow",
    "numpy",
    "pandas",
    "prefect",
    "pyarrow",
    "scikit-learn",
    "skops",
)
# The modules whose work makes a version what it is; what comes before them is in the hashes of the partitions.
MAKERS = (
    "feature_repo.offline_store",
    "flows.steps.bundle",
    "flows.steps.evaluation",
    "flows.steps.fitting",
    "flows.steps.gates",
    "flows.steps.probe",
    "flows.steps.reference",
    "flows.steps.training_set",
)


class Stage(Frozen):
    """One step of a run: when it began and ended, in UTC, who ran it, and in which run: a resumed one takes over others."""

    name: str
    start: datetime
    end: datetime
    executor: str
    run_id: str = ""


class Code(Frozen):
    """The code that ran: git commit (None outside a checkout), lock file, sources and libraries."""

    commit: str | None
    changed: bool
    lock_sha256: str | None
    sources_sha256: str
    python: str
    libraries: dict[str, str]


class UsedPartition(Frozen):
    """A partition that trained or judged, with its hash and how it was validated."""

    key: str
    revision: int
    digest: str
    rows: int
    accepted_rows: int
    rejected_rows: int
    validation: dict[str, Any]


class Lineage(Frozen):
    """The record that goes with a version."""

    model: str
    fingerprint: str
    reason: str
    run_id: str
    executor: str
    code: Code
    partitions: tuple[UsedPartition, ...]
    window: Window
    training_set_sha256: str
    train_rows: int
    judge_rows: int
    feature_service: str
    feature_definitions_sha256: str
    features: tuple[str, ...]
    estimator: str
    params: dict[str, Any]
    trials: int
    seed: int
    threads: int
    champion_version: int | None
    stages: tuple[Stage, ...]


def code(spec: ModelSpec, estimator: str) -> Code:
    """Return what ran: commit, lock file, the sources of the model and of Evergreen's steps, libraries."""
    lock = ROOT / "uv.lock"
    commit = _git("rev-parse", "HEAD") or os.environ.get("EVERGREEN_COMMIT") or None  # an image holds no checkout
    return Code(
        commit=commit,
        changed=bool(commit and _git("status", "--porcelain", "--untracked-files=no")),
        lock_sha256=sha256_of(lock) if lock.exists() else None,
        sources_sha256=sources_hash(spec, estimator),
        python=platform.python_version(),
        libraries={name: metadata.version(name) for name in LIBRARIES},
    )


def sources_hash(spec: ModelSpec, estimator: str) -> str:
    """Return the sha256 of the sources that make a version: the steps, the modules that the spec names, what they import.

    The modules are found, not imported. Raises ContractError if one is not there.
    """
    named = (spec.rows, spec.expectations, spec.feature_tables, estimator, spec.search_space)
    return code_hash([*MAKERS, spec.definitions, *(_module(path) for path in named if path)])


def _module(path: str) -> str:
    """Return the module of a dotted path; raises ContractError if it is not there."""
    module = path.partition(":")[0]
    try:
        found = importlib.util.find_spec(module)
    except ImportError:
        found = None
    if found is None or not found.origin:
        raise ContractError(f"{path} cannot be imported (no module {module}); correct the path or install its package")
    return module


def fingerprint(
    spec: ModelSpec, partitions: Sequence[Partition], window: Window, definitions: str, estimator: str, trials: int
) -> str:
    """Return the sha256 of all that decides what training makes; the same again means that there is nothing to do."""
    parts: list[Any] = [
        spec.model_dump_json(), [(p.key, p.digest) for p in partitions], window.model_dump_json(exclude={"partition_ids"}),
        definitions, estimator, trials, sources_hash(spec, estimator), {name: metadata.version(name) for name in LIBRARIES},
    ]  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def used(partitions: Sequence[Partition]) -> tuple[UsedPartition, ...]:
    """Return what the lineage keeps of partitions."""
    return tuple(
        UsedPartition.model_validate(p.model_dump(include=set(UsedPartition.model_fields))) for p in partitions
    )


def trace(
    spec: ModelSpec,
    *,
    data: TrainingSet,
    partitions: Sequence[Partition],
    stages: Sequence[Stage],
    estimator: str,
    **values: Any,
) -> Lineage:
    """Return the lineage of a version from its training set, its partitions and the stages that have run."""
    return Lineage(
        model=spec.name, code=code(spec, estimator), estimator=estimator, partitions=used(partitions), window=data.window,
        training_set_sha256=data.digest, train_rows=data.train_rows, judge_rows=data.judge_rows,
        feature_service=spec.feature_service, features=data.features, seed=spec.training.seed,
        threads=spec.training.threads, stages=tuple(stages), **values,
    )  # fmt: skip


@cache
def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments],  # noqa: S607
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
