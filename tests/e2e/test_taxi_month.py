"""The README's second example, word for word, on the public month: the figure that the README states."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_demo import EVERGREEN, environment, run

from flows.settings import Settings
from flows.steps.prefect_server import prefect_server

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A home with a Prefect server of its own, which all commands find."""
    folder = tmp_path_factory.mktemp("month") / "home"
    with prefect_server(Settings(home=folder)):
        yield str(folder)


@pytest.fixture(scope="module")
def trained(taxi_month: Path, home: str) -> dict[str, Any]:
    """Ingest by day, featurize, train up to 24 January, judge on 25 to 31 January."""
    outcomes = {}
    for name, arguments in {
        "ingest": ["ingest", str(taxi_month), "--partition-by", "day"],
        "featurize": ["featurize"],
        "train": ["train", "--judge-days", "7"],
    }.items():
        done = run(*arguments, "--home", home, "--json", timeout=300)
        assert done.returncode == 0, done.stderr
        outcomes[name] = json.loads(done.stdout)
    return {**outcomes, "home": home}


def test_every_day_is_accepted_and_the_dirt_is_quarantined(trained: dict[str, Any]) -> None:
    assert [one["key"] for one in trained["ingest"]] == [f"2022-01-{day:02d}" for day in range(1, 32)]
    assert {one["status"] for one in trained["ingest"]} == {"accepted"}
    import duckdb

    lake = Path(trained["home"]) / "lake" / "taxi"
    listed = json.loads(run("partitions", "--json", "--home", trained["home"]).stdout)
    accepted, rejected = (
        [one[f"{kind}_uri"] for one in listed if one[f"{kind}_uri"]] for kind in ("accepted", "rejected")
    )
    assert all(Path(uri).is_relative_to(lake) for uri in accepted + rejected)
    kept = duckdb.sql(
        "SELECT count(*) FILTER (year(lpep_pickup_datetime) <> 2022 OR minutes > 180 OR minutes <= 0) "
        f"FROM read_parquet({accepted})"
    ).fetchall()
    assert kept == [(0,)]
    thrown = duckdb.sql(
        "SELECT count(*) FILTER (year(lpep_pickup_datetime) = 2009), "
        "count(*) FILTER (lpep_dropoff_datetime - lpep_pickup_datetime > INTERVAL 23 HOUR), count(*) "
        f"FROM read_parquet({rejected}, union_by_name = true)"
    ).fetchall()[0]
    assert thrown[0] > 0
    assert thrown[1] > 0
    assert (
        thrown[2] + sum(one["accepted_rows"] for one in trained["ingest"])
        == sum(one["rows"] for one in trained["ingest"])
        == 62495
    )


def test_the_champion_reaches_the_figure_of_the_readme(trained: dict[str, Any]) -> None:
    found = trained["train"]
    print(
        f"RMSE {found['error']:.4f} on {found['judge_rows']} trips, trained on {found['train_rows']}; "
        f"mean {found['baseline_error']:.2f}"
    )
    assert found["promoted"]
    assert found["error"] <= 5.57
    stated = re.search(r"RMSE of\s+\*\*([\d.]+) minutes\*\*", README.read_text())
    assert stated
    assert float(stated[1]) == pytest.approx(found["error"], abs=0.01)


def test_a_prediction_is_answered_over_http(trained: dict[str, Any]) -> None:
    home = Path(trained["home"])
    service = subprocess.Popen(
        [str(EVERGREEN), "serve", "--port", "0", "--home", str(home)], env=environment(), stderr=subprocess.PIPE
    )
    try:
        record = home / "service-taxi.json"
        deadline = time.monotonic() + 60
        while not record.exists() and time.monotonic() < deadline and service.poll() is None:
            time.sleep(0.1)
        url = json.loads(record.read_text())["url"]
        while httpx.get(f"{url}/readyz").status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        command = README.read_text().split("curl -s localhost:8300/predict")[1]
        body = re.search(r"-d '(\{.*?\})'", command, re.DOTALL)
        assert body
        answer = httpx.post(f"{url}/predict", content=body[1], headers={"content-type": "application/json"}, timeout=30)
        assert answer.status_code == 200
        print(answer.json())
        assert answer.json()["version"] == 1
        assert 1 < answer.json()["predictions"][0]["prediction"] < 60
        assert answer.json()["predictions"][0]["unknown"] in ([], ["route"])
    finally:
        service.send_signal(signal.SIGINT)
        _, errors = service.communicate(timeout=20)
    told = [json.loads(line) for line in errors.splitlines()]
    assert {line["level"] for line in told} <= {"info"}, told


def test_a_file_is_scored_with_the_champion(trained: dict[str, Any], taxi_month: Path, tmp_path: Path) -> None:
    import duckdb

    refused = run("score", str(taxi_month), str(tmp_path / "out.parquet"), "--home", trained["home"], timeout=300)
    assert refused.returncode == 2
    assert "trip_distance" in refused.stderr  # the month has distances that no request may have
    assert not (tmp_path / "out.parquet").exists()

    source, target = tmp_path / "requests.parquet", tmp_path / "scored.parquet"
    duckdb.sql(f"COPY (FROM '{taxi_month}' WHERE trip_distance BETWEEN 0 AND 100) TO '{source}'")
    done = run("score", str(source), str(target), "--home", trained["home"], timeout=300)
    assert done.returncode == 0, done.stderr
    rows, missing, error = duckdb.sql(
        "SELECT count(*), count(*) FILTER (prediction IS NULL), "
        "sqrt(avg((prediction - m) ** 2) FILTER (m BETWEEN 1 AND 60 AND lpep_pickup_datetime >= '2022-01-25')) FROM "
        f"(SELECT *, epoch(lpep_dropoff_datetime - lpep_pickup_datetime) / 60 AS m FROM '{target}')"
    ).fetchall()[0]
    assert rows == duckdb.sql(f"SELECT count(*) FROM '{source}'").fetchall()[0][0] > 62000
    assert missing == 0
    assert error == pytest.approx(trained["train"]["error"], rel=0.02)
