"""A team's installation for the tests: Postgres, Redis, S3, MLflow and Prefect with authentication, and hosts that use it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services_parts import PASSWORD, Postgres, Redis, answers, redis_server
from serving_parts import eventually
from training_parts import QUICK, TESTS

from flows.settings import Settings
from flows.steps.processes import free_port, stop

BUCKET = "evergreen"
# Every secret of the installation: none of them may be found in what it writes.
SECRETS = {
    "postgres": PASSWORD,
    "redis": "Redis-secret-4712",
    "mlflow": "Mlflow-secret-4713",
    "mlflow forms": "Forms-secret-4714",
    "prefect": "Prefect-secret-4715",
    "s3": "S3-secret-key-4716",
    "service": "Service-secret-4717",
}


@dataclass
class Team:
    """An installation: the environment of each of its hosts, and the servers of which tests stop one or another."""

    name: str
    environment: dict[str, str]
    postgres: Postgres
    redis: Redis
    folder: Path

    @contextmanager
    def host(self, folder: Path, more: Mapping[str, str] | None = None) -> Iterator[Settings]:
        """Make this process a host of the installation, with a home of its own; the environment is as before afterwards."""
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

        before = dict(os.environ)
        os.environ.update(self.environment | {"EVERGREEN_HOME": str(folder)} | dict(more or {}))
        known = {
            PREFECT_API_URL: os.environ.get("PREFECT_API_URL"),
            PREFECT_API_AUTH_STRING: os.environ.get("PREFECT_API_AUTH_STRING"),
        }
        try:
            with temporary_settings({name: value for name, value in known.items() if value}):
                yield Settings().activate()
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def stores(folder: Path, postgres: Postgres, s3: str, name: str = "team") -> Iterator[Team]:
    """Give the stores of an installation: databases, Redis and a bucket; MLflow is used on its database directly."""
    access = {
        "AWS_ENDPOINT_URL": s3, "AWS_ACCESS_KEY_ID": "evergreen", "AWS_SECRET_ACCESS_KEY": SECRETS["s3"],
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    client(s3).create_bucket(Bucket=BUCKET)
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    environment = access | {
        "EVERGREEN_PROFILE": "team",
        "EVERGREEN_LEDGER_URL": postgres.url(f"{name}-ledger"),
        "EVERGREEN_MLFLOW_TRACKING_URI": postgres.url(f"{name}-mlflow"),
        "EVERGREEN_FEATURE_REGISTRY_URL": postgres.url(f"{name}-feast"),
        "EVERGREEN_STORAGE_URL": f"s3://{BUCKET}/{name}",
        "EVERGREEN_MODEL_PACKAGES": QUICK,
        "PYTHONPATH": path,
    }
    with redis_server(folder, SECRETS["redis"]) as redis:
        yield Team(name, environment | {"EVERGREEN_ONLINE_STORE_URL": redis.url}, postgres, redis, folder)


@contextmanager
def mlflow_server(team: Team) -> Iterator[None]:
    """Run MLflow's server with authentication on the team's database, as compose.yaml does, and let the hosts use it."""
    port, folder = free_port(), team.folder / "mlflow"
    folder.mkdir()
    environment = os.environ | team.environment | {
        "MLFLOW_BACKEND_STORE_URI": team.environment["EVERGREEN_MLFLOW_TRACKING_URI"],
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin", "MLFLOW_AUTH_ADMIN_PASSWORD": SECRETS["mlflow"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": SECRETS["mlflow forms"], "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    command = [
        sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--default-artifact-root", f"{team.environment['EVERGREEN_STORAGE_URL']}/artifacts",
        "--no-serve-artifacts",
    ]  # fmt: skip
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: server.poll() is not None or answers(f"{url}/health"), 120)
        assert server.poll() is None, (folder / "server.log").read_text()[-2000:]
        team.environment |= {
            "EVERGREEN_MLFLOW_TRACKING_URI": url, "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": SECRETS["mlflow"],
        }  # fmt: skip
        yield
    finally:
        stop(server)


def prefect_on_servers(team: Team) -> dict[str, str]:
    """Return the settings of Prefect's server with authentication on Postgres and Redis, as compose.yaml has them."""
    return {
        "PREFECT_MESSAGING_BROKER": "prefect_redis.messaging", "PREFECT_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
        "PREFECT_REDIS_MESSAGING_HOST": "127.0.0.1", "PREFECT_REDIS_MESSAGING_PORT": str(team.redis.port),
        "PREFECT_REDIS_MESSAGING_PASSWORD": SECRETS["redis"],
        "PREFECT_API_DATABASE_CONNECTION_URL": team.postgres.url(f"{team.name}-prefect", "asyncpg"),
        "PREFECT_SERVER_API_AUTH_STRING": f"admin:{SECRETS['prefect']}",
        "PREFECT_API_AUTH_STRING": f"admin:{SECRETS['prefect']}",
    }  # fmt: skip


@contextmanager
def prefect_server(team: Team) -> Iterator[None]:
    """Run Prefect's server on the team's servers, and let the hosts use it."""
    from flows.steps.prefect_server import start

    before, on_servers = dict(os.environ), prefect_on_servers(team)
    os.environ.update(on_servers)
    try:
        process, url = start(Settings(home=team.folder / "prefect"), free_port())
    finally:
        os.environ.clear()
        os.environ.update(before)
    team.environment |= {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": on_servers["PREFECT_API_AUTH_STRING"]}
    try:
        yield
    finally:
        stop(process)


def holders_of_secrets(*folders: Path) -> list[str]:
    """Return each file below some folders that holds a secret of the installation, and which."""
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                found += [f"{path}: {name}" for name, word in SECRETS.items() if word.encode() in content]
    return found


def objects(team: Team) -> dict[str, bytes]:
    """Return all objects of the team's bucket."""
    bucket = client(team.environment["AWS_ENDPOINT_URL"])
    pages = bucket.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    keys = [one["Key"] for page in pages for one in page.get("Contents", [])]
    return {key: bucket.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


def client(s3: str) -> Any:
    """Return a client of the S3 server."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=s3,
        aws_access_key_id="evergreen",
        aws_secret_access_key=SECRETS["s3"],
        region_name="us-east-1",
    )
