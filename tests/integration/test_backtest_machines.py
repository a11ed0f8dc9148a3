"""Backtests on a Dask cluster: the same figures as on one machine, each window trained once, whoever is killed."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from backtest_parts import SHARED, WANTED, days_home, figures, killing_in_mid_window
from dask_parts import Cluster
from serving_parts import eventually
from team.noted import PLACE, builders
from team_parts import holders_of_secrets, objects, stores
from training_parts import featurized

from flows.errors import UnavailableError
from flows.lookup import load_model
from flows.steps import doctor, machines
from flows.steps.processes import free_port
from flows.steps.same_code import code_of


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, simulated_days: Path, prefect_api: str) -> Path:
    return featurized(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)


@pytest.fixture(scope="module")
def on_one_machine(source: Path, prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the backtest finds in threads of one process."""
    from flows.backtest import backtest

    folder = tmp_path_factory.mktemp("one")
    with days_home(folder / "home", source, prefect_api, folder / "notes"):
        found = backtest(**WANTED)
    assert len(builders(folder / "notes")) == found["windows"] == 4
    return figures(found)


@pytest.mark.long
def test_a_worker_killed_in_mid_window_changes_nothing_and_each_window_is_trained_once(
    tmp_path: Path, source: Path, on_one_machine: dict[str, Any], prefect_api: str, dask_cluster: Cluster
) -> None:
    from flows.backtest import backtest

    notes = tmp_path / "notes"
    with days_home(tmp_path / "home", source, prefect_api, notes, EVERGREEN_DASK_URL=dask_cluster.url) as home:
        workers = [dask_cluster.add_worker() for _ in range(2)]

        def kill_one() -> None:
            workers[0].kill()
            workers[0].wait()

        with killing_in_mid_window(notes, kill_one, 120):
            found = backtest(**WANTED)
        assert figures(found) == on_one_machine
        assert found["found_before"] == 0
        by = builders(notes)
        assert os.getpid() not in by
        assert by.count(workers[0].pid) == 1  # what it had begun, the other did again
        assert by.count(workers[1].pid) == found["windows"] == 4

        again = backtest(**WANTED)
        assert again["found_before"] == 4
        assert figures(again) == on_one_machine
        assert len(builders(notes)) == 5
        assert not [one for one in home.home.iterdir() if one.name.startswith(".machines-")]


@pytest.mark.long
def test_a_backtest_without_workers_or_scheduler_ends_with_one_line_and_goes_on_later(
    tmp_path: Path, source: Path, on_one_machine: dict[str, Any], prefect_api: str, dask_cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from flows.backtest import backtest

    monkeypatch.setattr(machines, "WORKERS_SECONDS", 4.0)
    notes = tmp_path / "notes"
    with days_home(tmp_path / "home", source, prefect_api, notes, EVERGREEN_DASK_URL=dask_cluster.url):
        with pytest.raises(UnavailableError, match=r"^no worker of tcp://[^\n]*start `dask worker[^\n]*$"):
            backtest(**WANTED)
        (notes / "hold").touch()

        def once_begun(then: Any) -> threading.Thread:
            before = len(builders(notes))

            def wait() -> None:
                eventually(lambda: len(builders(notes)) > before, 120)
                then()

            thread = threading.Thread(target=wait)
            thread.start()
            return thread

        only = dask_cluster.add_worker()
        ending = once_begun(only.kill)
        with pytest.raises(UnavailableError, match=r"^[^\n]*has no worker any more[^\n]*run again[^\n]*$"):
            backtest(**WANTED)
        ending.join()
        dask_cluster.add_worker()
        assert dask_cluster.scheduler is not None
        ending = once_begun(dask_cluster.scheduler.kill)
        with pytest.raises(UnavailableError, match=r"^[^\n]*does not answer[^\n]*run again[^\n]*$"):
            backtest(**WANTED)
        ending.join()
        (notes / "hold").unlink()
        os.environ.pop("EVERGREEN_DASK_URL")
        assert figures(backtest(**WANTED)) == on_one_machine


@pytest.mark.long
def test_a_worker_that_shares_nothing_or_has_other_code_is_named_before_any_work(
    tmp_path: Path, source: Path, prefect_api: str, dask_cluster: Cluster
) -> None:
    from flows.backtest import backtest

    notes = tmp_path / "notes"
    with days_home(tmp_path / "home", source, prefect_api, notes, EVERGREEN_DASK_URL=dask_cluster.url) as home:
        spec = load_model("taxi", home)
        stranger = dask_cluster.add_worker({"EVERGREEN_HOME": str(tmp_path / "elsewhere")})
        with pytest.raises(UnavailableError, match=r"^the worker tcp://[^\n]*does not see[^\n]*share the home[^\n]*$"):
            backtest(**WANTED)
        assert not builders(notes)
        [line] = [one for one in doctor.examine(home, spec) if one.part == "Dask"]
        assert line.state == "bad"
        stranger.kill()
        stranger.wait()
        eventually(lambda: "Remove worker" in (dask_cluster.folder / "scheduler.log").read_text(), 60)
        dask_cluster.add_worker()
        assert "1 workers with 1 threads" in machines.look(home, "taxi", code_of(spec))
        [line] = [one for one in doctor.examine(home, spec) if one.part == "Dask"]
        assert line.state == "good"
        with pytest.raises(UnavailableError, match="has other code or libraries; bring it up to date"):
            machines.look(home, "taxi", "0" * 64)
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{free_port()}/api"
        with pytest.raises(UnavailableError, match=r"does not reach the Prefect server .* name it in PREFECT_API_URL"):
            machines.look(home, "taxi", code_of(spec))


@pytest.mark.long
def test_machines_that_share_only_bucket_and_postgres_find_the_same_and_each_others_windows(
    tmp_path: Path, on_one_machine: dict[str, Any], simulated_days: Path, prefect_api: str, dask_cluster: Cluster,
    postgres: Any, s3: str,
) -> None:  # fmt: skip
    from flows.backtest import backtest
    from flows.ingest import ingest

    notes = tmp_path / "notes"
    notes.mkdir()
    more = {
        "EVERGREEN_MODEL_PACKAGES": SHARED, "EVERGREEN_DASK_URL": dask_cluster.url, "PREFECT_API_URL": prefect_api,
        PLACE: str(notes),
    }  # fmt: skip
    with stores(tmp_path, postgres, s3, "machines") as team:
        with team.host(tmp_path / "one", more) as one:
            ingest(str(simulated_days), featurize=True)
            worker = dask_cluster.add_worker({"EVERGREEN_HOME": str(tmp_path / "two")})
            found = backtest(**WANTED)
            assert figures(found) == on_one_machine
            assert builders(notes) == [worker.pid] * found["windows"]
            assert not holders_of_secrets(dask_cluster.folder)
            assert not [name for name in objects(team) if ".machines-" in name]
            assert one.dask_url
        with team.host(tmp_path / "three", {**more, "EVERGREEN_DASK_URL": ""}):
            again = backtest(**WANTED)
            assert figures(again) == on_one_machine
            assert again["found_before"] == again["windows"]
            assert len(builders(notes)) == found["windows"]
        lonely = {**more, "EVERGREEN_STORAGE_URL": "s3://evergreen/elsewhere", "EVERGREEN_HOME": str(tmp_path / "four")}
        with team.host(tmp_path / "one", more):
            dask_cluster.add_worker(lonely)
            with pytest.raises(UnavailableError, match=r"does not see s3://evergreen/machines/\.machines-"):
                backtest(**WANTED)
