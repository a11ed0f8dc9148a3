"""The protocols of others: MLflow's scoring server and the Open Inference Protocol, each asked by its own client."""

import json
import threading
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import uvicorn
from fastapi.testclient import TestClient
from serving_parts import FEATURES, ROW, eventually, home, make_bundle, promote, read_features, serving, version_of
from sklearn.linear_model import LogisticRegression

from deployments.service.build import build
from flows import database
from flows.models.taxi.spec import spec
from flows.steps.bundle import frame_of, load_bundle
from flows.steps.prediction_log import read_predictions

ONE = {"hour": 8.5, "distance_miles": 2.4, "pickup_minutes_mean_28d": 11.0}
GAP = ONE | {"pickup_minutes_mean_28d": None}
SPLIT = {"columns": FEATURES, "data": [[8.5, 2.4, 11.0], [9, 3, None]]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    return folder, make_bundle(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory, bundle):
    """A service in this process, with version 7 of a regression."""
    settings = home(tmp_path_factory.mktemp("home"), follow_seconds=0.05)
    promote(database.connect(settings), *bundle, 7)
    with serving(settings) as client:
        eventually(lambda: version_of(client) == 7)
        yield SimpleNamespace(client=client, settings=settings)


@pytest.fixture(scope="module")
def mlflow_app(bundle):
    """MLflow's own server on the same model, as ``mlflow models serve`` runs it."""
    from mlflow.pyfunc import load_model
    from mlflow.pyfunc.scoring_server import init

    from flows.steps.mlflow_model import write_mlmodel

    write_mlmodel(bundle[0])
    return TestClient(init(load_model(str(bundle[0]))), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def address(place):
    """Host and port of the same application behind a real server, for clients that want one."""
    app = build(place.settings, spec, read_features)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    import httpx

    eventually(lambda: httpx.get(f"http://127.0.0.1:{port}/ping").status_code == 200)
    yield "127.0.0.1", port
    server.should_exit = True
    thread.join(10)


def said(bundle, *rows):
    """Return what the bundle itself says of rows of features."""
    opened = load_bundle(*bundle)
    return opened.scores(frame_of(opened.manifest, list(zip(*rows, strict=True)))).tolist()


SAME = {
    "split": {"dataframe_split": SPLIT},
    "split with an index": {"dataframe_split": SPLIT | {"index": [4, 5]}},
    "split in another order, with more columns": {
        "dataframe_split": {"columns": ["x", *FEATURES[::-1]], "data": [["a", 11.0, 2.4, 8.5]]}
    },
    "records": {"dataframe_records": [ONE, GAP]},
    "records, a key missing in one": {"dataframe_records": [ONE, {"hour": 1, "distance_miles": 2}]},
    "records with parameters": {"dataframe_records": [ONE], "params": {"a": 1}},
    "instances": {"instances": [ONE, ONE]},
    "one instance": {"instances": ONE},
    "inputs by column": {"inputs": {name: [value, value] for name, value in ONE.items()}},
    "inputs by row": {"inputs": [ONE, ONE]},
    "inputs of one row": {"inputs": ONE},
    "numbers as text and as truth": {"dataframe_records": [ONE | {"hour": "8.5", "distance_miles": True}]},
    "a missing value as NaN": {"dataframe_records": [ONE | {"pickup_minutes_mean_28d": float("nan")}]},
}
REFUSED = {
    "no columns": {"dataframe_split": {"data": [[8.5, 2.4, 11.0]]}},
    "a column is missing": {"dataframe_split": {"columns": FEATURES[:2], "data": [[8.5, 2.4]]}},
    "a column twice": {"dataframe_split": {"columns": [*FEATURES, "hour"], "data": [[8.5, 2.4, 11.0, 1]]}},
    "a text": {"dataframe_records": [ONE | {"hour": "early"}]},
    "no rows": {"dataframe_split": {"columns": FEATURES, "data": []}},
    "no records": {"dataframe_records": []},
    "instances without names": {"instances": [[8.5, 2.4, 11.0]]},
    "inputs without names": {"inputs": [[8.5, 2.4, 11.0]]},
    "columns in two dimensions": {"inputs": {name: [[value]] for name, value in ONE.items()}},
    "columns of two lengths": {"inputs": ONE | {"hour": [1, 2], "distance_miles": [1], "pickup_minutes_mean_28d": [1]}},
    "two forms": {"inputs": [ONE], "instances": [ONE]},
    "no form": {"x": 1},
    "a list": [ONE],
}


@pytest.mark.parametrize("form", SAME)
def test_mlflow_and_the_service_answer_the_same(form, place, mlflow_app):
    sent = {"content": json.dumps(SAME[form]), "headers": {"content-type": "application/json"}}
    theirs, ours = mlflow_app.post("/invocations", **sent), place.client.post("/invocations", **sent)
    assert theirs.status_code == ours.status_code == 200, (theirs.text, ours.text)
    assert ours.json().keys() == theirs.json().keys() == {"predictions"}
    assert ours.json()["predictions"] == pytest.approx(theirs.json()["predictions"], rel=1e-9)
    assert ours.headers["x-model-version"] == "7"


@pytest.mark.parametrize("form", REFUSED)
def test_what_mlflow_refuses_is_refused_in_its_words(form, place, mlflow_app):
    theirs, ours = (client.post("/invocations", json=REFUSED[form]) for client in (mlflow_app, place.client))
    assert theirs.status_code == ours.status_code == 400
    assert {*ours.json()} == {"error_code", "message"} <= {*theirs.json()}
    assert ours.json()["error_code"] == "BAD_REQUEST"
    assert ours.json()["message"]


@pytest.mark.parametrize(
    "text",
    [
        "hour,distance_miles,pickup_minutes_mean_28d\n8.5,2.4,\n9,3,NA\n",
        pd.DataFrame([ONE]).to_csv(),
        "hour\n1\n",
        "",
        "hour,distance_miles,pickup_minutes_mean_28d\nearly,1,2\n",
    ],
)
def test_csv_is_read_as_mlflow_reads_it(text, place, mlflow_app):
    sent = {"content": text, "headers": {"content-type": "text/csv; charset=utf-8"}}
    theirs, ours = mlflow_app.post("/invocations", **sent), place.client.post("/invocations", **sent)
    assert ours.status_code == theirs.status_code
    if ours.status_code == 200:
        assert ours.json()["predictions"] == pytest.approx(theirs.json()["predictions"], rel=1e-9)


@pytest.mark.parametrize("kind", ["text/plain", "application/json; charset=latin1", "application/json; a=b"])
def test_other_content_types_are_a_415(kind, place, mlflow_app):
    for client in (mlflow_app, place.client):
        assert client.post("/invocations", content=b"{}", headers={"content-type": kind}).status_code == 415


@pytest.mark.parametrize("path", ["/ping", "/health", "/version"])
def test_the_small_routes_answer_as_mlflow_does(path, place, mlflow_app):
    theirs, ours = mlflow_app.get(path), place.client.get(path)
    assert (ours.status_code, ours.text) == (theirs.status_code, theirs.text)


def test_mlflows_own_client_works_unchanged(address, bundle):
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    client = ScoringServerClient(*address)
    client.wait_server_ready(timeout=5)
    import mlflow

    assert client.get_version() == mlflow.__version__
    frame = pd.DataFrame([ONE, GAP | {"hour": 9.0}])
    answer = client.invoke(frame)
    expected = said(bundle, [8.5, 2.4, 11.0], [9.0, 2.4, None])
    assert answer.get_predictions()[0].tolist() == pytest.approx(expected, rel=1e-9)
    with pytest.raises(Exception, match="lacks distance_miles"):
        client.invoke(frame[["hour"]])


@pytest.mark.parametrize("binary", [True, False])
def test_an_open_inference_client_works_unchanged(binary, address, bundle):
    from tritonclient.http import InferenceServerClient, InferInput

    client = InferenceServerClient(":".join(map(str, address)))
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("taxi")
        assert client.is_model_ready("taxi", "7")
        assert not client.is_model_ready("taxi", "8")
        assert not client.is_model_ready("other")
        described = client.get_model_metadata("taxi")
        assert [one["name"] for one in described["inputs"]] == FEATURES
        assert described == client.get_model_metadata("taxi", "7")
        tensors = []
        for name, values in zip(FEATURES, ([8.5, 9.0], [2.4, 3.0], [11.0, np.nan]), strict=True):
            tensor = InferInput(name, [2, 1] if name == "hour" else [2], "FP64")
            tensor.set_data_from_numpy(np.array(values).reshape(tensor.shape()), binary_data=binary)
            tensors.append(tensor)
        answer = client.infer("taxi", tensors, request_id="mine")
        expected = said(bundle, [8.5, 2.4, 11.0], [9.0, 3.0, None])
        assert answer.as_numpy("prediction").tolist() == pytest.approx(expected, rel=1e-9)
        response = answer.get_response()
        assert (response["model_version"], response["id"]) == ("7", "mine")
    finally:
        client.close()


def tensor(name="hour", **changes):
    return {"name": name, "shape": [1], "datatype": "FP64", "data": [1.0]} | changes


ALL = [tensor(name) for name in FEATURES]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"inputs": ALL[:2]}, "lacks pickup_minutes_mean_28d"),
        ({"inputs": [*ALL, ALL[0]]}, "'hour' is there twice"),
        ({"inputs": [tensor(shape=[2])]}, "1 values do not fill 2 rows"),
        ({"inputs": [tensor(shape=[1, 3])]}, "one tensor holds one feature"),
        ({"inputs": [tensor(shape=[-1])]}, "shape must be"),
        ({"inputs": [tensor(datatype="FP7")]}, "datatype must be one of"),
        ({"inputs": [tensor(data=["a"])]}, "a value is not of type FP64"),
        ({"inputs": [tensor(data=None)]}, "data must be a list"),
        ({"inputs": [tensor(parameters={"binary_data_size": 8})]}, "binary_data_size"),
        ({"inputs": [tensor(data=[10**400]), *ALL[1:]]}, "finite numbers"),
        ({"inputs": ALL, "outputs": [{"name": "x"}]}, "there are prediction"),
        ({"inputs": ALL, "id": 5}, "id must be a text"),
        ({"inputs": {}}, "list of inputs"),
        ([], "list of inputs"),
    ],
)
def test_tensors_that_do_not_fit_are_a_400_with_the_reason(content, told, place):
    answer = place.client.post("/v2/models/taxi/infer", content=json.dumps(content))
    assert answer.status_code == 400
    assert told in answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "9" * 30, "x", "99999999", "²"])
def test_a_length_of_the_json_part_that_is_none_is_a_400(length, place):
    headers = {"Inference-Header-Content-Length": length.encode()}
    assert place.client.post("/v2/models/taxi/infer", json={"inputs": ALL}, headers=headers).status_code == 400


def test_another_model_or_version_is_a_404(place):
    for path in ("/v2/models/other", "/v2/models/taxi/versions/8", "/v2/models/taxi/versions/x/ready"):
        assert place.client.get(path).status_code == 404
    for path in ("/v2/models/other/infer", "/v2/models/taxi/versions/8/infer"):
        assert place.client.post(path, json={"inputs": ALL}).status_code == 404
    assert place.client.post("/v2/models/taxi/versions/7/infer", json={"inputs": ALL}).status_code == 200


def test_each_answered_row_is_in_the_log_with_its_features(place):
    ids = {"X-Request-ID": "asked-by-mlflow"}
    place.client.post("/invocations", json={"instances": [ONE, GAP]}, headers=ids)
    place.client.post("/v2/models/taxi/infer", json={"inputs": ALL}, headers={"X-Request-ID": "asked-by-v2"})
    logged = [
        row for row in read_predictions(place.settings, spec).to_pylist() if row["request_id"].startswith("asked")
    ]
    assert [(row["request_id"], row["row"], row["version"]) for row in logged] == [
        ("asked-by-mlflow", 0, 7), ("asked-by-mlflow", 1, 7), ("asked-by-v2", 0, 7),
    ]  # fmt: skip
    assert [row["pickup_minutes_mean_28d"] for row in logged] == [11.0, None, 1.0]
    assert {row["PULocationID"] for row in logged} == {None}


def test_classes_are_answered_as_labels_with_probabilities(tmp_path):
    classifying = spec.model_copy(update={"task": "multiclass"})
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    estimator = make_pipeline(SimpleImputer(), LogisticRegression(max_iter=1000))
    settings = home(tmp_path / "home", follow_seconds=0.05)
    digest = make_bundle(tmp_path / "bundle", estimator, classifying, classes=True)
    promote(database.connect(settings), tmp_path / "bundle", digest, 1)
    with TestClient(build(settings, classifying, read_features)) as client:
        eventually(lambda: version_of(client) == 1)
        row = client.post("/predict", json=ROW).json()["predictions"][0]
        (found,) = client.post("/invocations", json={"instances": [ONE]}).json()["predictions"]
        outputs = client.post("/v2/models/taxi/infer", json={"inputs": ALL}).json()["outputs"]
        described = client.get("/v2/models/taxi").json()["outputs"]
    assert found == row["prediction"]
    assert [one["datatype"] for one in described] == ["BYTES", "FP64"]
    assert described[1]["parameters"] == {"labels": ["long", "middle", "short"]}
    assert (outputs[1]["shape"], sum(outputs[1]["data"])) == ([1, 3], pytest.approx(1.0))
