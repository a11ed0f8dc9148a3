"""Training-serving skew, end to end: a service's own answers, its log, the feature store; what differs is named."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import get_client
from serving_parts import eventually

from deployments.service.features import OnlineFeatures
from deployments.service.predictor import Predictor, Snapshot
from flows import database, ledger
from flows.lookup import load_model
from flows.steps import feature_store, feature_tables, registry
from flows.steps.bundle import load_bundle
from flows.steps.docs import write_index
from flows.steps.prediction_log import PredictionLog
from flows.steps.processes import free_port

NEWEST = datetime(2024, 1, 9)  # the newest tick, local: the midnight after the eighth simulated day
FEATURE = "pickup_minutes_mean_28d"


@pytest.fixture
def home(trained_home):
    return trained_home


def ask(settings, change=None, number=40, first=NEWEST):
    """Answer requests with the champion as the service does; ``change`` spoils the features on their way."""
    spec = load_model("taxi", settings)
    champion = ledger.champion(database.connect(settings), "taxi")
    online = OnlineFeatures(settings, spec)

    def read(names, rows):
        found = online(names, rows)
        return change(found) if change else found

    log = PredictionLog(settings, spec)
    predictor = Predictor(spec, read, log)
    predictor.swap(Snapshot(champion, load_bundle(Path(champion.model_uri), champion.digest)))
    for n in range(number):
        row = {
            "lpep_pickup_datetime": first + timedelta(minutes=10 * n), "PULocationID": 74 + n % 3,
            "DOLocationID": 75, "trip_distance": 1.0 + n / 8,
        }  # fmt: skip
        predictor.predict([row], f"request-{n}")
    log.close()


def spoil(found):
    """Serve one feature a little off."""
    columns = {**found.columns, FEATURE: [None if one is None else one + 0.25 for one in found.columns[FEATURE]]}
    return feature_store.OnlineRows(columns=columns, unknown=found.unknown)


def watch():
    from flows.monitor import monitor

    return monitor(retrain=True)


def test_what_was_served_is_what_training_would_see(home):
    ask(home)
    found = watch()
    assert (found["skew"]["rows"], found["skew"]["differences"], found["skew"]["warning"]) == (40, [], "")
    assert len(found["skew"]["features"]) == 28
    assert "Served features against training" in Path(found["report"]).read_text()


def test_a_value_that_is_not_what_training_sees_is_named_told_and_retrains_nothing(home):
    ask(home, spoil)
    found = watch()
    named = found["skew"]["differences"]
    assert {(one["feature"], one["kind"], one["view"]) for one in named} == {(FEATURE, "skew", "pickup_zone")}
    assert {one["request_id"] for one in named} == {f"request-{n}" for n in range(40)}
    assert all(one["served"] == one["recomputed"] + 0.25 for one in named)
    assert "40 of 40 sampled rows" in found["skew"]["warning"]
    assert (found["retrain"], found["reasons"], found["training"]) == (False, [], None)
    json.dumps(found, allow_nan=False)
    page = Path(found["report"]).read_text()
    assert all(f"<td>request-{n}</td>" in page for n in range(40))
    eventually(lambda: FEATURE in json.dumps(told()), 60)


def test_views_past_their_ttl_are_stale_in_the_report_and_missing_on_both_sides(home):
    ask(home, first=NEWEST + timedelta(days=8))
    found = watch()
    assert found["stale_views"] == {"dropoff_zone": 1.0, "pickup_zone": 1.0, "route": 1.0}
    assert found["skew"]["differences"] == []
    assert "<li>route: 100.0%</li>" in Path(found["report"]).read_text()


def told():
    """Return the payloads of the warnings that the server has."""
    with get_client(sync_client=True) as client:
        body = {"filter": {"event": {"name": ["evergreen.features.skewed"]}}, "limit": 10}
        return [event["payload"] for event in client.request("POST", "/events/filter", json=body).json()["events"]]


def test_values_that_came_after_the_answer_are_late_and_no_skew(home):
    ask(home)
    spec, engine = load_model("taxi", home), database.connect(home)
    ticks = tuple(one for one in feature_tables.ticks_between(spec, *span()))
    uris = tuple(one.accepted_uri for one in ledger.list_partitions(engine, "taxi", "accepted"))[:5]
    feature_tables.compute(home, spec, feature_tables.FeaturePlan(ticks=ticks, uris=uris, new=(), moment=ticks[-1]))
    found = watch()
    assert {one["kind"] for one in found["skew"]["differences"]} == {"late"}
    assert found["skew"]["warning"] == ""


def span():
    from datetime import UTC

    return datetime(2024, 1, 9, 4, tzinfo=UTC), datetime(2024, 1, 9, 5, tzinfo=UTC)


def test_a_store_that_is_away_is_told_and_keeps_nothing_else_back(home):
    ask(home)
    for path in home.features("taxi").rglob("*.parquet"):
        path.unlink()
    found = watch()
    assert found["performance"]["predictions"] == 40
    assert "was not looked at" in found["skew"]["warning"]


def artifact(key):
    """Return the text of the newest artifact of a key."""
    with get_client(sync_client=True) as client:
        body = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
        found = client.request("POST", "/artifacts/filter", json=body).json()
    return found[0]["data"] if found else ""


def test_the_artifact_links_to_the_champions_run_and_to_pages_that_the_stack_serves(home):
    ask(home)
    found = watch()
    made = registry.get_version(home, "taxi", 1)
    experiment = registry.open_client(home).get_run(made.run_id).info.experiment_id
    text = eventually(lambda: artifact("monitor-taxi"), 60)
    links = dict(re.findall(r"\[([^\]]+)\]\((http[^)]+)\)", text))
    assert links["MLflow run"] == f"http://127.0.0.1:5000/#/experiments/{experiment}/runs/{made.run_id}"
    write_index(home, load_model("taxi", home), [])
    with docs_server(home) as base:
        for name, part in (("Report", "Served features"), ("Data Docs", "<html")):
            address = links[name].replace("http://127.0.0.1:8500", base)
            assert part in httpx.get(address, timeout=30).text
    assert Path(found["report"]).name in links["Report"]


@contextmanager
def docs_server(home):
    """Serve Data Docs by the command of the Procfile, on a free port."""
    from honcho.environ import parse_procfile

    from deployments.stack import PROCFILE

    port = free_port()
    command = parse_procfile(PROCFILE.read_text()).processes["docs"]
    variables = os.environ | {
        "EVERGREEN_DOCS_PORT": str(port), "EVERGREEN_HOME": str(home.home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    process = subprocess.Popen(command, shell=True, env=variables, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: answers(port), 60)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def answers(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
