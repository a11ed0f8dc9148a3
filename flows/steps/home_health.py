"""A home as the doctor sees it: the libraries that work on it, its disk, and the files that its databases name."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from sqlalchemy.engine import Engine

from flows import ledger
from flows.errors import UnavailableError
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import feature_tables, online_file, storage
from flows.steps.files import sha256_of
from flows.steps.finding import Finding
from flows.steps.trusted import one_line

FREE_BYTES = 2**30
LOOKED_BYTES = 2**31  # of accepted rows, the newest ones, whose hashes are compared: some seconds
EXACT = ("prefect", "mlflow", "feast", "great-expectations", "skops", "scikit-learn", "duckdb", "pandas")


def libraries() -> Iterator[Finding]:
    """Yield whether the libraries have the versions that Evergreen asks for."""
    from packaging.requirements import Requirement

    wanted = {one.name: one for one in map(Requirement, metadata.requires("evergreen") or []) if not one.marker}
    wrong = [
        f"{name} {metadata.version(name)}, not {wanted[name].specifier}"
        for name in EXACT
        if name in wanted and not wanted[name].specifier.contains(metadata.version(name), prereleases=True)
    ]
    if wrong:
        yield Finding("libraries", "bad", "; ".join(wrong), "run `uv sync`")
    else:
        yield Finding("libraries", "good", f"evergreen {metadata.version('evergreen')}, as it asks for")


def home(settings: Settings, spec: ModelSpec) -> Iterator[Finding]:
    """Yield whether the home can be written to, and has room."""
    if not settings.home.exists():
        yield Finding(
            "home", "warning", f"{settings.home} is not there yet",
            "`evergreen ingest SOURCE` makes it; or name another with --home",
        )  # fmt: skip
        return
    folders = [settings.home, *filter(Path.exists, [settings.artifacts, settings.landing(spec.name)])]
    problems = {folder: problem for folder in folders if (problem := _write_problem(folder))}
    for folder, problem in problems.items():
        yield Finding(
            "home", "bad", f"{folder} cannot be written to ({problem})",
            "give it to the user that runs Evergreen (chown), mount its disk to be written to, or name another with --home",
        )  # fmt: skip
    free = shutil.disk_usage(settings.home).free
    if free < FREE_BYTES:
        yield Finding(
            "home", "warning", f"{free / 2**20:.0f} MiB are free on its disk",
            "free some space: landing, training and the prediction log need it",
        )  # fmt: skip
    elif not problems:
        yield Finding("home", "good", f"{settings.home} is writable, {free / 2**30:.0f} GiB are free")


def _write_problem(folder: Path) -> str | None:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-", suffix=".tmp"):
            return None
    except OSError as error:
        return error.strerror or type(error).__name__


def lake(settings: Settings, spec: ModelSpec, engine: Engine) -> Iterator[Finding]:
    """Yield whether the files of accepted partitions and of the feature tables are there and whole."""
    rows = ledger.list_partitions(engine, spec.name)
    raw = settings.lake(spec.name) / "raw"
    unknown = [] if rows else list(raw.glob("*.parquet"))
    if unknown:
        yield Finding(
            "lake", "bad", f"the ledger knows no partition, and {len(unknown)} files of partitions lie in {raw}",
            "was the ledger deleted or replaced? Restore a backup of it; without one, ingest the sources again and promote "
            "the version that served",
        )  # fmt: skip
        return
    files = [uri for row in rows if row.status == "accepted" for uri in (row.uri, row.accepted_uri) if uri]
    try:
        missing = storage.missing(files)
    except UnavailableError as error:
        yield Finding("lake", "bad", f"its files cannot be looked for: {one_line(error)}", "mend the storage first")
        return
    broken = storage.damaged(files)
    mend = (
        "ingest their source again, which makes accepted rows anew, or restore a backup; training over those days stops "
        "until they are back"
    )
    if missing and not any(uri.startswith(("s3://", f"{settings.home}/")) for uri in files):
        mend = (
            f"was {settings.home} moved? Its databases name the place it came from: move it back, `evergreen backup FILE` "
            "there, and `evergreen restore FILE` where it is to be"
        )
    for names, what in ((missing, "gone"), (broken, "damaged")):
        if names:
            found = f"{len(names)} of {len(files)} files of accepted partitions are {what}: {names[0]}"
            yield Finding("lake", "bad", found, mend)
    altered = _altered(rows)
    if not missing and not broken and not altered:
        yield Finding("lake", "good", f"{len(files)} files of accepted partitions are there and whole")
    if altered:
        yield Finding(
            "lake", "bad", f"{len(altered)} files of accepted rows are not as they were written: {altered[0]}",
            "remove them, then ingest their source again, which makes them anew, or restore a backup; no training takes them",
        )  # fmt: skip
    torn = feature_tables.damaged(settings, spec)
    if torn:
        yield Finding(
            "feature tables", "bad", f"{len(torn)} files are damaged: {torn[0]}",
            f"`evergreen featurize --again --model {spec.name}` makes them anew",
        )  # fmt: skip


def _altered(rows: list[ledger.Partition]) -> list[str]:
    """Return which files of accepted rows in the home are not those that were written, of the newest ones."""
    found, left = [], LOOKED_BYTES
    for row in sorted(rows, key=lambda one: one.key, reverse=True):
        path = Path(row.accepted_uri or "")
        if row.status != "accepted" or not row.accepted_sha256 or not path.is_file():
            continue
        left -= path.stat().st_size
        if left < 0:
            break
        if sha256_of(path) != row.accepted_sha256:
            found.append(str(path))
    return found


def online_database(settings: Settings, spec: ModelSpec) -> Iterator[Finding]:
    """Yield whether the file of the SQLite online store is there and whole."""
    path, wrong = online_file.path_of(settings), online_file.damage(settings)
    known = settings.features(spec.name).exists()
    if wrong or (known and not path.exists()):
        yield Finding(
            "online store", "bad", f"{path} is damaged ({wrong})" if wrong else f"{path} is gone",
            f"`evergreen featurize --again --model {spec.name}` writes it anew",
        )  # fmt: skip
    elif known:
        yield Finding("online store", "good", f"{path} is whole")
