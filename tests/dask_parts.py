"""A Dask cluster for the tests: a scheduler on loopback and workers, each the process of a machine of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from services_parts import missing
from serving_parts import eventually

from flows.steps.processes import free_port, stop

PATIENCE_SECONDS = 60


@dataclass
class Cluster:
    """The address of a scheduler, its process, and those of its workers."""

    folder: Path
    url: str = ""
    scheduler: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Start the scheduler and wait until it listens."""
        port = free_port()
        self.url = f"tcp://127.0.0.1:{port}"
        self.scheduler = self._run("scheduler", {}, "--port", str(port), "--no-show")
        eventually(lambda: "Scheduler at" in self._log("scheduler"), PATIENCE_SECONDS)

    def add_worker(self, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start one more worker, without a nanny that would start it again, and wait until the scheduler has it."""
        name = f"worker-{len(self.workers)}"
        self.workers.append(
            self._run("worker", dict(environment or {}), self.url, "--nthreads", "1", "--no-nanny", log=name)
        )
        eventually(lambda: "Registered to" in self._log(name), PATIENCE_SECONDS)
        return self.workers[-1]

    def stop(self) -> None:
        """End all processes."""
        for process in [*self.workers, *([self.scheduler] if self.scheduler else [])]:
            stop(process)

    def _run(self, kind: str, environment: dict[str, str], *arguments: str, log: str = "") -> subprocess.Popen[bytes]:
        with (self.folder / f"{log or kind}.log").open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", kind, "--host", "127.0.0.1", "--no-dashboard", *arguments],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=os.environ | environment, cwd=self.folder,
            )  # fmt: skip

    def _log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Run a scheduler for as long as the block runs; skip where the extra is missing."""
    try:
        import prefect_dask  # noqa: F401 (is it there?)
    except ImportError:
        missing("prefect-dask is not installed (extra `dask`)")
    found = Cluster(folder)
    try:
        found.start()
        yield found
    finally:
        found.stop()
