"""The servers of a team for the tests, private and on free ports: Debian's Postgres and Redis, and moto's S3."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from serving_parts import eventually

from flows.steps.processes import free_port

PASSWORD = "Pg-secret-4711"
PATIENCE_SECONDS = 60


def missing(what: str) -> None:
    """Skip a test with the reason, or fail it where the services are required."""
    if os.environ.get("EVERGREEN_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{what} and EVERGREEN_REQUIRE_SERVICES=1")
    pytest.skip(what)


class Postgres:
    """A cluster of our own on loopback, as the user ``evergreen`` with a password; root lends it to ``postgres``."""

    def __init__(self, folder: Path) -> None:
        found = shutil.which("initdb") or next(
            iter(sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))[::-1]), None
        )
        if found is None:
            missing("Postgres is not installed (Debian package postgresql)")
            raise AssertionError
        self.programs = Path(found).parent
        self.data = folder / "data"
        self.port = free_port()
        self._user: dict[str, str] = {}
        if os.geteuid() == 0:  # which Postgres refuses to run as
            try:
                owner = pwd.getpwnam("postgres")
            except KeyError:
                missing("Postgres refuses to run as root, and there is no user postgres to lend it to")
                raise
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            self._user = {"user": "postgres"}
        word = folder / "password"
        word.write_text(PASSWORD)
        word.chmod(0o644)
        self._run(
            "initdb", "-D", str(self.data), "-U", "evergreen", "--auth=scram-sha-256", f"--pwfile={word}", "-E", "UTF8"
        )
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(
                f"\nlisten_addresses = '127.0.0.1'\nport = {self.port}\nunix_socket_directories = ''\nfsync = off\n"
                "max_connections = 200\n"
            )
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self.programs / program), *arguments], capture_output=True, text=True, check=False, cwd="/",
            timeout=PATIENCE_SECONDS, stdin=subprocess.DEVNULL, **self._user,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "-l", str(self.data / "log"), "start")

    def stop(self) -> None:
        """Stop the server at once, its sessions ended."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", "fast", "stop")

    def url(self, database: str, driver: str = "psycopg") -> str:
        """Return the SQLAlchemy URL of a database, which is made if it is not there."""
        import psycopg

        where = f"host=127.0.0.1 port={self.port} user=evergreen password={PASSWORD} dbname=postgres"
        with psycopg.connect(where, autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone():
                connection.execute(f'CREATE DATABASE "{database}"'.encode())
        return f"postgresql+{driver}://evergreen:{PASSWORD}@127.0.0.1:{self.port}/{database}"


@contextmanager
def postgres_server(folder: Path) -> Iterator[Postgres]:
    """Run a cluster in a folder for as long as the block runs."""
    server = Postgres(folder)
    try:
        yield server
    finally:
        server.stop()


@dataclass
class Redis:
    """A Redis server of our own that keeps nothing; with a password if one is given."""

    folder: Path
    password: str = ""
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        if shutil.which("redis-server") is None:
            missing("redis-server is not installed (Debian package redis-server)")
        settings = f"port {self.port}\nbind 127.0.0.1\nsave ''\n"
        settings += f"requirepass {self.password}\n" if self.password else ""
        self.process = subprocess.Popen(
            ["redis-server", "-"], cwd=self.folder, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        assert self.process.stdin
        self.process.stdin.write(settings.encode())
        self.process.stdin.close()
        eventually(self._answers, PATIENCE_SECONDS)

    def _answers(self) -> bool:
        import redis

        try:
            return bool(redis.Redis.from_url(self.url).ping())
        except redis.ConnectionError:
            return False

    @property
    def url(self) -> str:
        """Return its address."""
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        """Stop the server; what it held is gone."""
        if self.process:
            self.process.terminate()
            self.process.wait(timeout=20)


@contextmanager
def redis_server(folder: Path, password: str = "") -> Iterator[Redis]:
    """Run a Redis server for as long as the block runs."""
    server = Redis(folder, password)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Run moto's S3 server and give its address; what it holds is in its memory."""
    port = free_port()
    log = (folder / "moto.log").open("ab")
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: answers(f"{url}/moto-api/"), PATIENCE_SECONDS)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=20)
        log.close()


def answers(url: str) -> bool:
    """Say whether something answers at an address."""
    import httpx

    try:
        return httpx.get(url, timeout=2).status_code < 500
    except httpx.HTTPError:
        return False
