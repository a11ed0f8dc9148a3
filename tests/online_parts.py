"""A small real feature store for tests of the service, and the service as a process of its own on it."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pyarrow as pa
from serving_parts import eventually

from flows.models.taxi.spec import spec
from flows.steps import feature_store
from flows.steps.files import write_parquet

ROOT = Path(__file__).resolve().parents[1]
TICK = datetime(2022, 1, 25, 5, tzinfo=UTC)  # midnight in New York
FEATURE_COLUMNS = (
    "trips_28d", "minutes_mean_28d", "minutes_median_28d", "minutes_q90_28d", "mph_mean_28d", "mph_median_28d",
    "minutes_mean_7d", "mph_mean_7d",
)  # fmt: skip


def write_features(settings, view, prefix, **keys):
    """Write the feature table of a view: one key, known since TICK."""
    times = {name: pa.array([TICK], pa.timestamp("us", "UTC")) for name in ("event_timestamp", "created_timestamp")}
    values = {f"{prefix}_{name}": [9 if name == "trips_28d" else 9.0] for name in FEATURE_COLUMNS}
    keyed = {name: [key] for name, key in keys.items()}
    write_parquet(pa.table(keyed | times | values), settings.features("taxi") / view / "0.parquet")


def make_online_store(settings):
    """Register and materialize features of pick-up zone 74 and drop-off zone 42."""
    write_features(settings, "pickup_zone", "pickup", PULocationID=74)
    write_features(settings, "dropoff_zone", "dropoff", DOLocationID=42)
    write_features(settings, "route", "route", PULocationID=1, DOLocationID=1)
    feature_store.apply_definitions(settings, spec)
    feature_store.materialize(settings, spec, TICK - timedelta(days=1), TICK + timedelta(seconds=1))


def launch(settings, *arguments, output=subprocess.PIPE):
    """Start the service's process on a home; ``arguments`` are added to its command.

    A pipe that nobody reads stops a process that logs much: give such a one another ``output``.
    """
    command = [sys.executable, "-m", "deployments.service", "--home", str(settings.home), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=output, stdout=output, text=True)


def record(settings, process):
    """Wait for the record of a process and return it."""
    path = settings.home / "service-taxi.json"

    def mine():
        assert process.poll() is None, process.stderr.read()
        found = json.loads(path.read_text()) if path.exists() else {}
        return found if found.get("pid") == process.pid else None

    return eventually(mine, 60)


def ready(url):
    """Wait until a service is ready."""
    eventually(lambda: httpx.get(f"{url}/readyz", timeout=30).status_code == 200, 120)
