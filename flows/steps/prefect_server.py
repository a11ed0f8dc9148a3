"""The Prefect server of a home: found if one is configured or running, else started for as long as it is needed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from flows.errors import UnavailableError
from flows.settings import Settings
from flows.steps.files import write_text
from flows.steps.processes import free_port, stop

START_SECONDS = 90.0


def is_healthy(api_url: str) -> bool:
    """Say whether a Prefect API answers at ``api_url`` within 2 s."""
    import httpx

    try:
        return httpx.get(f"{api_url}/health", timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


def running(settings: Settings) -> str | None:
    """Return the API URL of the server that runs for this home, if one answers.

    A record that a killed process left behind counts for nothing: its port may be that of another home by now.
    """
    import psutil

    try:
        known = json.loads(_record(settings).read_text())
    except (OSError, ValueError):
        return None
    return known["api_url"] if psutil.pid_exists(known["pid"]) and is_healthy(known["api_url"]) else None


@contextlib.contextmanager
def prefect_server(settings: Settings, port: int | None = None) -> Iterator[str]:
    """Yield the API URL of a Prefect server and set it in the environment.

    The one that ``PREFECT_API_URL`` names is used if set, else the one that runs for the home, else one is started on
    a free port and stopped at the end. Raises UnavailableError if it does not answer within 90 s.
    """
    api_url = os.environ.get("PREFECT_API_URL") or running(settings)
    if api_url:
        yield _use(api_url)
        return
    process, api_url = start(settings, port or free_port())
    try:
        yield _use(api_url)
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        stop(process)
        remove_record(settings)


def start(settings: Settings, port: int) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server on the loopback interface and wait until it answers; it logs into the home's ``prefect/server.log``."""
    settings.prefect_home.mkdir(parents=True, exist_ok=True)
    api_url = f"http://127.0.0.1:{port}/api"
    environment = os.environ | settings.environment() | {
        # The UI asks this address for its data; without it, it would ask port 4200.
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_UI_API_URL": api_url,
    }  # fmt: skip
    environment.pop("PREFECT_API_URL", None)
    log = settings.prefect_home / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=environment, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches us first; we stop it in order
        )  # fmt: skip
    deadline = time.monotonic() + START_SECONDS
    try:
        while not is_healthy(api_url):
            if process.poll() is not None:
                raise UnavailableError(f"the Prefect server ended with status {process.returncode}; see {log}")
            if time.monotonic() > deadline:
                raise UnavailableError(f"the Prefect server did not answer within {START_SECONDS:.0f} s; see {log}")
            time.sleep(0.2)
    except BaseException:
        stop(process)
        raise
    record_server(settings, api_url, process.pid)
    return process, api_url


def record_server(settings: Settings, api_url: str, pid: int) -> None:
    """Record where the home's server is, and the process with which it ends."""
    settings.prefect_home.mkdir(parents=True, exist_ok=True)
    write_text(_record(settings), json.dumps({"api_url": api_url, "pid": pid}))


def remove_record(settings: Settings) -> None:
    """Record that the home has no server any more."""
    _record(settings).unlink(missing_ok=True)


def _use(api_url: str) -> str:
    os.environ["PREFECT_API_URL"] = api_url
    return api_url


def _record(settings: Settings) -> Path:
    return settings.prefect_home / "server.json"
