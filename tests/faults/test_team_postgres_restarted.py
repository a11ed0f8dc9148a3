"""On a team's servers: Postgres is away in the middle of a training, while a service answers on another host."""

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx
import pytest
from serving_parts import eventually
from team_parts import SECRETS, mlflow_server, prefect_server, stores

from flows import database, ledger, run_records
from flows.steps.processes import stop

pytestmark = pytest.mark.long
HELD = "team.held:build"  # an estimator that is built once a file is gone
COMMAND = "from flows.cli import main; main()"
KEY = {"X-API-Key": SECRETS["service"]}
TRIP = {"lpep_pickup_datetime": "2024-01-09T08:30:00", "PULocationID": 74, "DOLocationID": 42, "trip_distance": 2.4}


@pytest.fixture
def team(tmp_path, postgres, s3):
    (tmp_path / "team").mkdir()
    with stores(tmp_path / "team", postgres, s3, "restart") as team, mlflow_server(team), prefect_server(team):
        yield team


@contextmanager
def started(settings, *command):
    """Run a command of a host for as long as the block runs, with what it prints in ``out.log``."""
    settings.home.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, *command], env=os.environ | {"EVERGREEN_SERVICE_API_KEY": SECRETS["service"]},
        stdout=(settings.home / "out.log").open("ab"), stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        stop(process)


@contextmanager
def asked(settings):
    """Ask a host's service without a pause for as long as the block runs; yields status and version of its answers."""
    known, done, answers = settings.home / "service-taxi.json", threading.Event(), []
    eventually(known.exists, 60)
    url = json.loads(known.read_bytes())["url"]
    eventually(lambda: httpx.get(f"{url}/readyz").status_code == 200, 60)

    def ask():
        while not done.is_set():
            answer = httpx.post(f"{url}/predict", json={"rows": [TRIP]}, headers=KEY, timeout=30)
            answers.append((answer.status_code, answer.json().get("version")))
            done.wait(0.05)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield answers
    finally:
        done.set()
        asking.join(60)


def test_the_training_goes_through_nothing_is_lost_and_the_service_answers_on(team, tmp_path, simulated_days):
    from flows.ingest import ingest
    from flows.runs import settle
    from flows.train import train

    with team.host(tmp_path / "one") as one:
        landed = ingest(str(simulated_days), featurize=True)
        assert train()["promoted"]
        settle()
        with team.host(tmp_path / "two") as two:
            service = started(two, "-m", "deployments.service", "--model", "taxi", "--port", "0")
            with service, asked(two) as answers, team.host(one.home):
                (one.home / "hold").touch()
                with started(one, "-c", COMMAND, "train", "--force", "--estimator", HELD) as training:
                    eventually(lambda: list(one.stages("taxi").glob("*/build-training-set.json")), 120)
                    team.postgres.stop()
                    try:
                        before = len(answers)
                        eventually(lambda: len(answers) > before + 10, 60)
                    finally:
                        team.postgres.start()
                    (one.home / "hold").unlink()
                    assert training.wait(300) == 1, "its tree is worse than the champion: it was judged, and refused"
                before = len(answers)
                eventually(lambda: len(answers) > before + 10, 60)
        assert set(answers) == {(200, 1)}
        engine = database.connect(one)
        assert [row.version for row in ledger.list_promotions(engine, "taxi")] == [1]
        assert len(ledger.list_partitions(engine, "taxi", "accepted")) == len(landed)
        runs = [run for run in run_records.newest(engine, "taxi", 100) if run.flow == "train"]
        assert [run.state for run in runs] == ["completed", "completed"]
        assert "champion" in runs[0].summary["failed"]
