"""Homes for the tests of training, promotion and features: made once a session by the real flows, then copied.

A copy has ledger, MLflow's database, feature tables and Feast's stores of its own. The partitions and bundles that they
name by absolute paths stay those of the original, which no test may change.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from flows import database, ledger
from flows.lookup import load_model
from flows.settings import Settings
from flows.steps import registry, run_log

TESTS = Path(__file__).parent
QUICK = '["team.quick"]'
MANUAL = '["team.manual"]'


@contextmanager
def opened(
    folder: Path, api_url: str, packages: str = QUICK, servers: Mapping[str, str] | None = None
) -> Iterator[Settings]:
    """Open a home for this process and its children, with a package of models; the environment is as before afterwards."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    before = dict(os.environ)
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    ours = {"PREFECT_API_URL": api_url, "EVERGREEN_MODEL_PACKAGES": packages, "PYTHONPATH": path}
    os.environ.update(ours | dict(servers or {}))
    login = os.environ.get("PREFECT_API_AUTH_STRING")
    try:
        # Prefect reads its settings once; another test module may have had a server of its own.
        with temporary_settings({PREFECT_API_URL: api_url} | ({PREFECT_API_AUTH_STRING: login} if login else {})):
            yield Settings(home=folder).activate()
    finally:
        os.environ.clear()
        os.environ.update(before)


@cache
def featurized(base: Path, days: Path, api_url: str) -> Path:
    """Return the folder of a home with the simulated days, ingested and featurized."""

    def fill(_home: Settings) -> None:
        from flows.featurize import featurize
        from flows.ingest import ingest

        ingest(str(days))
        featurize()

    return _made_once(base, "featurized", api_url, fill)


@cache
def trained(base: Path, days: Path, api_url: str) -> Path:
    """Return the folder of a home in which version 1 was trained and promoted as well."""
    source = featurized(base, days, api_url)

    def fill(home: Settings) -> None:
        from flows.train import train

        copy_home(source, home)
        assert train()["promoted"]

    return _made_once(base, "trained", api_url, fill)


def _made_once(base: Path, name: str, api_url: str, fill: Callable[[Settings], None]) -> Path:
    """Return the folder of a home that is filled by the first of the session's processes that needs it."""
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = root / name, root / f"{name}.done"
    with FileLock(root / f"{name}.lock", timeout=300):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of one that failed
            with opened(folder, api_url) as home:
                fill(home)
            for path in folder.rglob("*.db"):  # whoever copies a database needs all of it to be in its one file
                with closing(sqlite3.connect(path)) as connection:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            done.touch()
    return folder


def copy_home(source: Path, home: Settings) -> None:
    """Fill a home with what another one holds, except for the files that are named by absolute paths."""
    left = shutil.ignore_patterns("lake", "artifacts", "prefect", "docs", "tmp", "*.lock")
    shutil.copytree(source, home.home, ignore=left, copy_function=_copy, dirs_exist_ok=True)


def _copy(source: str, target: str) -> None:
    """Copy a file; what SQLite lays beside an open database may be gone by now, and held nothing then."""
    with suppress(FileNotFoundError):
        shutil.copy2(source, target)


def champion(home: Settings) -> int | None:
    """Return the version that the ledger says serves."""
    found = ledger.champion(database.connect(home), "taxi")
    return found.version if found else None


def history(home: Settings) -> list[tuple[int, str, int, int | None]]:
    """Return sequence, kind, version and previous version of all promotions, oldest first."""
    found = ledger.list_promotions(database.connect(home), "taxi")
    return [(one.sequence, one.kind, one.version, one.previous_version) for one in reversed(found)]


def numbers(home: Settings) -> list[int]:
    """Return the numbers of the registered versions, newest first."""
    return [one.version for one in registry.versions(home, "taxi")]


def state(home: Settings) -> Any:
    """Return all that a refusal must leave as it is: promotions, versions, aliases."""
    return history(home), numbers(home), registry.aliases(home, "taxi")


def log_again(home: Settings, folder: Path, work_key: str = "", **evidence: Any) -> registry.Version:
    """Log and register version 1 once more, as if it had been trained again, by way of a copy of its bundle.

    ``evidence`` is what its evidence says otherwise, ``work_key`` names the work that it is another attempt at.
    """
    from mlflow import MlflowClient

    from flows.steps.lineage import Lineage

    spec = load_model("taxi", home)
    first = registry.get_version(home, "taxi", 1)
    shutil.copytree(first.folder, folder / "bundle")
    (folder / "pictures").mkdir()
    client: MlflowClient = registry.open_client(home)
    lineage = Lineage.model_validate(_artifact(client, first.run_id, "lineage.json"))
    run_id, model_id, kept = run_log.log_run(
        home, spec, lineage=lineage, evidence=registry.read_evidence(first) | evidence, bundle=folder / "bundle",
        pictures=folder / "pictures", metrics={}, passed=True, digest=first.digest,
        work_key=work_key,
    )  # fmt: skip
    return registry.register(home, spec, lineage, run_id, model_id, kept, first.digest)


def artifact(home: Settings, run_id: str, name: str) -> Any:
    """Return a JSON artifact of a run."""
    return _artifact(registry.open_client(home), run_id, name)


def _artifact(client: Any, run_id: str, name: str) -> Any:
    import mlflow

    return mlflow.artifacts.load_dict(f"{client.get_run(run_id).info.artifact_uri}/{name}")


def python(
    code: str, timeout: float = 180, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, on the home that is opened."""
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | dict(environment or {}), capture_output=True, text=True,
        timeout=timeout, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
