"""The lineage of a version: all that one must know to say how it was made, and to make it again."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import Field

from flows.errors import ContractError, TamperedError, UnavailableError
from flows.ledger import Partition
from flows.spec import Frozen, ModelSpec
from flows.steps.feature_record import FeatureFile, ViewRecord
from flows.steps.files import sha256_of
from flows.steps.git import git
from flows.steps.own_code import code_hash, own_files
from flows.steps.revisions import brought_by
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
    "feature_repo.spark_store",
    "flows.steps.bundling",
    "flows.steps.evaluation",
    "flows.steps.fitting",
    "flows.steps.gates",
    "flows.steps.probe",
    "flows.steps.reference",
    "flows.steps.training_set",
)


class Stage(Frozen):
    """One step of a run: its times in UTC, who ran it, and in which run: a resumed run takes over finished steps."""

    name: str
    start: datetime
    end: datetime
    executor: str
    run_id: str = ""


class Machine(Frozen):
    """What a sum of floats may depend on beside code: the processor's kind and instructions, and its cores."""

    system: str
    processor: str
    cores: int
    instructions: tuple[str, ...]


class Code(Frozen):
    """The code that ran: git commit (None outside a checkout), lock file, sources and libraries.

    ``files`` has the sha256 of each module; records made before there were any have none of them, and no machine.
    """

    commit: str | None
    changed: bool
    lock_sha256: str | None
    sources_sha256: str
    files: dict[str, str] = Field(default_factory=dict)
    python: str
    libraries: dict[str, str]
    machine: Machine | None = None


class PastPartition(Frozen):
    """A partition whose rows are in the features: ``digest`` is that of its landed rows, ``accepted_sha256`` of the file
    of those that were accepted."""

    key: str
    revision: int
    digest: str
    accepted_rows: int
    accepted_sha256: str = ""


class UsedPartition(PastPartition):
    """A partition that trained or judged, with its hashes and how it was validated."""

    rows: int
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
    past: tuple[PastPartition, ...] = ()  # before the window: only the features know of them
    feature_files: tuple[FeatureFile, ...] = ()
    views: tuple[ViewRecord, ...] = ()
    spec: dict[str, Any] = Field(default_factory=dict)


def code(spec: ModelSpec, estimator: str) -> Code:
    """Return what runs here: commit, lock file, the sources of the model and of Evergreen's steps, libraries, machine.

    Raises ContractError if a module that the spec names is not there.
    """
    lock, files = ROOT / "uv.lock", own_files(_modules(spec, estimator))
    commit = _git("rev-parse", "HEAD") or os.environ.get("EVERGREEN_COMMIT") or None  # an image holds no checkout
    return Code(
        commit=commit,
        changed=bool(commit and (_git("status", "--porcelain", "--untracked-files=no") or _untracked(files.values()))),
        lock_sha256=sha256_of(lock) if lock.exists() else None,
        sources_sha256=sources_hash(spec, estimator),
        files={name: sha256_of(path) for name, path in sorted(files.items())},
        python=platform.python_version(),
        libraries={name: metadata.version(name) for name in LIBRARIES},
        machine=_machine(),
    )


def sources_hash(spec: ModelSpec, estimator: str) -> str:
    """Return the sha256 of the sources that make a version: the steps, the modules that the spec names, what they import.

    The modules are found, not imported. Raises ContractError if one is not there.
    """
    return code_hash(_modules(spec, estimator))


def _modules(spec: ModelSpec, estimator: str) -> list[str]:
    named = (spec.rows, spec.expectations, spec.feature_tables, estimator, spec.search_space)
    return [*MAKERS, spec.definitions, *(_module(path) for path in named if path)]


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
    """Return the sha256 of all that decides what training makes; the same again means that there is nothing to do.

    ``partitions`` are those of the window, and those beside it that its features know of.
    """
    # Landed rows stay as they are, but other accepted rows may be made of them.
    rows = [(one.key, one.digest, one.accepted_sha256) for one in partitions]
    parts: list[Any] = [
        spec.model_dump_json(), rows, window.model_dump_json(exclude={"partition_ids"}), definitions,
        estimator, trials, sources_hash(spec, estimator), {name: metadata.version(name) for name in LIBRARIES},
    ]  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def used(partition: Partition) -> UsedPartition:
    """Return what the lineage keeps of a partition that trained or judged."""
    kept = partition.model_dump(
        include={"key", "revision", "digest", "accepted_rows", "rows", "rejected_rows", "validation"}
    )
    return UsedPartition(**kept, accepted_sha256=_accepted(partition))


def past(
    spec: ModelSpec, accepted: Sequence[Partition], window: Window, views: Sequence[ViewRecord]
) -> tuple[PastPartition, ...]:
    """Return what the lineage keeps of the partitions beside a window's own."""
    return tuple(
        PastPartition(
            key=one.key, revision=one.revision, digest=one.digest, accepted_rows=one.accepted_rows,
            accepted_sha256=_accepted(one),
        )
        for one in beside(spec, accepted, window, views)
    )  # fmt: skip


def beside(
    spec: ModelSpec, accepted: Sequence[Partition], window: Window, views: Sequence[ViewRecord]
) -> list[Partition]:
    """Return the featurized partitions beside a window's own: rows that its features can know of, as far as they reach."""
    stored = [view.ttl for view in views if view.name in spec.entities]
    longest = max((ttl for ttl in stored if ttl), default=timedelta(0))
    reach = None if None in stored else window.start - longest - spec.history - spec.tick
    return [
        one
        for one in accepted
        if one.id not in window.partition_ids and one.featurized_at and one.last_event and one.first_event
        and (reach is None or reach <= one.last_event) and one.first_event < window.end
    ]  # fmt: skip


def _accepted(partition: Partition) -> str:
    """Return the sha256 of a partition's accepted rows; raises TamperedError if it is not the one that was written."""
    if not partition.accepted_uri:
        return ""
    digest = sha256_of(Path(partition.accepted_uri))
    if partition.accepted_sha256 and digest != partition.accepted_sha256:
        raise TamperedError(
            f"{partition.accepted_uri} does not hold the rows of {partition.key} that were accepted: somebody has altered it; "
            f"remove it, then `{brought_by(partition)} --model {partition.model}`, which makes it anew"
        )
    return digest


def trace(
    spec: ModelSpec,
    *,
    data: TrainingSet,
    accepted: Sequence[Partition],
    views: Sequence[ViewRecord],
    stages: Sequence[Stage],
    estimator: str,
    **values: Any,
) -> Lineage:
    """Return the lineage of a version from its training set, the accepted partitions and the stages that have run."""
    partitions = [one for one in accepted if one.id in data.window.partition_ids]
    return Lineage(
        model=spec.name, code=code(spec, estimator), estimator=estimator, window=data.window,
        partitions=tuple(map(used, partitions)), training_set_sha256=data.digest,
        train_rows=data.train_rows, judge_rows=data.judge_rows,
        feature_service=spec.feature_service, features=data.features, seed=spec.training.seed,
        threads=spec.training.threads, stages=tuple(stages), past=past(spec, accepted, data.window, views),
        views=tuple(views), feature_files=data.feature_files, spec=spec.model_dump(mode="json"), **values,
    )  # fmt: skip


def _machine() -> Machine:
    import numpy as np
    from joblib import cpu_count

    config: Any = np.show_config(mode="dicts")
    found = config.get("SIMD Extensions", {}).get("found", [])
    cores = cpu_count(only_physical_cores=True)  # what scikit-learn's trees take at most, whatever they are given
    return Machine(system=platform.system(), processor=platform.machine(), cores=cores, instructions=tuple(found))


def _untracked(files: Iterable[Path]) -> str | None:
    """Return which of some files a checkout of the commit would lack."""
    ours = [str(file) for file in files if file.is_relative_to(ROOT)]
    return _git("ls-files", "--others", "--", *ours) if ours else None


def _git(*arguments: str) -> str | None:
    try:
        done = git(ROOT, *arguments)
    except (OSError, UnavailableError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
