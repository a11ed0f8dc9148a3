"""The prediction service seen from outside: where it runs, how it is started, what it answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from flows.errors import UnavailableError
from flows.settings import Settings
from flows.steps.processes import stop

START_SECONDS = 120.0


def command(
    settings: Settings, model: str, host: str | None = None, port: int | None = None, workers: int | None = None
) -> list[str]:
    """Return the command that serves a model."""
    arguments = [sys.executable, "-m", "deployments.service", "--model", model, "--home", str(settings.home)]
    arguments += ["--host", host] if host else []
    arguments += ["--workers", str(workers)] if workers is not None else []
    return arguments + (["--port", str(port)] if port is not None else [])


def find(settings: Settings, model: str) -> dict[str, Any] | None:
    """Return where the home's service for a model listens and whether it is ready, or None if none answers."""
    import httpx

    try:
        known: dict[str, Any] = json.loads((settings.home / f"service-{model}.json").read_bytes())
        answer = httpx.get(f"{known['url']}/readyz", timeout=2.0)
    except (OSError, ValueError, KeyError, httpx.HTTPError):
        return None
    return {**known, "ready": answer.status_code == 200, "version": answer.json().get("version")}


def start(settings: Settings, model: str) -> subprocess.Popen[bytes]:
    """Start the service on a free port and wait until it is ready; it logs into the home's ``service.log``.

    Raises UnavailableError if it is not ready within two minutes.
    """
    log = settings.home / "service.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command(settings, model, port=0), env=os.environ | settings.environment(), stdout=output,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            found = find(settings, model)
            if found and found["pid"] == process.pid and found["ready"]:
                return process
            if process.poll() is not None or time.monotonic() > deadline:
                raise UnavailableError(
                    f"the prediction service did not become ready within {START_SECONDS:.0f} s; see {log}"
                )
            time.sleep(0.05)
    except BaseException:
        stop(process)
        raise


def predict(url: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Ask a running service for predictions of some rows; raises UnavailableError if it does not give them."""
    import httpx

    try:
        answer = httpx.post(f"{url}/predict", json={"rows": list(rows)}, timeout=30.0, headers=_key())
    except httpx.HTTPError as error:
        raise UnavailableError(f"{url} does not answer ({type(error).__name__})") from error
    if answer.status_code != 200:
        raise UnavailableError(f"{url}/predict answered {answer.status_code}: {answer.text[:300]}")
    found: dict[str, Any] = answer.json()
    return found


def first_answer(url: str, version: int, patience: float) -> datetime | None:
    """Return when a service first named a version, in UTC, or None if it did not within ``patience`` seconds."""
    import httpx

    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if httpx.get(f"{url}/readyz", timeout=5.0).json().get("version") == version:
            return datetime.now(UTC)
        time.sleep(0.02)
    return None


def _key() -> dict[str, str]:
    """Return the header that shows the API key, if this installation has one."""
    key = Settings().service_api_key.get_secret_value()
    return {"X-API-Key": key} if key else {}
