"""What stands before all routes: request id, API key, the bound on requests under way; and what is told of requests."""

import io
import json
import logging
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from serving_parts import ROW, eventually, home, make_bundle, promote, read_features, serving, version_of

from deployments.service.board import Board
from deployments.service.build import build
from deployments.service.logs import log_json
from deployments.service.telemetry import Telemetry, exposition
from deployments.service.tracing import trace_requests
from flows import database, ledger
from flows.models.taxi.spec import spec
from flows.steps.prediction_log import read_predictions

KEY = "a-key-of-the-team"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    return folder, make_bundle(folder)


@pytest.fixture
def place(tmp_path, bundle):
    """Return a function that gives the settings of a home with version 1 promoted."""

    def make(**values):
        settings = home(tmp_path / "home", follow_seconds=0.05, **values)
        promote(database.connect(settings), *bundle, 1)
        return settings

    return make


def samples(client):
    """Return the values of a scrape by name and labels without model and worker."""
    text = client.get("/metrics").text
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name not in ("model", "worker"))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_sane_request_id_is_kept_another_is_made_and_both_name_the_request_in_the_log(place):
    settings = place()
    with serving(settings) as client:
        eventually(lambda: version_of(client) == 1)
        for given, kept in (("trace-1/a:b", True), ("x" * 129, False), ("a b", False), ("", False)):
            answer = client.post("/predict", json=ROW, headers={"X-Request-ID": given} if given else {})
            told = answer.headers["x-request-id"]
            assert (told == given) is kept
            assert answer.json()["request_id"] == told
        assert len(told) == 32
        assert client.get("/nothing", headers={"X-Request-ID": "abc"}).headers["x-request-id"] == "abc"
        logged = read_predictions(settings, spec)["request_id"].to_pylist()
    assert "trace-1/a:b" in logged
    assert told in logged


def test_without_the_key_only_the_probes_answer(place):
    settings = place(service_api_key=SecretStr(KEY))
    with serving(settings) as client:
        eventually(lambda: version_of(client) == 1)
        routes = client.get("/openapi.json", headers={"X-API-Key": KEY}).json()["paths"]
        probes = {"/healthz", "/readyz", "/ping", "/health", "/v2/health/live", "/v2/health/ready"}
        asked = [(path, method) for path, methods in routes.items() for method in methods] + [("/openapi.json", "get")]
        for path, method in asked:
            url = path.format(name="taxi", version="1")
            for headers in (
                {},
                {"X-API-Key": KEY[:-1]},
                {"Authorization": f"Basic {KEY}"},
                {"Authorization": "Bearer é"},
            ):
                raw = {name: value.encode() for name, value in headers.items()}
                answer = client.request(method, url, json=ROW if method == "post" else None, headers=raw)
                assert answer.status_code == (200 if path in probes else 401), (method, path)
                if answer.status_code == 401:
                    assert answer.headers["www-authenticate"] == "Bearer"
                    assert answer.json() == {"detail": "the API key is missing or wrong"}
        for headers in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer {KEY}"}):
            assert client.post("/predict", json=ROW, headers=headers).status_code == 200
        assert read_predictions(settings, spec).num_rows == 3
        told = client.get("/readyz").json()
        assert set(told) == {"ready", "model", "version", "following"}  # no server, no folder, no reason
        known = client.get("/readyz", headers={"X-API-Key": KEY}).json()
        assert known.items() >= told.items()
        assert {"error", "features_error", "trial", "requests"} <= set(known)


def test_the_key_is_in_no_text_of_the_settings():
    from flows.settings import Settings

    settings = Settings(service_api_key=SecretStr(KEY))
    assert KEY not in repr(settings) + str(settings) + settings.model_dump_json()
    assert KEY not in settings.environment().values()


def test_beyond_its_queue_it_says_when_to_come_back_and_the_probes_still_answer(place):
    go, inside = threading.Event(), threading.Semaphore(0)

    def slow(names, rows):
        if rows[0]["trip_distance"] == 9.0:
            inside.release()
            go.wait(20)
        return read_features(names, rows)

    with serving(place(service_queue=2), slow) as client:
        eventually(lambda: version_of(client) == 1)
        answers = []
        rows = {"rows": [ROW | {"trip_distance": 9.0}] * 400}  # long enough for a thread of its own

        def ask():
            answers.append(client.post("/predict", json=rows).status_code)

        askers = [threading.Thread(target=ask) for _ in range(2)]
        for asker in askers:
            asker.start()
        assert all(inside.acquire(timeout=20) for _ in askers)  # both are under way, the queue is full
        refused = client.post("/predict", json=ROW)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "too many requests" in refused.json()["detail"]
        assert client.get("/healthz").status_code == client.get("/metrics").status_code == 200
        go.set()
        for asker in askers:
            asker.join()
        assert answers == [200, 200]
        assert client.post("/predict", json=ROW).status_code == 200
        assert samples(client)["evergreen_refused_total",] >= 1


def test_metrics_count_requests_errors_rows_swaps_and_name_the_version(place, tmp_path):
    settings = place()
    with serving(settings) as client:
        eventually(lambda: version_of(client) == 1)
        for _ in range(3):
            client.post("/predict", json={"rows": [ROW, ROW]})
        client.post("/predict", json={})
        client.get("/nothing/at/all")
        promote(database.connect(settings), tmp_path / "other", make_bundle(tmp_path / "other", rows=700), 2)
        eventually(lambda: version_of(client) == 2)
        eventually(lambda: client.get("/readyz").json()["following"])
        found = samples(client)
    assert found["evergreen_requests_total", "/predict", "200"] == 3
    assert found["evergreen_requests_total", "/predict", "422"] == 1
    assert found["evergreen_requests_total", "other", "404"] == 1
    assert found["evergreen_errors_total", "/predict"] == 0
    assert found["evergreen_rows_total",] == 6
    assert found["evergreen_swaps_total",] == 2
    assert found["evergreen_model_version",] == 2
    assert found["evergreen_following",] == found["evergreen_ledger_up",] == found["evergreen_ready",] == 1
    assert found["evergreen_request_seconds_bucket", "+Inf", "/predict"] == 4
    assert found["evergreen_request_seconds_count", "/predict"] == 4
    assert found["evergreen_request_seconds_sum", "/predict"] > 0


def test_the_age_of_the_features_is_that_of_the_newest_event_that_became_one(place):
    settings = place()
    engine = database.connect(settings)
    for key, hours in (("old", 5), ("new", 2)):
        landed = ledger.add_partition(engine, model="taxi", key=key, digest=key, source=key, uri=key, rows=1)
        event = datetime.now(UTC) - timedelta(hours=hours)
        ledger.decide_partition(engine, landed.id, "accepted", last_event=event)
        ledger.mark_featurized(engine, [landed.id], datetime.now(UTC))
    with serving(settings) as client:
        eventually(lambda: version_of(client) == 1)
        age = samples(client)["evergreen_feature_age_seconds",]
    assert 7200 <= age < 7200 + 600


def test_a_scrape_of_one_worker_tells_of_all_that_live(tmp_path):
    settings = home(tmp_path)
    states = {}
    for worker, requests in (("0", 2), ("1", 3), ("2", 4)):
        telemetry = Telemetry()
        for _ in range(requests):
            telemetry.observe("/predict", 200, 0.003)
        states[worker] = telemetry.state() | {"rows": requests, "model_version": 1, "digest": "d", "kind": "promote"}
        Board(settings, "taxi", worker).write(states[worker])
    (settings.home / "service-taxi" / "3.json").write_text("torn{")
    board = Board(settings, "taxi", "1")
    assert board.others() == {name: json.loads(json.dumps(states[name])) for name in ("0", "2")}
    text = exposition("taxi", board.others() | {"1": states["1"]}).decode()
    for worker, requests in (("0", 2), ("1", 3), ("2", 4)):
        assert (
            f'evergreen_requests_total{{model="taxi",route="/predict",status="200",worker="{worker}"}} {requests}.0'
            in text
        )
    old = settings.home / "service-taxi" / "2.json"
    import os

    os.utime(old, (time.time() - 60,) * 2)
    assert [*board.others()] == ["0"]


@pytest.fixture
def written(monkeypatch):
    """What the service logs, as JSON."""
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    log_json(stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = before
    root.setLevel(level)
    logging.getLogger("evergreen").setLevel(logging.NOTSET)


def test_the_log_is_json_with_the_request_id_and_holds_neither_body_nor_key(place, written):
    settings = place(service_api_key=SecretStr(KEY), service_log="all")

    def broken(names, rows):
        if rows[0]["trip_distance"] == 9.0:
            raise RuntimeError("line\nbreak")
        return read_features(names, rows)

    with serving(settings, broken) as client:
        eventually(lambda: version_of(client) == 1)
        headers = {"X-API-Key": KEY, "X-Request-ID": "good"}
        assert client.post("/predict", json=ROW, headers=headers).status_code == 200
        wrong = headers | {"X-Request-ID": "bad"}
        assert client.post("/predict", json=ROW | {"trip_distance": 9.0}, headers=wrong).status_code == 500
        assert client.post("/predict?a=secret", json=ROW).status_code == 401
    lines = written()
    asked = {line.get("request_id"): line for line in lines if line["logger"] == "evergreen.requests"}
    assert (asked["good"]["route"], asked["good"]["status"]) == ("/predict", 200)
    assert asked["bad"]["status"] == 500
    failed = next(line for line in lines if line["message"] == "a request failed")
    assert failed["request_id"] == "bad"
    assert "RuntimeError" in failed["exception"]
    assert any(line["message"] == "version 1 serves" and line["version"] == 1 for line in lines)
    text = json.dumps(lines)
    assert KEY not in text
    assert "secret" not in text
    assert "DOLocationID" not in text


def test_only_refused_requests_are_logged_unless_all_are_asked_for(place, written):
    with serving(place()) as client:
        eventually(lambda: version_of(client) == 1)
        client.post("/predict", json=ROW)
        client.post("/predict", json={})
    found = [
        line["status"] for line in written() if line["logger"] == "evergreen.requests" and line["route"] == "/predict"
    ]
    assert found == [422]


def test_traces_have_a_span_a_request_in_the_callers_trace(place):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = build(place(), spec, read_features)
    trace_requests(app, "taxi", provider)
    with TestClient(app, raise_server_exceptions=False) as client:
        eventually(lambda: version_of(client) == 1)
        exporter.clear()
        caller = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "X-Request-ID": "r1"}
        client.post("/predict", json=ROW, headers=caller)
        client.get("/v2/models/other")
    first, second = exporter.get_finished_spans()
    assert first.name == "POST /predict"
    assert f"{first.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert first.attributes["http.response.status_code"] == 200
    assert first.attributes["evergreen.request_id"] == "r1"
    assert (second.name, second.attributes["http.response.status_code"]) == ("GET /v2/models/{name}", 404)
