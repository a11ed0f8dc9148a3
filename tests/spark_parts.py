"""A Spark cluster for the tests: a master and two workers of the pyspark wheel on loopback, each small."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psutil
from services_parts import missing
from serving_parts import eventually

from flows.settings import Settings
from flows.steps.processes import free_port, stop

PATIENCE_SECONDS = 120
SMALL = "spark.executor.memory 512m\nspark.driver.memory 512m\nspark.sql.shuffle.partitions 4\n"
DEPLOY = "org.apache.spark.deploy"


@dataclass
class Cluster:
    """A standalone cluster: the address of its master, and its workers' processes."""

    folder: Path
    url: str = ""
    master: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, workers: int = 2) -> None:
        """Start the master and its workers, and wait until they have found each other."""
        port = free_port()
        self.url = f"spark://127.0.0.1:{port}"
        self.master = self._java(f"{DEPLOY}.master.Master", "--port", str(port), "--webui-port", "0")
        eventually(lambda: "I have been elected leader" in self._log("master.Master"), PATIENCE_SECONDS)
        for _ in range(workers):
            self.add_worker()
        eventually(lambda: self._log("master.Master").count("Registering worker") == workers, PATIENCE_SECONDS)

    def settings(self, home: Path) -> Settings:
        """Return the settings of a home that computes on this cluster."""
        return Settings(home=home, compute_url=self.url)

    def add_worker(self) -> None:
        """Start one more worker of one core."""
        number = len(self.workers)
        self.workers.append(
            self._java(
                f"{DEPLOY}.worker.Worker", "--webui-port", "0", "--cores", "1", "--memory", "1g",
                "--work-dir", str(self.folder / f"work-{number}"), self.url, log=f"worker-{number}",
            )
        )  # fmt: skip

    def kill(self) -> list[int]:
        """Kill the newest worker with the executors below it, as if its machine were lost; returns the processes killed."""
        killed = psutil.Process(self.workers[-1].pid)
        # Executors of an application that has ended may be there as zombies.
        below = [one for one in killed.children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]
        family = [killed, *below]
        assert any("CoarseGrainedExecutorBackend" in " ".join(one.cmdline()) for one in family)
        for one in family:
            one.send_signal(signal.SIGKILL)
        self.workers[-1].wait(timeout=20)
        return [one.pid for one in family]

    def stop(self) -> None:
        """End all processes, the executors among them."""
        for process in [*self.workers, *([self.master] if self.master else [])]:
            stop(process)

    def _java(self, kind: str, *arguments: str, log: str = "") -> subprocess.Popen[bytes]:
        import pyspark

        home = Path(pyspark.__file__).parent
        environment = os.environ | {
            "SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m",
            "SPARK_LOCAL_DIRS": str(self.folder / "scratch"), "SPARK_NO_DAEMONIZE": "1",
        }  # fmt: skip
        with (self.folder / f"{log or kind.removeprefix(DEPLOY + '.')}.log").open("wb") as output:
            return subprocess.Popen(
                [str(home / "bin" / "spark-class"), kind, "--host", "127.0.0.1", *arguments],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment, cwd=self.folder,
            )  # fmt: skip

    def _log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")


def has_java() -> bool:
    """Say whether there is a Java to run Spark with."""
    return shutil.which("java") is not None or "JAVA_HOME" in os.environ


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Run a cluster for as long as the block runs; skip where pyspark or Java is missing."""
    if find_spec("pyspark") is None:
        missing("pyspark is not installed (uv run --extra spark pytest -m long)")
    if not has_java():
        missing("Java is not installed (Debian package openjdk-17-jre-headless)")
    found = Cluster(folder)
    (folder / "spark-defaults.conf").write_text(SMALL)
    before = os.environ.get("SPARK_CONF_DIR")
    os.environ["SPARK_CONF_DIR"] = str(folder)
    try:
        found.start()
        yield found
    finally:
        found.stop()
        os.environ.pop("SPARK_CONF_DIR")
        if before is not None:
            os.environ["SPARK_CONF_DIR"] = before
