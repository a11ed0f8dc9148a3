"""The prediction service in one process, all of it real but the feature store, for which a function stands in."""

import asyncio
import json
import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from serving_parts import (
    ROW,
    eventually,
    fitted,
    home,
    make_bundle,
    promote,
    read_features,
    serving,
    training_set,
    version_of,
)  # fmt: skip
from sklearn.linear_model import LinearRegression

from deployments.service import bodies
from deployments.service import follower as follower_module
from deployments.service.build import build
from flows import database
from flows.models.taxi.spec import spec
from flows.steps.bundle import frame_of, load_bundle
from flows.steps.bundling import save_bundle
from flows.steps.prediction_log import read_predictions


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Folders and digests of three versions that answer differently."""
    made = {}
    for version in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"version{version}")
        made[version] = (folder, make_bundle(folder, rows=500 + 100 * version))
    return made


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A home with its ledger; the service in it follows fast."""
    monkeypatch.setattr(follower_module, "RETRY_SECONDS", 0.1)
    settings = home(tmp_path / "home", follow_seconds=0.02)
    engine = database.connect(settings)
    yield SimpleNamespace(settings=settings, engine=engine)
    engine.dispose()


def expected(bundle, rows):
    """Return what a bundle itself says of some request rows."""
    from deployments.service.request import RequestParser

    opened = load_bundle(*bundle)
    parsed = RequestParser(spec).parse(json.dumps({"rows": rows}).encode())
    names = opened.manifest.feature_names
    columns = read_features(names, parsed).columns
    return opened.scores(frame_of(opened.manifest, [columns[name] for name in names])).tolist()


def test_it_is_up_but_not_ready_before_a_version_is_promoted(place, bundles):
    with serving(place.settings) as client:
        eventually(lambda: client.get("/readyz").json()["error"])
        state = client.get("/readyz")
        assert state.status_code == 503
        assert "no version of taxi is promoted" in state.json()["error"]
        assert client.get("/healthz").status_code == 200
        assert client.get("/model").status_code == 503
        answer = client.post("/predict", json=ROW)
        assert (answer.status_code, answer.json()) == (503, {"detail": "no version of taxi is loaded yet; see /readyz"})
        promote(place.engine, *bundles[1], 1)
        eventually(lambda: client.get("/readyz").status_code == 200)
        assert client.post("/predict", json=ROW).status_code == 200


def test_answers_are_those_of_the_bundle_and_each_is_in_the_log(place, bundles):
    promote(place.engine, *bundles[1], 1)
    rows = [ROW, ROW | {"trip_distance": 7.0}, ROW | {"PULocationID": 9999}]
    with serving(place.settings) as client:
        eventually(lambda: version_of(client) == 1)
        one = client.post("/predict", json=ROW).json()
        many = client.post("/predict", json={"rows": rows}).json()
        assert 'evergreen_unknown_rows_total{model="taxi",worker="0"} 1.0' in client.get("/metrics").text
        logged = read_predictions(place.settings, spec).to_pylist()
    values = expected(bundles[1], rows)
    assert one["model"] == "taxi"
    assert one["version"] == 1
    assert one["predictions"] == [{"prediction": values[0], "unknown": []}]
    assert [found["prediction"] for found in many["predictions"]] == values
    assert [found["unknown"] for found in many["predictions"]] == [[], [], ["pickup_zone"]]
    assert [(row["request_id"], row["row"]) for row in logged] == [
        (one["request_id"], 0), *((many["request_id"], number) for number in range(3)),
    ]  # fmt: skip
    assert [row["prediction"] for row in logged] == [values[0], *values]
    assert [row["pickup_minutes_mean_28d"] for row in logged] == [11.0, 11.0, 11.0, None]
    assert logged[3]["PULocationID"] == 9999


def test_the_model_page_tells_what_serves_and_why(place, bundles):
    promotion = promote(place.engine, *bundles[1], 1)
    with serving(place.settings) as client:
        eventually(lambda: version_of(client) == 1)
        model = client.get("/model").json()
    assert model["version"] == 1
    assert model["digest"] == bundles[1][1]
    assert model["run_id"] == "run-1"
    assert model["why"] == "version 1"
    assert model["since"] == promotion.at.isoformat()
    assert model["evidence"] == {"metrics": {"rmse": 2.0}}
    assert model["features"] == ["hour", "distance_miles", "pickup_minutes_mean_28d"]


def test_swaps_under_requests_fail_none_and_never_mix_versions(place, bundles):
    right = {version: expected(bundle, [ROW, ROW | {"trip_distance": 5.0}]) for version, bundle in bundles.items()}
    assert len({tuple(values) for values in right.values()}) == 3
    answers, stop = [], threading.Event()
    promote(place.engine, *bundles[1], 1)
    with serving(place.settings) as client:
        eventually(lambda: version_of(client) == 1)

        def ask():
            while not stop.is_set():
                answers.append(client.post("/predict", json={"rows": [ROW, ROW | {"trip_distance": 5.0}]}))

        askers = [threading.Thread(target=ask) for _ in range(3)]
        for asker in askers:
            asker.start()
        for version in (2, 3, 1, 2, 1, 3):
            promote(place.engine, *bundles[version], version, "rollback" if version == 1 else "promote")
            eventually(lambda version=version: version_of(client) == version)
        stop.set()
        for asker in askers:
            asker.join()
    assert {answer.status_code for answer in answers} == {200}
    contents = [answer.json() for answer in answers]
    assert {content["version"] for content in contents} == {1, 2, 3}
    for content in contents:
        assert [found["prediction"] for found in content["predictions"]] == right[content["version"]]
    logged = read_predictions(place.settings, spec).to_pylist()
    assert {(row["request_id"], row["version"]) for row in logged} == {
        (content["request_id"], content["version"]) for content in contents
    }


def test_a_rollback_needs_no_file_of_the_bundle(place, bundles, tmp_path):
    import shutil

    origin = shutil.copytree(bundles[1][0], tmp_path / "origin")
    promote(place.engine, origin, bundles[1][1], 1)
    with serving(place.settings) as client:
        eventually(lambda: version_of(client) == 1)
        promote(place.engine, *bundles[2], 2)
        eventually(lambda: version_of(client) == 2)
        shutil.rmtree(origin)
        shutil.rmtree(place.settings.cache)
        promote(place.engine, origin, bundles[1][1], 1, "rollback")
        eventually(lambda: version_of(client) == 1)


def test_a_missing_bundle_is_refused_the_old_one_serves_on_and_the_mended_one_is_taken(place, bundles, tmp_path):
    promote(place.engine, *bundles[1], 1)
    with serving(place.settings) as client:
        eventually(lambda: version_of(client) == 1)
        promote(place.engine, tmp_path / "later", bundles[2][1], 2)
        error = eventually(lambda: client.get("/readyz").json()["error"])
        state = client.get("/readyz")
        assert state.status_code == 200
        assert state.json()["following"] is False
        assert "version 2 is refused, version 1 serves on" in error
        assert "is missing" in error
        assert client.post("/predict", json=ROW).json()["version"] == 1
        (tmp_path / "later").symlink_to(bundles[2][0])
        eventually(lambda: client.get("/readyz").json()["following"])
        assert version_of(client) == 2


def test_a_version_that_needs_features_which_nobody_serves_is_refused(place, bundles, tmp_path):
    data = training_set(tmp_path, text=True).model_copy(update={"features": ("hour", "zone")})
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    encoded = ColumnTransformer([("zone", OneHotEncoder(), ["zone"])], remainder="passthrough")
    digest = save_bundle(spec, fitted(make_pipeline(encoded, LinearRegression()), data), data, tmp_path)
    promote(place.engine, *bundles[1], 1)
    with serving(place.settings) as client:
        eventually(lambda: version_of(client) == 1)
        promote(place.engine, tmp_path, digest, 2)
        error = eventually(lambda: client.get("/readyz").json()["error"])
        assert "needs zone, which taxi_duration_v1 does not serve" in error
        assert client.post("/predict", json=ROW).json()["version"] == 1


def test_a_version_for_other_requests_is_refused(place, bundles, tmp_path):
    other = spec.model_copy(update={"request": spec.request[:3]})
    digest = make_bundle(tmp_path, spec=other)
    promote(place.engine, *bundles[1], 1)
    with serving(place.settings) as client:
        eventually(lambda: version_of(client) == 1)
        promote(place.engine, tmp_path, digest, 2)
        error = eventually(lambda: client.get("/readyz").json()["error"])
        assert "was made for taxi with the request fields lpep_pickup_datetime, PULocationID, DOLocationID," in error
        assert version_of(client) == 1


def test_a_version_whose_answers_are_not_finite_is_refused(place, bundles, tmp_path):
    data = training_set(tmp_path).model_copy(update={"features": ("hour", "distance_miles")})
    estimator = fitted(LinearRegression(), data)
    digest = save_bundle(spec, estimator, data, tmp_path)

    def infinite(names, rows):
        found = read_features(names, rows)
        if "pickup_minutes_mean_28d" not in names:
            found.columns["distance_miles"][:] = [np.finfo(float).max] * len(rows)
        return found

    promote(place.engine, *bundles[1], 1)
    with serving(place.settings, infinite) as client:
        eventually(lambda: version_of(client) == 1)
        promote(place.engine, tmp_path, digest, 2)
        error = eventually(lambda: client.get("/readyz").json()["error"])
        assert "version 2 is refused" in error
        assert "not finite" in error
        assert version_of(client) == 1


def test_features_that_cannot_be_read_are_a_503_with_the_reason_counted_and_not_logged(place, bundles):
    from flows.errors import UnavailableError

    away = threading.Event()

    def reader(names, rows):
        if away.is_set():
            raise UnavailableError("online features of taxi cannot be read (locked)")
        return read_features(names, rows)

    promote(place.engine, *bundles[1], 1)
    with serving(place.settings, reader) as client:
        eventually(lambda: version_of(client) == 1)
        away.set()
        answer = client.post("/predict", json=ROW)
        assert (answer.status_code, answer.json()["detail"]) == (503, "online features of taxi cannot be read (locked)")
        assert client.get("/readyz").json()["requests"] == {"answered": 0, "rows": 0, "bad": 0, "failed": 1}
        assert read_predictions(place.settings, spec).num_rows == 0
        away.clear()
        assert client.post("/predict", json=ROW).status_code == 200


def test_what_takes_too_long_is_a_503_and_holds_nobody_up(place, bundles):
    hanging, released = threading.Event(), threading.Event()

    def reader(names, rows):
        if hanging.is_set():
            released.wait(60)
        return read_features(names, rows)

    reader.is_quick = False  # as one that asks a server
    promote(place.engine, *bundles[1], 1)
    with serving(place.settings.model_copy(update={"service_answer_seconds": 0.2}), reader) as client:
        eventually(lambda: version_of(client) == 1)
        hanging.set()
        answer = client.post("/predict", json=ROW)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "no answer within 0.2 s" in answer.json()["detail"]
        assert client.get("/healthz").status_code == 200
        hanging.clear()
        assert client.post("/predict", json=ROW).status_code == 200
        released.set()


def test_a_version_is_loaded_while_its_features_are_away_and_readyz_tells(place, bundles):
    from flows.errors import UnavailableError

    away = threading.Event()
    away.set()

    def reader(names, rows):
        if away.is_set():
            raise UnavailableError("online features of taxi cannot be read (locked)")
        return read_features(names, rows)

    promote(place.engine, *bundles[1], 1)
    with serving(place.settings, reader) as client:
        eventually(lambda: version_of(client) == 1)
        eventually(lambda: "version 1 is loaded, but online features" in (client.get("/readyz").json()["error"] or ""))
        away.clear()
        eventually(lambda: client.get("/readyz").json()["following"])


def test_what_cannot_be_logged_is_not_answered(place, bundles, monkeypatch):
    promote(place.engine, *bundles[1], 1)
    with serving(place.settings) as client:
        eventually(lambda: version_of(client) == 1)
        with monkeypatch.context() as full:
            full.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            answer = client.post("/predict", json=ROW)
        assert answer.status_code == 503
        assert "No space left" in answer.json()["detail"]
        assert "No space left" in client.get("/readyz").json()["log_error"]
        assert 'evergreen_log_up{model="taxi",worker="0"} 0.0' in client.get("/metrics").text
        assert client.post("/predict", json=ROW).status_code == 200
        assert client.get("/readyz").json()["log_error"] is None
        assert 'evergreen_log_up{model="taxi",worker="0"} 1.0' in client.get("/metrics").text
        assert read_predictions(place.settings, spec).num_rows == 1


def test_a_body_over_one_mebibyte_is_a_413(place):
    with serving(place.settings) as client:
        assert client.post("/predict", content=b" " * (2**20 + 1)).status_code == 413
        assert client.post("/predict", content=(b" " * 2**16 for _ in range(20))).status_code == 413
        assert client.post("/predict", content=b" " * 2**20).status_code == 422


def test_a_body_that_does_not_arrive_is_let_go(place, monkeypatch):
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)
    application = build(place.settings, spec, read_features)
    sent = []

    async def never():
        await asyncio.sleep(3600)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "headers": [],
        "query_string": b"",
        "http_version": "1.1",
    }
    asyncio.run(application(scope, never, send))
    assert sent[0]["status"] == 408


def test_the_published_api_takes_its_own_examples(place, bundles):
    promote(place.engine, *bundles[1], 1)
    with serving(place.settings) as client:
        eventually(lambda: version_of(client) == 1)
        described = client.get("/openapi.json").json()
        operation = described["paths"]["/predict"]["post"]
        examples = operation["requestBody"]["content"]["application/json"]["examples"]
        assert examples.keys() == {"row", "rows"}
        for example in examples.values():
            assert client.post("/predict", json=example["value"]).status_code == 200
        assert operation["responses"].keys() == {"200", "408", "413", "422", "500", "503"}


def test_nothing_that_is_asked_of_other_routes_fails(place):
    with serving(place.settings) as client:
        assert client.get("/predict").status_code == 405
        assert client.get("/nothing").status_code == 404
        assert client.get("/docs").status_code == 404
