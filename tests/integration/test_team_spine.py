"""The whole way on a team's installation: two hosts that share nothing but its servers, all of them real."""

import json
import os
import subprocess
import sys
from datetime import date, timedelta

import httpx
import pytest
from serving_parts import eventually
from team_parts import SECRETS, holders_of_secrets, mlflow_server, objects, prefect_server, stores

from flows import database, ledger
from flows.lookup import load_model
from flows.models.taxi.simulator import simulate_day
from flows.steps import reproduction, version_record
from flows.steps.processes import stop

pytestmark = pytest.mark.long
KEY = {"X-API-Key": SECRETS["service"]}


@pytest.fixture(scope="module")
def team(tmp_path_factory, postgres, s3):
    folder = tmp_path_factory.mktemp("team")
    with stores(folder, postgres, s3, "spine") as team, mlflow_server(team), prefect_server(team):
        yield team


def service(settings):
    return subprocess.Popen(
        [sys.executable, "-m", "deployments.service", "--model", "taxi", "--port", "0"],
        env=os.environ | {"EVERGREEN_SERVICE_API_KEY": SECRETS["service"]},
        stdout=(settings.home / "service.log").open("ab"), stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


def ready(settings):
    known = settings.home / "service-taxi.json"
    eventually(
        lambda: known.exists() and httpx.get(f"{json.loads(known.read_bytes())['url']}/readyz").status_code == 200, 60
    )
    return json.loads(known.read_bytes())["url"]


def rows(day):
    trips = simulate_day(day, trips=200)
    fields = ["lpep_pickup_datetime", "PULocationID", "DOLocationID", "trip_distance"]
    same_day = trips[trips.lpep_pickup_datetime.dt.date == day][fields].drop_duplicates()
    return json.loads(same_day.to_json(orient="records", date_format="iso", date_unit="us"))


def test_mlflow_and_prefect_refuse_whoever_shows_no_password(team):
    mlflow, prefect = (team.environment[name] for name in ("EVERGREEN_MLFLOW_TRACKING_URI", "PREFECT_API_URL"))
    assert httpx.get(f"{mlflow}/api/2.0/mlflow/experiments/get", params={"experiment_id": "0"}).status_code == 401
    assert httpx.post(f"{prefect}/flow_runs/filter", json={}).status_code == 401


def test_ingest_featurize_train_promote_serve_monitor_roll_back(team, tmp_path, simulated_days):
    from flows.ingest import ingest
    from flows.monitor import monitor
    from flows.promote import rollback
    from flows.runs import settle
    from flows.train import train

    ninth = date(2024, 1, 1) + timedelta(days=8)
    with team.host(tmp_path / "one") as one:
        landed = ingest(str(simulated_days), featurize=True)
        assert {partition["status"] for partition in landed} == {"accepted"}
        assert train()["promoted"]
        engine = database.connect(one)
        first = ledger.champion(engine, "taxi")
        assert first.model_uri.startswith("s3://evergreen/spine/artifacts/")
        assert all(p.uri.startswith("s3://evergreen/spine/lake/") for p in ledger.list_partitions(engine, "taxi"))

    with team.host(tmp_path / "two") as two:
        process = service(two)
        try:
            url = ready(two)
            assert httpx.post(f"{url}/predict", json={"rows": rows(ninth)[:1]}).status_code == 401
            answer = httpx.post(f"{url}/predict", json={"rows": rows(ninth)}, headers=KEY, timeout=30)
            assert answer.status_code == 200, answer.text
            told = answer.json()
            assert told["version"] == 1
            assert any(not one["unknown"] for one in told["predictions"])
        finally:
            stop(process)

    source = tmp_path / "ninth"
    source.mkdir()
    simulate_day(ninth, trips=200).to_parquet(source / "ninth.parquet")
    with team.host(tmp_path / "one") as one:
        ingest(str(source), featurize=True)
        watched = monitor(retrain=False)
        assert watched["performance"]["labelled"] > 100, watched
    with team.host(tmp_path / "two") as two:  # trains on what it has never seen
        again = train(reason="from the other host", force=True)
        engine = database.connect(two)
        assert again["promoted"], again
        assert ledger.champion(engine, "taxi").previous_version == 1
        rollback(why="test")
        assert ledger.champion(engine, "taxi").digest == first.digest
        spec = load_model("taxi", two)
        record = version_record.read(two, "taxi", 2)
        found = reproduction.remake(two, record, reproduction.examine(two, spec, engine, record))
        assert (found.same, [cause.what for cause in found.causes]) == (True, []), found
        settle()

    assert holders_of_secrets(tmp_path, team.folder) == []
    leaked = [
        (key, name) for key, body in objects(team).items() for name, word in SECRETS.items() if word.encode() in body
    ]
    assert leaked == []
