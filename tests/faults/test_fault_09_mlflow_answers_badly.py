"""Fault 9: MLflow answers 500, or not in time, while a run is logged. Tries are bounded; no half-logged run is promoted.

A real MLflow server stands behind a gate that passes so many writes on and then fails.
"""

import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from training_parts import artifact, copy_home, opened, trained

from flows.errors import RefusedError
from flows.lookup import load_model
from flows.settings import Settings
from flows.steps import promotion, registry, run_log
from flows.steps.lineage import Lineage
from flows.steps.processes import free_port, stop


class Gate(ThreadingHTTPServer):
    """Passes requests on to a server; once ``writes`` are through, ``failures`` of them fail."""

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.behind, self.writes, self.failures, self.slow, self.failed = behind, 10**9, 0, 0.0, 0

    def fails(self) -> bool:
        self.writes -= 1
        if self.writes >= 0 or self.failures <= 0:
            return False
        self.failures -= 1
        self.failed += 1
        return True


class Passing(BaseHTTPRequestHandler):
    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        write = self.command in ("POST", "PUT", "PATCH") and "search" not in self.path
        fails = write and self.server.fails()
        if fails and not self.server.slow:
            self.answer(500, b'{"error_code": "INTERNAL_ERROR", "message": "out of order"}')
            return
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in ("host", "content-length")
        }
        found = httpx.request(self.command, self.server.behind + self.path, content=body, headers=headers, timeout=60)
        if fails:  # MLflow obeys, and nobody hears of it
            time.sleep(self.server.slow)
        self.answer(found.status_code, found.content, found.headers.get("Content-Type", "application/json"))

    def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):  # who asked has gone
            self.wfile.write(body)

    def log_message(self, *arguments) -> None:
        """Say nothing."""


for verb in ("GET", "POST", "PUT", "PATCH", "DELETE"):
    setattr(Passing, f"do_{verb}", Passing.pass_on)


@contextmanager
def mlflow_server(home):
    """Run MLflow's server on the home's database."""

    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
         "--backend-store-uri", f"sqlite:///{home.home / 'mlflow.db'}",
         "--default-artifact-root", str(home.artifacts)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


@pytest.fixture(scope="module")
def place(tmp_path_factory, simulated_days, prefect_api):
    source = trained(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)
    with opened(tmp_path_factory.mktemp("mlflow") / "home", prefect_api) as home:
        copy_home(source, home)
        with mlflow_server(home) as url:
            gate = Gate(url)
            threading.Thread(target=gate.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{gate.server_port}"
            yield home, Settings(home=home.home, mlflow_tracking_uri=address), gate
            gate.shutdown()


@pytest.fixture
def impatient(monkeypatch):
    """Let MLflow's client wait a moment only, so that the test does not."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


def log(home, remote, folder):
    """Log version 1 again, as the work of this test."""
    first = registry.get_version(home, "taxi", 1)
    if not folder.exists():
        shutil.copytree(first.folder, folder / "bundle")
        (folder / "pictures").mkdir()
    lineage = Lineage.model_validate(artifact(home, first.run_id, "lineage.json"))
    found = run_log.log_run(
        remote, load_model("taxi", home), lineage=lineage, evidence=registry.read_evidence(first),
        bundle=folder / "bundle", pictures=folder / "pictures", metrics={"error": 1.0}, passed=True, digest=first.digest,
        work_key=folder.name,
    )  # fmt: skip
    return lineage, first, found


def attempts(home, key: str) -> list[str]:
    client = registry.open_client(home)
    experiment = client.get_experiment_by_name("taxi").experiment_id
    return sorted(run.info.status for run in client.search_runs([experiment], f"tags.`{registry.WORK}` = '{key}'"))


@pytest.mark.parametrize(("writes", "slow"), [(0, 0.0), (3, 0.0), (5, 0.0), (0, 3.0), (5, 3.0)])
def test_a_run_that_could_not_be_logged_whole_is_no_version_and_the_next_attempt_makes_one(
    place, impatient, tmp_path, writes, slow
):
    home, remote, gate = place
    before = {one.version for one in registry.versions(home, "taxi")}
    folder = tmp_path / f"work-{writes}-{slow}"
    gate.writes, gate.failures, gate.slow, gate.failed = writes, 10**9, slow, 0
    with pytest.raises(Exception, match=r"timed out|too many 500|Max retries"):
        log(home, remote, folder)
    assert 1 <= gate.failed <= 8  # it does not go on for ever
    assert {one.version for one in registry.versions(home, "taxi")} == before
    half = attempts(home, folder.name)

    gate.failures = 0
    lineage, first, found = log(home, remote, folder)
    now = attempts(home, folder.name)
    assert (now.count("FINISHED"), now.count("KILLED")) == (1, len(now) - 1)
    assert len(now) <= len(half) + 1
    assert log(home, remote, folder)[2] == found  # logged once, however often it is asked for
    made = registry.register(remote, load_model("taxi", home), lineage, *found, first.digest)
    assert promotion.check(home, made)["failed"] == []


def test_a_version_of_a_half_logged_run_cannot_be_promoted(place, impatient, tmp_path):
    home, remote, gate = place
    gate.writes, gate.failures, gate.slow = 3, 10**9, 0.0
    with pytest.raises(Exception):  # noqa: B017, PT011 (whatever MLflow makes of it)
        log(home, remote, tmp_path / "half")
    gate.failures = 0
    client = registry.open_client(home)
    (run,) = client.search_runs(
        [client.get_experiment_by_name("taxi").experiment_id], f"tags.`{registry.WORK}` = 'half'"
    )
    first = registry.get_version(home, "taxi", 1)
    made = client.create_model_version(
        "taxi", source=first.folder, run_id=run.info.run_id, tags={registry.DIGEST: first.digest}
    )
    with pytest.raises(RefusedError, match="run is running, not finished"):
        registry.get_version(home, "taxi", int(made.version))
    client.delete_model_version("taxi", made.version)
