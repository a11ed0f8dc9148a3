"""A good challenger on trial in the service: every protocol takes part, each answer names who gave it."""

from collections import Counter

import pytest
from serving_parts import ROW, eventually, home, make_bundle, promote, serving

from flows import database, ledger, trials
from flows.models.taxi.spec import spec
from flows.spec import Rollout
from flows.steps.prediction_log import read_predictions
from flows.steps.rollout import together

READY = {"hour": 8.5, "distance_miles": 2.4, "pickup_minutes_mean_28d": 9.0}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Folders and digests of two versions that answer differently."""
    folders = {version: tmp_path_factory.mktemp(f"version{version}") for version in (1, 2)}
    return {version: (folder, make_bundle(folder, rows=500 + 100 * version)) for version, folder in folders.items()}


@pytest.fixture
def place(tmp_path, bundles):
    settings = home(tmp_path / "home", follow_seconds=0.02)
    engine = database.connect(settings)
    promote(engine, *bundles[1], 1)
    yield settings, engine
    engine.dispose()


def begin(engine, bundle, kind):
    """Put version 2 on trial with half of the requests, and all the time that a busy machine needs."""
    return trials.begin(
        engine, kind=kind, champion=ledger.champion(engine, "taxi"), version=2, run_id="run-2", model_uri=str(bundle[0]),
        digest=bundle[1], rollout=Rollout(share=0.5, deadline_ms=60_000, latency_ms=60_000), who="tests", why="try",
    )  # fmt: skip


def on_trial(client):
    return client.get("/readyz").json()["trial"]


def metric(client, name):
    lines = client.get("/metrics").text.splitlines()
    return [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"evergreen_{name}{{")]


def predicted(client, number):
    """Ask each protocol for the same trip, and return who answered and what, by protocol."""
    features = READY | {"distance_miles": 1 + number / 10}
    row = client.post("/predict", json=ROW | {"trip_distance": 1 + number / 10}).json()
    ready = client.post("/predict", json={"features": features}).json()
    mlflow = client.post("/invocations", json={"dataframe_records": [features]})
    tensors = [{"name": name, "shape": [1], "datatype": "FP64", "data": [value]} for name, value in features.items()]
    open_inference = client.post("/v2/models/taxi/infer", json={"inputs": tensors}).json()
    pinned = client.post("/v2/models/taxi/versions/1/infer", json={"inputs": tensors}).json()
    return {
        "row": (row["version"], row["predictions"][0]["prediction"]),
        "ready": (ready["version"], ready["predictions"][0]["prediction"]),
        "mlflow": (int(mlflow.headers["X-Model-Version"]), mlflow.json()["predictions"][0]),
        "open inference": (int(open_inference["model_version"]), open_inference["outputs"][0]["data"][0]),
        "pinned": (int(pinned["model_version"]), pinned["outputs"][0]["data"][0]),
    }


def test_a_canary_answers_its_share_in_every_protocol_and_the_same_request_alike(place, bundles):
    settings, engine = place
    with serving(settings) as client:
        eventually(lambda: client.get("/readyz").status_code == 200)
        alone = [predicted(client, number) for number in range(40)]
        begin(engine, bundles[2], "canary")
        eventually(lambda: on_trial(client))
        found = [predicted(client, number) for number in range(40)]
        assert [predicted(client, number) for number in range(40)] == found
        for protocol in ("row", "ready", "mlflow", "open inference"):
            counts = Counter(one[protocol][0] for one in found)
            assert counts.keys() == {1, 2}, protocol
            for before, one in zip(alone, found, strict=True):
                assert (one[protocol] == before[protocol]) == (one[protocol][0] == 1)
        assert [one["pinned"] for one in found] == [one["pinned"] for one in alone]
        state = on_trial(client)
        assert (state["version"], state["kind"], state["share"], state["stopped"]) == (2, "canary", 0.5, None)
        assert metric(client, "trial_version") == [2.0]
        assert metric(client, "trial_requests_total") == [float(state["counts"]["requests"])]
        (trial,) = trials.listed(engine, "taxi")
        eventually(lambda: trials.get(engine, trial.id).tallies)
        trials.end(engine, trial.id, "stopped", "by hand", {})
        eventually(lambda: on_trial(client) is None)
        assert [predicted(client, number) for number in range(40)] == alone
        assert metric(client, "trial_version") == []
    logged = Counter(read_predictions(settings, spec)["version"].to_pylist())
    told = Counter(version for one in [*alone, *found, *found, *alone] for version, _ in one.values())
    assert logged == told


def test_a_shadow_answers_a_copy_of_everything_for_nobody(place, bundles):
    settings, engine = place
    with serving(settings) as client:
        eventually(lambda: client.get("/readyz").status_code == 200)
        alone = [predicted(client, number) for number in range(10)]
        began = begin(engine, bundles[2], "shadow")
        eventually(lambda: on_trial(client))
        assert [predicted(client, number) for number in range(10)] == alone
        eventually(lambda: on_trial(client)["counts"]["requests"] == 40)  # what is pinned to a version is not copied
    served = read_predictions(settings, spec, start=began.started_at)
    shadow = read_predictions(settings, spec, role="shadow")
    assert (served.num_rows, shadow.num_rows) == (50, 40)
    assert set(shadow["version"].to_pylist()) == {2}
    assert {*shadow["request_id"].to_pylist()} < {*served["request_id"].to_pylist()}
    assert {*shadow["prediction"].to_pylist()}.isdisjoint(served["prediction"].to_pylist())


def test_what_was_counted_before_a_restart_counts_on(place, bundles):
    """A container that is started again has the host name and the process id that it had: as here, within one process."""
    settings, engine = place
    trial = begin(engine, bundles[2], "shadow")

    def counts(requests):
        return lambda: together(trials.get(engine, trial.id).tallies).requests == requests

    for times in (1, 2):
        with serving(settings) as client:
            eventually(lambda: client.get("/readyz").status_code == 200)
            eventually(lambda: on_trial(client))
            predicted(client, times)
            eventually(counts(4 * times))
