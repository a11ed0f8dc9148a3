"""What the smoke test asks, and what it says of a service that is not there behind its proxy."""

import json

import httpx
import pytest

from deployments.service.guard import SANE_ID
from flows.errors import RefusedError, UnavailableError
from flows.models.taxi.spec import spec
from flows.steps.prediction_log import SMOKE
from flows.steps.smoke import BATCH, BATCH_BYTES, smoke

SLOW = 60_000  # ms: how fast a service that is none answers is not asked


def behind(monkeypatch, answer):
    """Have this answer what is asked over HTTP."""
    client = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **options: client(transport=httpx.MockTransport(answer), **options))


def serves(asked, most=1000):
    """Return a service that notes what it is asked and answers requests of at most so many rows."""

    def answer(request):
        asked.append(request)
        if request.url.path != "/predict":
            return httpx.Response(200, json={"paths": {"/predict": {}}})
        rows = json.loads(request.content)["rows"]
        if None in rows[0].values():
            return httpx.Response(422)
        if len(rows) > most:
            return httpx.Response(413, text="too many")
        return httpx.Response(200, json={"predictions": [1.0] * len(rows), "version": 1})

    return answer


def test_each_request_is_named_as_one_of_a_smoke_test_and_one_has_many_rows(monkeypatch):
    asked = []
    behind(monkeypatch, serves(asked))
    assert smoke("http://service", spec, 2.0, SLOW)["requests"] > 0
    ids = [request.headers["x-request-id"] for request in asked]
    assert all(one.startswith(SMOKE) and SANE_ID.fullmatch(one.encode()) for one in ids)
    assert len(set(ids)) == len(ids)
    assert max(len(json.loads(one.content)["rows"]) for one in asked if one.content) == BATCH


def test_a_service_that_answers_no_request_of_many_rows_is_refused(monkeypatch):
    behind(monkeypatch, serves([], most=100))
    with pytest.raises(RefusedError, match=r"answered 500 rows with 413: too many"):
        smoke("http://service", spec, 2.0, SLOW)


def test_long_rows_are_asked_in_a_request_that_a_service_takes(monkeypatch):
    asked = []
    behind(monkeypatch, serves(asked))
    long = spec.request[0].model_copy(update={"example": "x" * 100_000})
    smoke("http://service", spec.model_copy(update={"request": (long,)}), 2.0, SLOW)
    sizes = [len(request.content) for request in asked]
    assert 200_000 < max(sizes) < BATCH_BYTES


def test_a_proxy_without_a_service_behind_it_is_told_as_not_ready(monkeypatch):
    behind(monkeypatch, lambda _: httpx.Response(502, html="<h1>502 Bad Gateway</h1>"))
    with pytest.raises(UnavailableError, match=r"http://proxy is not ready \(502\)"):
        smoke("http://proxy", spec, 0.1, 250)
