"""Fixtures of all tests: homes that are thrown away, one Prefect server, the public taxi month."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.settings import Settings

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def restored_environment() -> Iterator[None]:
    """Put the environment back as it was: opening a home changes it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def home(tmp_path: Path, restored_environment: None) -> Settings:
    """Return the settings of a new home, opened for this process."""
    return Settings(home=tmp_path / "home").activate()


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run one Prefect server for the tests of this session, in a home of its own."""
    from flows.steps.prefect_server import start
    from flows.steps.processes import free_port, stop

    process, api_url = start(Settings(home=tmp_path_factory.mktemp("prefect")), free_port())
    try:
        from prefect.settings import PREFECT_API_URL, temporary_settings

        from flows.runs import settle

        # Prefect reads the environment once, on import: another test may have imported it before.
        with temporary_settings({PREFECT_API_URL: api_url}):
            yield api_url
            settle()
    finally:
        stop(process)


@pytest.fixture
def flow_home(home: Settings, prefect_api: str) -> Settings:
    """Return a new home in which flows can run, on the session's server."""
    os.environ["PREFECT_API_URL"] = prefect_api
    return home


@pytest.fixture
def trained_home(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, simulated_days: Path, prefect_api: str
) -> Iterator[Settings]:
    """Return a home in which version 1 was trained and promoted, opened: a copy that a test may change."""
    from training_parts import copy_home, opened, trained

    source = trained(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)
    with opened(tmp_path / "home", prefect_api) as settings:
        copy_home(source, settings)
        yield settings


@pytest.fixture(scope="session")
def taxi_month() -> Path:
    """Return the public file of January 2022, or skip where it is not."""
    path = DATA / "green_tripdata_2022-01.parquet"
    if not path.exists():
        if os.environ.get("EVERGREEN_REQUIRE_DATA") == "1":
            pytest.fail(f"{path} is missing and EVERGREEN_REQUIRE_DATA=1")
        pytest.skip(f"{path} is not here; the project does not ship it")
    return path


@pytest.fixture(scope="session")
def simulated_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with eight simulated days of 2,000 trips, one file a day."""
    from flows.models.taxi.simulator import simulate_day

    folder = tmp_path_factory.mktemp("days")
    for number in range(8):
        day = date(2024, 1, 1) + timedelta(days=number)
        simulate_day(day, trips=2000).to_parquet(folder / f"{day}.parquet")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """Run one private Postgres for the tests of this session."""
    import tempfile

    from services_parts import postgres_server

    # Not in pytest's folder: that is closed to the user that Postgres runs as.
    with tempfile.TemporaryDirectory(prefix="evergreen-pg-") as folder:
        Path(folder).chmod(0o755)
        with postgres_server(Path(folder)) as server:
            yield server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run one S3 server for the tests of this session."""
    from services_parts import s3_server

    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture(scope="session")
def spark_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Run one Spark cluster of two workers for the tests of this session."""
    from spark_parts import cluster

    with cluster(tmp_path_factory.mktemp("spark")) as found:
        yield found


@pytest.fixture
def dask_cluster(tmp_path: Path) -> Iterator[Any]:
    """Run a Dask scheduler for one test; its workers are the test's own affair."""
    from dask_parts import cluster

    folder = tmp_path / "dask"
    folder.mkdir()
    with cluster(folder) as found:
        yield found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """End a run of the whole folder of faults with their table."""
    import faults_table

    asked = [Path(str(one).partition("::")[0]).resolve() for one in config.args]
    if not config.option.collectonly and any(faults_table.FOLDER.is_relative_to(path) for path in asked):
        faults_table.write(terminalreporter)
