"""The prediction service as a process of its own, on a real feature store: start, features, signals, its record."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from online_parts import ROOT, launch, make_online_store, ready, record
from serving_parts import FEATURES, ROW, eventually, home, make_bundle, promote

from flows import database, ledger
from flows.models.taxi.spec import spec
from flows.steps.bundle import frame_of, load_bundle
from flows.steps.prediction_log import read_predictions


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A home with features of zones 74 and 42, and a promoted version; its address is not its path."""
    settings = home(tmp_path_factory.mktemp("a home #1"), follow_seconds=0.1)
    make_online_store(settings)
    promote(database.connect(settings), settings.home / "one", make_bundle(settings.home / "one"), 1)
    return settings


@pytest.fixture(scope="module")
def service(settings):
    """A running service: process and URL."""
    process = launch(settings, "--port", "0")
    try:
        url = record(settings, process)["url"]
        ready(url)
        yield process, url
    finally:
        process.kill()
        process.communicate()


def test_answers_come_from_the_online_store_by_the_same_definitions(settings, service):
    rows = [ROW, ROW | {"PULocationID": 9999}, ROW | {"lpep_pickup_datetime": "2022-02-25T08:30:00"}]
    answer = httpx.post(f"{service[1]}/predict", json={"rows": rows}).json()
    champion = ledger.champion(database.connect(settings), "taxi")
    bundle = load_bundle(Path(champion.model_uri), champion.digest)
    known = frame_of(bundle.manifest, [[8.5, 8.5, 8.5], [2.4, 2.4, 2.4], [9.0, None, None]])
    assert bundle.manifest.feature_names == tuple(FEATURES)
    assert [found["prediction"] for found in answer["predictions"]] == bundle.scores(known).tolist()
    # The third row asks a month later: what is known of its zones has expired.
    assert [found["unknown"] for found in answer["predictions"]] == [
        ["route"], ["pickup_zone", "route"], ["pickup_zone", "dropoff_zone", "route"],
    ]  # fmt: skip


def test_a_promotion_and_a_rollback_are_followed_without_a_restart(settings, service):
    engine = database.connect(settings)
    one = ledger.champion(engine, "taxi")
    two = settings.home / "two"
    promote(engine, two, make_bundle(two, rows=700), 2)
    eventually(lambda: httpx.post(f"{service[1]}/predict", json=ROW).json()["version"] == 2)
    promote(engine, Path(one.model_uri), one.digest, 1, "rollback")
    eventually(lambda: httpx.post(f"{service[1]}/predict", json=ROW).json()["version"] == 1)
    assert httpx.get(f"{service[1]}/model").json()["kind"] == "rollback"
    assert service[0].poll() is None


def test_a_taken_port_is_one_clear_line_and_leaves_the_other_service_alone(settings, service):
    port = service[1].rsplit(":", 1)[1]
    other = launch(settings, "--port", port)
    output, errors = other.communicate(timeout=60)
    assert other.returncode == 1
    assert output == ""
    assert errors == f"cannot listen on 127.0.0.1:{port} (Address already in use); choose another with --port\n"
    assert json.loads((settings.home / "service-taxi.json").read_text())["pid"] == service[0].pid


def test_only_the_own_machine_can_reach_it(service):
    port = int(service[1].rsplit(":", 1)[1])
    with socket.socket() as same_port:
        same_port.bind(("127.0.0.2", port))  # would be taken if it listened on all addresses


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["--model", "../taxi"], 2, "model name '../taxi' is not allowed"),
        (["--model", "nothing"], 2, "no model 'nothing'"),
        (["--port", "70000"], 2, "invalid"),
        (["--host", "256.1.1.1", "--port", "0"], 1, "cannot listen on 256.1.1.1:0"),
    ],
)
def test_a_wrong_call_is_told_without_a_traceback(arguments, status, line, settings):
    process = launch(settings, *arguments)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert line in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order_also_with_a_connection_open(number, settings, tmp_path):
    own = home(tmp_path)
    process = launch(own, "--port", "0")
    url = record(own, process)["url"]
    with httpx.Client(base_url=url) as client:
        assert client.get("/healthz").json() == {"status": "up"}
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert not (own.home / "service-taxi.json").exists()


def test_every_answer_before_a_kill_is_in_the_log(settings):
    process = launch(settings, "--port", "0")
    url = record(settings, process)["url"]
    ready(url)
    answered = []
    with httpx.Client(base_url=url) as client:
        stop = time.monotonic() + 1.0
        while time.monotonic() < stop:
            answered.append(client.post("/predict", json=ROW).json()["request_id"])
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert answered
    assert set(answered) <= set(read_predictions(settings, spec)["request_id"].to_pylist())


def modules(code):
    """Run code in a fresh process and return the packages that it loaded."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_it_is_put_together_before_anything_heavy_is_loaded():
    loaded = modules("import deployments.service.build")
    assert "fastapi" in loaded
    assert not loaded & {"prefect", "great_expectations", "mlflow", "feast", "sklearn", "pandas", "matplotlib"}


def test_reading_features_and_models_loads_nothing_that_only_training_needs(settings):
    loaded = modules(
        f"""
from pathlib import Path
from deployments.service.cache import BundleCache
from deployments.service.features import OnlineFeatures
from deployments.service.request import RequestParser
from flows import database, ledger, settings
from flows.lookup import load_model
home = settings.load({str(settings.home)!r})
spec = load_model("taxi", home)
OnlineFeatures(home, spec)(["hour"], RequestParser(spec).example())
BundleCache(home, "taxi").fetch(ledger.champion(database.connect(home), "taxi"))
"""
    )
    assert {"numpy", "sqlite3"} <= loaded
    assert not loaded & {"feast", "prefect", "great_expectations", "mlflow", "matplotlib"}
