"""Fault 23, against the process that serves: every route of the OpenAPI page fuzzed, a thousand malformed bodies.

No 500, each malformed body a 4xx with a reason, and the memory of the service stays as it was.
"""

import gzip
import json
import os
import socket
import subprocess
import time

import httpx
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import FailedHealthCheck, Unsatisfiable
from online_parts import launch, make_online_store, ready, record
from schemathesis.generation import GenerationMode
from serving_parts import FEATURES, ROW, home, make_bundle, promote

from deployments.service.protocol import HEAD_SECONDS
from flows import database

MOST_GROWTH = 48 * 2**20  # of resident memory; a body of 100 MB that was kept would show
QUIET = settings(
    deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
READY = dict.fromkeys(FEATURES, 1.0)
TENSORS = [{"name": name, "shape": [1], "datatype": "FP64", "data": [1.0]} for name in FEATURES]
GOOD = {"/predict": ROW, "/invocations": {"instances": [READY]}, "/v2/models/taxi/infer": {"inputs": TENSORS}}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The running service: URL and process."""
    place = home(tmp_path_factory.mktemp("home"), follow_seconds=0.2)
    make_online_store(place)
    promote(database.connect(place), place.home / "one", make_bundle(place.home / "one"), 1)
    process = launch(place, "--port", "0", output=subprocess.DEVNULL)
    try:
        url = record(place, process)["url"]
        ready(url)
        with httpx.Client(base_url=url, timeout=60) as client:
            for _ in range(200):  # warm: what is loaded once is no growth
                for path, content in GOOD.items():
                    assert client.post(path, json=content).status_code == 200
            yield client, psutil.Process(process.pid)
    finally:
        process.kill()
        process.communicate()


WRONG = st.sampled_from([None, [], {}, True, [[1, 2]], {"a": 1}, "", "no", "é" * 2000, -(10**400), 10**400, 1e308 * 10])
NUMBERS = st.sampled_from(["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "1" + "0" * 400])


def in_place_of_a_number(text):
    """Return a good body of each route with a number that is none in the place of one."""
    hole = json.dumps("hole")
    predict = json.dumps(ROW | {"trip_distance": "hole"}).replace(hole, text)
    ready = json.dumps({"instances": [READY | {"hour": "hole"}]}).replace(hole, text if text != "NaN" else "Infinity")
    tensors = [TENSORS[0] | {"data": ["hole"]}, *TENSORS[1:]]
    infer = json.dumps({"inputs": tensors}).replace(hole, text if text != "NaN" else "Infinity")
    return {"/predict": predict, "/invocations": ready, "/v2/models/taxi/infer": infer}


@st.composite
def malformed(draw):
    """Return a route and a body that is wrong: its types, numbers, depth, encoding, or form."""
    path = draw(st.sampled_from([*GOOD]))
    good = json.dumps(GOOD[path]).encode()
    kind = draw(st.sampled_from(["type", "number", "deep", "encoding", "cut", "noise", "field", "json"]))
    if kind == "type":
        wrong = {
            "/predict": ROW | {draw(st.sampled_from([*ROW])): draw(WRONG)},
            "/invocations": {
                draw(st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs"])): draw(WRONG)
            },
            "/v2/models/taxi/infer": {"inputs": [TENSORS[0] | {"data": draw(WRONG)}, *TENSORS[1:]]},
        }
        return path, json.dumps(wrong[path]).encode()
    if kind == "number":
        return path, in_place_of_a_number(draw(NUMBERS))[path].encode()
    if kind == "deep":
        depth = draw(st.sampled_from([200, 2000, 100_000]))
        opening = draw(st.sampled_from([b"[", b'{"rows":', b'{"inputs":', b'{"instances":[']))
        return path, opening * depth + draw(st.sampled_from([b"", b"1", b"]" * depth]))
    if kind == "encoding":
        made = [good.decode().encode("utf-16"), good.decode().encode("utf-32"), gzip.compress(good), b"\xff" + good]
        return path, draw(st.sampled_from(made))
    if kind == "cut":
        return path, good[: draw(st.integers(0, len(good) - 1))]
    if kind == "noise":
        return path, draw(st.binary(max_size=300))
    if kind == "field":
        return "/predict", json.dumps(ROW | {draw(st.text(min_size=1, max_size=200)) + "?": 1}).encode()
    scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
    return path, json.dumps(draw(st.lists(scalars, max_size=4) | scalars)).encode()


def reason(answer):
    """Return what the answer says is wrong, whatever the protocol."""
    content = answer.json()
    return content.get("detail") or content.get("message") or content.get("error")


def test_a_thousand_malformed_bodies_are_a_4xx_with_a_reason_and_leave_the_memory_flat(service):
    client, process = service
    before = process.memory_info().rss
    asked = []

    @settings(QUIET, max_examples=1000)
    @given(malformed())
    def ask(case):
        path, body = case
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
        assert 400 <= answer.status_code < 500, (path, body[:200], answer.text)
        assert reason(answer)
        asked.append(path)

    ask()
    assert len(asked) >= 1000
    assert {*asked} == {*GOOD}
    assert process.memory_info().rss - before < MOST_GROWTH


@pytest.mark.parametrize("path", GOOD)
def test_a_hundred_megabytes_are_a_413_and_are_not_kept(path, service):
    client, process = service
    before = process.memory_info().rss
    for body in (b"[" * 10**8, (b"1" * 2**20 for _ in range(100))):
        answer = client.post(path, content=body)
        assert answer.status_code == 413
        assert "larger than" in reason(answer)
    assert process.memory_info().rss - before < MOST_GROWTH
    assert client.post(path, json=GOOD[path]).status_code == 200


def test_what_is_no_http_at_all_is_dropped_and_hurts_nobody(service):
    client, _ = service
    address = (client.base_url.host, client.base_url.port)
    broken = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(200),  # a TLS greeting
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 200_000,
    ]
    for data in broken:
        with socket.create_connection(address, timeout=5) as connection:
            connection.sendall(data)
    assert client.get("/healthz").status_code == 200


def test_a_head_without_end_is_refused_and_not_kept(service):
    client, process = service
    before = process.memory_info().rss
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=20) as connection:
        connection.sendall(b"GET /predict HTTP/1.1\r\nHost: a\r\nX-More: ")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            connection.sendall(b"a" * 2**25)
    assert process.memory_info().rss - before < 2**23
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("said", "dripped"), [(b"", b""), (b"GET /predict HTTP/1.1\r\nHost: a\r\n", b"X: a\r\n"), (b"\r\n", b"\r\n")]
)
def test_a_client_that_never_asks_keeps_no_connection(said, dripped, service):
    client, _ = service
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=1) as connection:
        connection.sendall(said)
        begun, is_held = time.monotonic(), True
        while is_held and time.monotonic() - begun < 2 * HEAD_SECONDS:
            try:
                connection.sendall(dripped)
                is_held = bool(connection.recv(1))
            except TimeoutError:
                continue  # it may go on
            except OSError:
                is_held = False
    assert not is_held


def test_no_route_of_the_openapi_page_answers_500(service):
    client, _ = service
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    asked = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(QUIET, max_examples=20 if operation.method == "post" else 5)
            @given(operation.as_strategy(generation_mode=mode))
            def ask(case):
                answer = case.call(base_url=str(client.base_url), timeout=60)
                assert answer.status_code != 500, (case.method, case.path, case.body)
                asked.add((case.method.lower(), case.path))

            try:
                ask()
            except (Unsatisfiable, FailedHealthCheck):  # a route that takes nothing cannot be asked wrongly
                assert mode is GenerationMode.NEGATIVE
    routes = {(method, path) for path, methods in schema.raw_schema["paths"].items() for method in methods}
    assert asked == routes
