"""The smoke test of a running prediction service: its contract, a prediction, a refusal, and a while of load."""

from __future__ import annotations

import json
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from flows.errors import RefusedError, UnavailableError
from flows.spec import ModelSpec
from flows.steps.prediction_log import SMOKE

if TYPE_CHECKING:
    import httpx

CLIENTS = 4
BATCH, BATCH_BYTES = 500, 2**19  # rows of one request of many, fewer where they are long


def smoke(url: str, spec: ModelSpec, seconds: float, p99_ms: float, key: str = "") -> dict[str, Any]:
    """Return what a service said under load for some seconds; raises RefusedError naming the first thing that is wrong.

    Nothing may fail under load, and 99 of 100 answers come within ``p99_ms``. What is asked has ids by which monitoring
    leaves it out. Raises UnavailableError if it is not ready.
    """
    import httpx

    row = {field.name: field.example for field in spec.request}
    many = max(2, min(BATCH, BATCH_BYTES // len(json.dumps(row))))
    with _client(url, key) as client:
        try:
            ready = client.get("/readyz")
            page = client.get("/openapi.json")
            answer = client.post("/predict", json={"rows": [row]})
            batch = client.post("/predict", json={"rows": [row] * many})
            refusal = client.post("/predict", json={"rows": [dict.fromkeys(row)]})
        except httpx.HTTPError as error:
            raise UnavailableError(f"{url} does not answer ({type(error).__name__}); is it started?") from error
    if ready.status_code != 200:
        raise UnavailableError(f"{url} is not ready ({ready.status_code}); its log says why")
    if "/predict" not in (page.json().get("paths", {}) if page.status_code == 200 else {}):
        raise RefusedError(
            f"{url}/openapi.json does not publish /predict; the image is not a prediction service of ours"
        )
    said = answer.json() if answer.status_code == 200 else {}
    if len(said.get("predictions", [])) != 1 or said.get("version") is None:
        raise RefusedError(f"{url}/predict answered its own example with {answer.status_code}: {answer.text[:200]}")
    if batch.status_code != 200 or len(batch.json().get("predictions", [])) != many:
        raise RefusedError(f"{url}/predict answered {many} rows with {batch.status_code}: {batch.text[:200]}")
    if not 400 <= refusal.status_code < 500:
        raise RefusedError(f"{url}/predict answered a row of nothing with {refusal.status_code}, not with a 4xx")
    times, failures = _load(url, {"rows": [row]}, key, seconds)
    p99 = sorted(times)[min(len(times) - 1, len(times) * 99 // 100)] * 1000 if times else float("inf")
    if failures:
        raise RefusedError(
            f"{url}: {len(failures)} of {len(times) + len(failures)} requests failed, first: {failures[0]}"
        )
    if p99 > p99_ms:
        raise RefusedError(f"{url}: the 99th percentile under load is {p99:.1f} ms, more than {p99_ms:.0f} ms")
    return {"url": url, "version": said["version"], "requests": len(times), "failed": 0, "p99_ms": round(p99, 2)}


def _client(url: str, key: str) -> httpx.Client:
    """Return a client each of whose requests has an id of a smoke test."""
    import httpx

    def name(request: httpx.Request) -> None:
        request.headers["X-Request-ID"] = f"{SMOKE}{uuid.uuid4().hex}"

    headers = {"X-API-Key": key} if key else {}
    return httpx.Client(base_url=url, headers=headers, timeout=10.0, event_hooks={"request": [name]})


def _load(url: str, body: Any, key: str, seconds: float) -> tuple[list[float], list[str]]:
    """Ask from several clients at once, and return seconds of each answer and what failed."""
    import httpx

    times: list[float] = []
    failures: list[str] = []
    end = time.monotonic() + seconds

    def ask() -> None:
        with _client(url, key) as client:
            while time.monotonic() < end:
                begun = time.perf_counter()
                try:
                    code = client.post("/predict", json=body).status_code
                except httpx.HTTPError as error:
                    failures.append(type(error).__name__)
                    continue
                if code == 200:
                    times.append(time.perf_counter() - begun)
                else:
                    failures.append(str(code))

    clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    return times, failures
