"""On a team's servers: Postgres is restarted in the middle of a training, while a service answers on another host."""

import json
import os
import subprocess
import sys
import threading

import httpx
import pytest
from serving_parts import eventually
from team_parts import SECRETS, mlflow_server, prefect_server, stores

from flows import database, ledger
from flows.steps import registry
from flows.steps.processes import stop

pytestmark = pytest.mark.long
KEY = {"X-API-Key": SECRETS["service"]}
TRIP = {"lpep_pickup_datetime": "2024-01-09T08:30:00", "PULocationID": 74, "DOLocationID": 42, "trip_distance": 2.4}


@pytest.fixture
def team(tmp_path, postgres, s3):
    (tmp_path / "team").mkdir()
    with stores(tmp_path / "team", postgres, s3, "restart") as team, mlflow_server(team), prefect_server(team):
        yield team


def started(settings, *command):
    """Start a command of a host, with what it prints in ``out.log``."""
    return subprocess.Popen(
        [sys.executable, *command], env=os.environ | {"EVERGREEN_SERVICE_API_KEY": SECRETS["service"]},
        stdout=(settings.home / "out.log").open("ab"), stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


def test_the_training_ends_or_is_gone_on_with_nothing_is_lost_and_the_service_answers_on(
    team, tmp_path, simulated_days
):
    from flows.ingest import ingest
    from flows.runs import settle
    from flows.train import train

    with team.host(tmp_path / "one") as one:
        landed = ingest(str(simulated_days), featurize=True)
        assert train()["promoted"]
        settle()
    with team.host(tmp_path / "two") as two:
        two.home.mkdir(exist_ok=True)
        service = started(two, "-m", "deployments.service", "--model", "taxi", "--port", "0")
    done, answers = threading.Event(), []

    def ask(url):
        while not done.is_set():
            answer = httpx.post(f"{url}/predict", json={"rows": [TRIP]}, headers=KEY, timeout=30)
            answers.append((answer.status_code, answer.json().get("version")))
            done.wait(0.05)

    known = two.home / "service-taxi.json"
    try:
        eventually(known.exists, 60)
        url = json.loads(known.read_bytes())["url"]
        eventually(lambda: httpx.get(f"{url}/readyz").status_code == 200, 60)
        asking = threading.Thread(target=ask, args=(url,))
        asking.start()
        with team.host(tmp_path / "one") as one:
            (one.home / "hold").touch()
            training = started(
                one, "-c", "from flows.cli import main; main()", "train", "--force", "--estimator", "team.held:build"
            )
            eventually(lambda: list(one.stages("taxi").glob("*/build-training-set.json")), 120)
            team.postgres.stop()
            before = len(answers)
            eventually(lambda: len(answers) > before + 10)
            team.postgres.start()
            (one.home / "hold").unlink()
            ended = training.wait(300)
            log = (one.home / "out.log").read_text()
            print(f"the training that was under way ended with {ended}: {log[-300:]}")
            if ended:
                train(force=True, estimator="team.held:build")
            settle()
            engine = database.connect(one)
            history = ledger.list_promotions(engine, "taxi")[::-1]
            assert [row.sequence for row in history] == list(range(1, len(history) + 1))
            assert [row.previous_version for row in history] == [None, *(row.version for row in history[:-1])]
            assert {one.id for one in ledger.list_partitions(engine, "taxi", "accepted")} == {p["id"] for p in landed}
            assert registry.versions(one, "taxi")[0].version >= history[-1].version
        eventually(lambda: answers[-1][1] == history[-1].version, 60)
    finally:
        done.set()
        stop(service)
    asking.join(60)
    assert {status for status, _ in answers} == {200}
