"""Small real models for the tests of bundle, prediction log and service: fitted, saved and promoted in a moment."""

import io
import json
import time
import zipfile
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa

from flows import ledger
from flows.models.taxi.spec import spec
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps.bundling import save_bundle
from flows.steps.feature_store import OnlineRows
from flows.steps.training_set import TrainingSet, Window, matrix, read_part, write_training_set

FEATURES = ["hour", "distance_miles", "pickup_minutes_mean_28d"]
START = datetime(2022, 1, 1, tzinfo=UTC)


def training_set(folder: Path, rows: int = 600, classes: bool = False, text: bool = False) -> TrainingSet:
    """Write a training set of three numeric features, one with missing values; minutes, or three classes of them."""
    rng = np.random.default_rng(0)
    distance = rng.gamma(2.0, 1.5, rows)
    recent = np.where(rng.random(rows) < 0.1, np.nan, rng.normal(12, 3, rows))
    minutes = 4 * distance + np.nan_to_num(recent, nan=12) / 2 + rng.normal(0, 1, rows)
    label = np.array(["short", "middle", "long"])[np.digitize(minutes, [10, 20])] if classes else minutes
    columns = {
        "hour": rng.uniform(0, 24, rows),
        "distance_miles": distance,
        "pickup_minutes_mean_28d": pa.array(recent, from_pandas=True),
        "event_timestamp": pa.array([START + timedelta(minutes=n) for n in range(rows)], pa.timestamp("us", "UTC")),
        "label": label,
        "part": ["train"] * (rows - 100) + ["judge"] * 100,
    }
    features = FEATURES
    if text:
        columns["zone"] = pa.array([None if n % 9 == 0 else "north" if n % 2 else "south" for n in range(rows)])
        features = [*FEATURES, "zone"]
    window = Window(start=START, split=START, end=START + timedelta(days=9), partition_ids=(1,))
    return write_training_set(pa.table(columns), features, window, folder)


def fitted(estimator, data: TrainingSet):
    """Return the estimator, fitted on the training part by one thread: it is small, and others need the cores."""
    from threadpoolctl import threadpool_limits

    rows = read_part(data, "train")
    with threadpool_limits(limits=1):
        return estimator.fit(matrix(rows, data.features), rows["label"].to_numpy())


def make_bundle(folder: Path, estimator=None, spec: ModelSpec = spec, **shape) -> str:
    """Fit, save, and return the digest of a bundle; a small HistGradientBoosting by default."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    data = training_set(folder / "data", **shape)
    if estimator is None:
        estimator = HistGradientBoostingRegressor(max_iter=20, random_state=0)
    return save_bundle(spec, fitted(estimator, data), data, folder)


def promote(engine, folder: Path, digest: str, version: int, kind: str = "promote") -> ledger.Promotion:
    """Make a bundle the champion, as the promotion flow does."""
    return ledger.promote(
        engine, model=spec.name, expected=ledger.champion(engine, spec.name), kind=kind, version=version,
        run_id=f"run-{version}", model_uri=str(folder), digest=digest, who="tests", why=f"version {version}",
        evidence={"metrics": {"rmse": 1.0 + version}},
    )  # fmt: skip


ROW = {"lpep_pickup_datetime": "2022-01-25T08:30:00", "PULocationID": 74, "DOLocationID": 42, "trip_distance": 2.4}
KNOWN_ZONES = {74: 11.0, 75: 14.0}  # mean minutes of the pick-up zones that the reader below knows


def read_features(names, rows):
    """Stand in for the feature store: FEATURES of some rows, a zone that is not in KNOWN_ZONES flagged."""
    times = [row["lpep_pickup_datetime"] for row in rows]
    columns = {
        "hour": [time.hour + time.minute / 60 for time in times],
        "distance_miles": [row["trip_distance"] for row in rows],
        "pickup_minutes_mean_28d": [KNOWN_ZONES.get(row["PULocationID"]) for row in rows],
    }
    unknown = [[] if row["PULocationID"] in KNOWN_ZONES else ["pickup_zone"] for row in rows]
    return OnlineRows(columns={name: columns[name] for name in names if name in columns}, unknown=unknown)


def home(folder: Path, **values) -> Settings:
    """Return the settings of a home in a temporary folder."""
    settings = Settings(home=folder, **values)
    settings.home.mkdir(parents=True, exist_ok=True)
    return settings


def rewrite(folder, change):
    """Change serving.json and return the digest of what it is now."""
    path = folder / "serving.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return sha256(path.read_bytes()).hexdigest()


def replace_model(folder, data):
    """Put other bytes in the place of the model, with hashes that fit, and return the digest."""
    (folder / "model.skops").write_bytes(data)
    return rewrite(folder, lambda content: content.update(model_sha256=sha256(data).hexdigest()))


def archive(members, compression=zipfile.ZIP_STORED):
    """Return a zip of the given members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


@contextmanager
def serving(settings, reader=read_features):
    """Run the service of a home and yield its client."""
    from fastapi.testclient import TestClient

    from deployments.service.build import build

    with TestClient(build(settings, spec, reader), raise_server_exceptions=False) as client:
        yield client


def eventually(condition, seconds=20.0):
    """Wait until a condition holds and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


def version_of(client):
    """Return the version that serves, None if none does."""
    return client.get("/readyz").json()["version"]
