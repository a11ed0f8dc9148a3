"""Fault 23: bad requests, also by fuzzing, against a service that runs: 4xx with the field named, never a 500."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_parts import ROW, eventually, home, make_bundle, promote, serving, version_of

from flows import database
from flows.models.taxi.spec import spec
from flows.steps.prediction_log import read_predictions

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*ROW, "rows", "x"]), inner, max_size=5)
    ),
    max_leaves=15,
)
ALMOST = st.dictionaries(st.sampled_from([*ROW]), ANYTHING, min_size=1).map(lambda changes: ROW | changes)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A running service: its client, and the settings of its home."""
    folder = tmp_path_factory.mktemp("fault23")
    settings = home(folder / "home", follow_seconds=0.05)
    promote(database.connect(settings), folder / "bundle", make_bundle(folder / "bundle"), 1)
    with serving(settings) as client:
        eventually(lambda: version_of(client) == 1)
        yield client, settings


@settings(max_examples=150, deadline=None)
@given(ANYTHING | ALMOST | st.lists(ALMOST, max_size=3).map(lambda rows: {"rows": rows}))
def test_no_json_makes_it_fail(place, content):
    answer = place[0].post("/predict", content=json.dumps(content).encode())
    assert answer.status_code in (200, 422)
    if answer.status_code == 422:
        assert all(detail["loc"][0] == "body" and detail["msg"] for detail in answer.json()["detail"])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.dictionaries(st.sampled_from(["content-type", "content-encoding"]), st.sampled_from(
    ["gzip", "text/plain", "application/json; charset=utf-16", "multipart/form-data", ""])))  # fmt: skip
def test_no_bytes_make_it_fail(place, data, headers):
    assert place[0].post("/predict", content=data, headers=headers).status_code == 422


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"trip_distance": float("nan")}, "trip_distance"),
        ({"trip_distance": float("inf")}, "trip_distance"),
        ({"PULocationID": 10**400}, "PULocationID"),
        ({"PULocationID": 10**18}, "PULocationID"),
        ({"lpep_pickup_datetime": "0001-01-01T00:00:00+14:00"}, "lpep_pickup_datetime"),
        ({"more": {}}, "more"),
    ],
)
def test_the_field_is_named(change, field, place):
    answer = place[0].post("/predict", content=json.dumps(ROW | change).encode())
    assert answer.status_code == 422
    assert [detail["loc"] for detail in answer.json()["detail"]] == [["body", field]]


@pytest.mark.parametrize("data", [b"[" * 500_000, b'{"rows":' * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000])
def test_deep_nesting_is_a_422(data, place):
    assert place[0].post("/predict", content=data).status_code == 422


def test_a_huge_body_is_a_413_and_so_is_one_that_does_not_tell_its_length(place):
    assert place[0].post("/predict", content=b"[" * 2**21).status_code == 413
    assert place[0].post("/predict", content=(b"1" * 2**18 for _ in range(8))).status_code == 413


def test_an_unknown_zone_is_answered_and_flagged(place):
    found = place[0].post("/predict", json=ROW | {"PULocationID": 9999})
    assert (found.status_code, found.json()["predictions"][0]["unknown"]) == (200, ["pickup_zone"])


def test_bad_requests_are_counted_and_leave_no_trace_in_the_log(place):
    client, settings = place
    before = client.get("/readyz").json()["requests"]
    logged = read_predictions(settings, spec).num_rows
    assert client.post("/predict", json=ROW | {"trip_distance": -1}).status_code == 422
    after = client.get("/readyz").json()["requests"]
    assert after == before | {"bad": before["bad"] + 1}
    assert after["failed"] == 0
    assert read_predictions(settings, spec).num_rows == logged == after["rows"]
