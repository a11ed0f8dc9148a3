"""Backtests on a Spark cluster: the same figures as on one machine, each window trained once, whoever is killed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from backtest_parts import SHARED, WANTED, days_home, figures, killing_in_mid_window
from spark_parts import Cluster
from team.counted import built
from team.noted import PLACE, builders
from team_parts import holders_of_secrets, stores
from training_parts import copy_home, featurized, opened, python

from flows.errors import ContractError
from flows.lookup import load_model
from flows.steps import doctor, same_code, spark
from flows.steps.backtest import models
from flows.steps.processes import free_port

pytestmark = pytest.mark.long


class Here(NamedTuple):
    """What the backtest finds in threads of one process, and the home in which it did."""

    home: Path
    found: dict[str, Any]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, simulated_days: Path, prefect_api: str) -> Path:
    return featurized(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)


@pytest.fixture(scope="module")
def here(source: Path, prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Here:
    from flows.backtest import backtest

    folder = tmp_path_factory.mktemp("one")
    with days_home(folder / "home", source, prefect_api, folder / "notes"):
        found = backtest(**WANTED)
    assert builders(folder / "notes") == [os.getpid()] * 4
    return Here(folder / "home", figures(found))


@pytest.fixture(autouse=True)
def notes_go_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the estimators of the workers know where they are noted."""
    monkeypatch.setattr(spark, "PASSED_ON", (*spark.PASSED_ON, PLACE))


def rows_of(home: Path) -> str:
    """Return the digest of the rows that were joined for the newest replay."""
    [record] = (home / "backtests" / "taxi").glob("replay*.json")
    return str(json.loads(record.read_text())["digest"])


def digests(home: Path) -> dict[str, str]:
    """Return the digest of the model of each window, by its folder."""
    records = (home / "backtests" / "taxi" / "models").glob(f"*/{models.RECORD}")
    return {one.parent.name: json.loads(one.read_text())["digest"] for one in records}


def jobs() -> list[int]:
    from pyspark import SparkContext

    return sorted(SparkContext.getOrCreate().statusTracker().getJobIdsForGroup(None))


def test_a_worker_killed_in_mid_window_changes_nothing_and_each_window_is_trained_once(
    tmp_path: Path, source: Path, here: Here, prefect_api: str, spark_cluster: Cluster
) -> None:
    from flows.backtest import backtest

    notes, killed = tmp_path / "notes", []
    with days_home(tmp_path / "home", source, prefect_api, notes, EVERGREEN_COMPUTE_URL=spark_cluster.url) as home:
        with killing_in_mid_window(notes, lambda: killed.extend(spark_cluster.kill()), 240):
            found = backtest(**WANTED)
        spark_cluster.add_worker()
        assert figures(found) == here.found
        assert found["found_before"] == 0
        assert rows_of(home.home) == rows_of(here.home)  # joined by Spark, and by DuckDB
        assert digests(home.home) == digests(here.home)
        by = builders(notes)
        assert os.getpid() not in by
        assert len([one for one in by if one in killed]) == 1  # what it had begun, the other did again
        assert len(by) == found["windows"] + 1 == 5

        again = backtest(**WANTED)
        assert again["found_before"] == 4
        assert figures(again) == here.found
        assert len(builders(notes)) == 5


def test_windows_that_were_trained_here_are_found_there(
    tmp_path: Path, source: Path, here: Here, prefect_api: str, spark_cluster: Cluster
) -> None:
    from flows.backtest import backtest

    notes = tmp_path / "notes"
    with days_home(tmp_path / "home", source, prefect_api, notes, EVERGREEN_COMPUTE_URL=spark_cluster.url) as home:
        shutil.copytree(here.home / "backtests", home.backtests("taxi").parent)
        [worst, *_] = sorted(models.windows(home, "taxi").glob(f"*/{models.JUDGED}"))
        worst.write_bytes(b"half of it")
        found = backtest(**WANTED)
        assert found["found_before"] == 3
        assert figures(found) == here.found
        assert len(builders(notes)) == 1


def test_what_a_workers_training_fails_with_is_told_at_once_and_the_backtest_goes_on_later(
    tmp_path: Path, source: Path, prefect_api: str, spark_cluster: Cluster
) -> None:
    from flows.backtest import backtest

    servers = {"EVERGREEN_COMPUTE_URL": spark_cluster.url}
    with opened(tmp_path / "home", prefect_api, '["team.replayed"]', servers) as home:
        copy_home(source, home)
        (home.home / "fails-after").write_text("0")
        with pytest.raises(ContractError, match=r"^[^\n]*no more today[^\n]*$"):
            backtest(**WANTED)
        tracker = spark.session(home).sparkContext.statusTracker()
        stages = [tracker.getStageInfo(one) for job in jobs() for one in tracker.getJobInfo(job).stageIds]
        assert stages
        assert not any(one.numFailedTasks for one in stages if one)  # a refusal is no loss: it is not tried again
        (home.home / "fails-after").unlink()
        assert backtest(**WANTED)["windows"] == built(home.home) == 4


def test_a_session_is_made_anew_once_when_what_it_passed_on_is_gone(
    tmp_path: Path, spark_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = spark_cluster.settings(tmp_path / "home")
    monkeypatch.setenv(PLACE, "somewhere")
    before = spark.session(settings).sparkContext
    assert spark.session(settings).sparkContext is before
    before_passed = before.getConf().get(f"{spark.ENVIRONMENT}{PLACE}")
    monkeypatch.delenv(PLACE)
    after = spark.session(settings).sparkContext
    assert after is not before
    assert spark.session(settings).sparkContext is after  # or jobs of other threads would be broken off
    assert before_passed == "somewhere"
    assert after.getConf().get(f"{spark.ENVIRONMENT}{PLACE}") is None


def test_workers_of_other_code_are_named_before_any_work(
    tmp_path: Path, source: Path, prefect_api: str, spark_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.backtest import backtest

    notes = tmp_path / "notes"
    with days_home(tmp_path / "home", source, prefect_api, notes, EVERGREEN_COMPUTE_URL=spark_cluster.url) as home:
        spec = load_model("taxi", home)
        [line] = [one for one in doctor.examine(home, spec) if one.part == "Spark"]
        assert line.state == "good", line
        monkeypatch.setattr(same_code, "code_of", lambda *_: "0" * 64)  # of this process: the workers have their own
        with pytest.raises(
            ContractError, match=r"^taxi: \S+ has other code or libraries[^\n]*bring it up to date[^\n]*$"
        ):
            backtest(**WANTED)
        assert not builders(notes)
        assert not home.backtests("taxi").exists()
        [line] = [one for one in doctor.examine(home, spec) if one.part == "Spark"]
        assert line.state == "bad"
        assert "other code or libraries" in line.found


def test_a_backtest_is_refused_before_a_server_is_started_for_it_where_no_master_answers(tmp_path: Path) -> None:
    away = {"EVERGREEN_HOME": str(tmp_path), "EVERGREEN_COMPUTE_URL": f"spark://127.0.0.1:{free_port()}"}
    done = python("import sys; sys.argv[1:] = ['backtest']; from flows.cli import main; main()", environment=away)
    assert done.returncode == 1
    assert done.stderr.startswith("evergreen: no Spark master answers at spark://127.0.0.1")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("prefect.db"))


def test_a_bucket_is_filled_and_read_by_the_process_that_asks(
    tmp_path: Path, here: Here, simulated_days: Path, prefect_api: str, spark_cluster: Cluster, postgres: Any, s3: str
) -> None:
    from flows.backtest import backtest
    from flows.ingest import ingest

    notes = tmp_path / "notes"
    notes.mkdir()
    more = {"EVERGREEN_MODEL_PACKAGES": SHARED, "PREFECT_API_URL": prefect_api, PLACE: str(notes)}
    there = {**more, "EVERGREEN_COMPUTE_URL": spark_cluster.url}
    with stores(tmp_path, postgres, s3, "sparked") as team:
        with team.host(tmp_path / "one", more):
            ingest(str(simulated_days), featurize=True)
        with team.host(tmp_path / "two", there):
            found = backtest(**WANTED)
            assert figures(found) == here.found
            assert len(builders(notes)) == found["windows"] == 4
            assert os.getpid() not in builders(notes)
            assert not holders_of_secrets(spark_cluster.folder)
        for home, environment in (("three", more), ("four", there)):
            with team.host(tmp_path / home, environment):
                again = backtest(**WANTED)
                assert again["found_before"] == 4
                assert figures(again) == here.found
        assert len(builders(notes)) == 4
