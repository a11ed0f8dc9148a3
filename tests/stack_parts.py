"""The local stack for tests: `evergreen up` as a person starts it, on free ports, and what its server knows of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from training_parts import QUICK, TESTS

from flows.steps.processes import free_port, stop

BIN = Path(sys.executable).parent


class Stack:
    """A stack that runs: its process, its home, its addresses."""

    def __init__(self, home: Path, packages: str = QUICK, servers: Mapping[str, str] | None = None) -> None:
        ports = [free_port() for _ in range(5)]
        names = ("PREFECT", "MLFLOW", "FEAST", "SERVICE", "DOCS")
        self.home = home
        self.landing = home / "landing" / "taxi"
        self.api = f"http://127.0.0.1:{ports[0]}/api"
        self.pages = [f"http://127.0.0.1:{port}" for port in ports[:3]]
        self.docs = f"http://127.0.0.1:{ports[4]}"
        self.service = f"http://127.0.0.1:{ports[3]}"
        path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
        self.servers = dict(servers or {})  # the settings of a team's installation, Prefect's among them
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {
            "EVERGREEN_HOME": str(home), "EVERGREEN_MODEL_PACKAGES": packages, "PYTHONPATH": path, "COLUMNS": "200",
            **{f"EVERGREEN_{name}_PORT": str(port) for name, port in zip(names, ports, strict=True)}, **self.servers,
        }  # fmt: skip
        self.log = home / "up.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until its worker is at work."""
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [BIN / "evergreen", "up"], env=self.environment, stdout=output, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.wait(self.works, 240)

    def works(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-4000:]
        try:
            workers = self.ask("work_pools/evergreen/workers/filter", {})
        except httpx.HTTPError:
            return False
        return any(one["status"] == "ONLINE" for one in workers)

    def interrupt(self) -> int:
        """Press Ctrl-C and return the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=30)

    def wait(self, ready: Callable[[], Any], seconds: float) -> Any:
        """Wait until ``ready`` returns something, and return it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = ready()
            if found:
                return found
            time.sleep(0.1)
        raise AssertionError(f"not within {seconds} s; the end of the log:\n{self.log.read_text()[-6000:]}")

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """Return what the server answers to a query."""
        return self.send("POST", path, body)

    def send(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the answer; the server says 503 while its SQLite is busy, and is asked again."""
        deadline = time.monotonic() + 60
        name, _, word = self.servers.get("PREFECT_API_AUTH_STRING", "").partition(":")
        while True:
            answer = httpx.request(
                method, f"{self.api}/{path}", json=body, timeout=30, auth=(name, word) if word else None
            )
            if answer.status_code != 503 or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """Return the runs of a flow that are not for later, oldest first."""
        body = {
            "flows": {"name": {"any_": [flow]}}, "flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}},
            "sort": "EXPECTED_START_TIME_ASC",
        }  # fmt: skip
        return self.ask("flow_runs/filter", body)

    def finished(self, flow: str, known: int, seconds: float = 300) -> list[dict[str, Any]]:
        """Wait until there are more than ``known`` runs of a flow and all have ended; return the new ones."""

        def ended() -> Any:
            new = self.runs(flow)[known:]
            return new if new and all(run["end_time"] for run in new) else None

        return self.wait(ended, seconds)

    def command(self, *arguments: str) -> str:
        """Run a command of ours, or Prefect's, against this stack and return what it prints."""
        done = subprocess.run(
            [BIN / arguments[0], *arguments[1:]], env=self.environment | {"PREFECT_API_URL": self.api}, text=True,
            capture_output=True, timeout=120, cwd=TESTS.parent, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@contextmanager
def stack(home: Path, packages: str = QUICK, servers: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Run a stack and end it, children included."""
    made = Stack(home, packages, servers)
    try:
        made.start()
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            stop(made.process)


def at(text: str) -> datetime:
    """Return a time that the server gave."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
