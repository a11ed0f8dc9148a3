"""The smoke test of a running prediction service: its contract, a prediction, a refusal, and a while of load."""

from __future__ import annotations

import threading
import time
from typing import Any

from flows.errors import RefusedError, UnavailableError
from flows.spec import ModelSpec

CLIENTS = 4


def smoke(url: str, spec: ModelSpec, seconds: float, p99_ms: float, key: str = "") -> dict[str, Any]:
    """Return what a service said under load for some seconds; raises RefusedError naming the first thing that is wrong.

    Nothing may fail under load, and 99 of 100 answers come within ``p99_ms``. Raises UnavailableError if it is not ready.
    """
    import httpx

    headers = {"X-API-Key": key} if key else {}
    row = {field.name: field.example for field in spec.request}
    with httpx.Client(base_url=url, headers=headers, timeout=10.0) as client:
        try:
            ready = client.get("/readyz")
            page = client.get("/openapi.json")
            answer = client.post("/predict", json={"rows": [row]})
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
    if not 400 <= refusal.status_code < 500:
        raise RefusedError(f"{url}/predict answered a row of nothing with {refusal.status_code}, not with a 4xx")
    times, failures = _load(url, {"rows": [row]}, headers, seconds)
    p99 = sorted(times)[min(len(times) - 1, len(times) * 99 // 100)] * 1000 if times else float("inf")
    if failures:
        raise RefusedError(
            f"{url}: {len(failures)} of {len(times) + len(failures)} requests failed, first: {failures[0]}"
        )
    if p99 > p99_ms:
        raise RefusedError(f"{url}: the 99th percentile under load is {p99:.1f} ms, more than {p99_ms:.0f} ms")
    return {"url": url, "version": said["version"], "requests": len(times), "failed": 0, "p99_ms": round(p99, 2)}


def _load(url: str, body: Any, headers: dict[str, str], seconds: float) -> tuple[list[float], list[str]]:
    """Ask from several clients at once, and return seconds of each answer and what failed."""
    import httpx

    times: list[float] = []
    failures: list[str] = []
    end = time.monotonic() + seconds

    def ask() -> None:
        with httpx.Client(base_url=url, headers=headers, timeout=10.0) as client:
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
