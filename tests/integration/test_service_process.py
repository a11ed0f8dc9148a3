"""The prediction service as a process of its own, on a real feature store: start, features, signals, its record."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pyarrow as pa
import pytest
from serving_parts import FEATURES, ROW, eventually, home, make_bundle, promote

from flows import database, ledger
from flows.models.taxi.spec import spec
from flows.steps import feature_store
from flows.steps.bundle import frame_of, load_bundle
from flows.steps.files import write_parquet
from flows.steps.prediction_log import read_predictions

ROOT = Path(__file__).resolve().parents[2]
TICK = datetime(2022, 1, 25, 5, tzinfo=UTC)  # midnight in New York
FEATURE_COLUMNS = (
    "trips_28d", "minutes_mean_28d", "minutes_median_28d", "minutes_q90_28d", "mph_mean_28d", "mph_median_28d",
    "minutes_mean_7d", "mph_mean_7d",
)  # fmt: skip


def write_features(settings, view, prefix, **keys):
    """Write the feature table of a view: one key, known since TICK."""
    times = {name: pa.array([TICK], pa.timestamp("us", "UTC")) for name in ("event_timestamp", "created_timestamp")}
    values = {f"{prefix}_{name}": [9 if name == "trips_28d" else 9.0] for name in FEATURE_COLUMNS}
    keyed = {name: [key] for name, key in keys.items()}
    write_parquet(pa.table(keyed | times | values), settings.features("taxi") / view / "0.parquet")


def launch(settings, *arguments):
    """Start the service's process on a home; ``arguments`` are added to its command."""
    command = [sys.executable, "-m", "deployments.service", "--home", str(settings.home), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def record(settings, process):
    """Wait for the record of a process and return it."""
    path = settings.home / "service-taxi.json"

    def mine():
        assert process.poll() is None, process.stderr.read()
        found = json.loads(path.read_text()) if path.exists() else {}
        return found if found.get("pid") == process.pid else None

    return eventually(mine, 60)


def ready(url):
    """Wait until a service is ready."""
    eventually(lambda: httpx.get(f"{url}/readyz").status_code == 200, 120)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A home with features of zones 74 and 42, and a promoted version."""
    settings = home(tmp_path_factory.mktemp("home"), follow_seconds=0.1)
    write_features(settings, "pickup_zone", "pickup", PULocationID=74)
    write_features(settings, "dropoff_zone", "dropoff", DOLocationID=42)
    write_features(settings, "route", "route", PULocationID=1, DOLocationID=1)
    feature_store.apply_definitions(settings, spec)
    feature_store.materialize(settings, spec, TICK - timedelta(days=1), TICK + timedelta(seconds=1))
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
from flows.spec import load_model
home = settings.load({str(settings.home)!r})
spec = load_model("taxi", home)
OnlineFeatures(home, spec)(["hour"], RequestParser(spec).example())
BundleCache(home, "taxi").fetch(ledger.champion(database.connect(home), "taxi"))
"""
    )
    assert {"feast", "sklearn"} <= loaded
    assert not loaded & {"prefect", "great_expectations", "mlflow", "matplotlib"}
