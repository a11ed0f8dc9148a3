"""The steps of the demo, in order: each does its part of the main job and says whether it came out as expected."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from flows.settings import Settings
from flows.spec import ModelSpec

MODEL = "taxi"
FIRST = date(2024, 1, 1)
DAYS, RENAMED, BROKEN = 28, 10, 20  # days landed; the one with a renamed column; the one with bad rows
WEEK = 7


@dataclass
class Stage:
    """What the steps share: the home, the running service, the facts that later steps look back to."""

    settings: Settings
    stack: ExitStack
    spec: ModelSpec
    data: str | None = None  # another history than the spec's
    url: str = ""
    service: subprocess.Popen[bytes] | None = None
    known: dict[str, Any] = field(default_factory=dict)


Step = Callable[[Stage], tuple[bool, str]]
NEEDS = ("flows.ingest", "great_expectations", "flows.steps.lean_feast", "flows.train", "skops.io", "mlflow")


def start_server(stage: Stage) -> tuple[bool, str]:
    """Start the Prefect server; meanwhile load the libraries and simulate the trips."""
    from flows.steps.prefect_server import prefect_server

    os.environ.pop("PREFECT_API_URL", None)  # the demo has a server of its own
    meanwhile = threading.Thread(target=_prepare, args=(stage.settings,), daemon=True)
    meanwhile.start()
    url = stage.stack.enter_context(prefect_server(stage.settings, NEEDS))
    from flows.runs import settle

    stage.stack.callback(settle)
    meanwhile.join()
    return True, f"{url.removesuffix('/api')} answers"


def land(stage: Stage) -> tuple[bool, str]:
    """Land four weeks of trips."""
    from flows.ingest import ingest

    found = {one["key"]: one for one in ingest(source=str(stage.settings.home / "source" / "four-weeks"), model=MODEL)}
    renamed, broken = (found[_day(number).isoformat()] for number in (RENAMED, BROKEN))
    accepted = [one for one in found.values() if one["status"] == "accepted"]
    ok = (
        len(accepted) == DAYS - 1
        and min(one["rows"] for one in found.values()) >= 2000
        and renamed["status"] == "quarantined"
        and broken["status"] == "accepted"
        and 0.005 * broken["rows"] <= broken["rejected_rows"] <= 0.03 * broken["rows"]
    )
    reason = renamed["reasons"][0] if renamed["reasons"] else "no reason"
    return ok, (
        f"{len(accepted)} of {len(found)} days accepted, {sum(one['accepted_rows'] for one in accepted)} rows; "
        f"{renamed['key']} quarantined ({reason}); "
        f"{broken['key']}: {broken['rejected_rows']} of {broken['rows']} rows quarantined"
    )


def compute_features(stage: Stage) -> tuple[bool, str]:
    """Compute, register and materialize features."""
    from flows.featurize import featurize

    found = featurize(model=MODEL)
    rows = found["rows"]
    return found["ticks"] >= DAYS - 1 and min(
        rows.values()
    ) > 0, f"{sum(rows.values())} values of {len(rows)} views, by day"


def train_first(stage: Stage) -> tuple[bool, str]:
    """Train, judge and promote version 1."""
    from flows.train import train

    found = train(model=MODEL, reason="first training")
    return found["version"] == 1 and found["promoted"], (
        f"version {found['version']}: error {found['error']:.2f} min on the newest {found['judge_rows']} trips, "
        f"naive {found['baseline_error']:.2f}"
        + (f"; refused by {', '.join(found['failed'])}" if found["failed"] else "")
    )


def serve(stage: Stage) -> tuple[bool, str]:
    """Start the service and ask it once."""
    from flows.steps import serving
    from flows.steps.processes import stop

    stage.service = serving.start(stage.settings, MODEL)
    stage.stack.callback(stop, stage.service)
    where = serving.find(stage.settings, MODEL) or {}
    stage.url = where["url"]
    asked = {
        "lpep_pickup_datetime": f"{_day(DAYS)}T08:30:00",
        "PULocationID": 74,
        "DOLocationID": 42,
        "trip_distance": 2.4,
    }
    answer = serving.predict(stage.url, [asked, {**asked, "DOLocationID": 9999}])
    known, unknown = answer["predictions"]
    ok = answer["version"] == 1 and known["prediction"] > 0 and "dropoff_zone" in unknown["unknown"]
    return (
        ok,
        f"{stage.url}: {known['prediction']:.1f} min from version {answer['version']}; zone 9999 flagged as unknown",
    )


def drift(stage: Stage) -> tuple[bool, str]:
    """Predict a week in which the roads have changed, land its trips, and let monitoring decide."""
    import pandas as pd

    from flows.featurize import featurize
    from flows.ingest import ingest
    from flows.monitor import monitor
    from flows.steps import serving

    week = stage.settings.home / "source" / "changed-roads"
    asked = 0
    for file in sorted(week.glob("*.parquet")):
        trips = pd.read_parquet(file)
        trips = trips[trips["lpep_pickup_datetime"].dt.date == date.fromisoformat(file.stem)]
        requests = trips.drop(columns="lpep_dropoff_datetime").assign(
            lpep_pickup_datetime=trips["lpep_pickup_datetime"].astype(str)
        )
        for start in range(0, len(requests), 500):
            rows = requests[start : start + 500].to_dict("records")
            asked += len(serving.predict(stage.url, rows)["predictions"])
    ingest(source=str(week), model=MODEL)
    featurize(model=MODEL)
    found = monitor(model=MODEL)
    stage.known["training"] = found["training"]
    measured = found["performance"]
    ok = bool(found["retrain"] and found["drifted"] and measured["degraded"] and found["training"])
    return ok, (
        f"{asked} trips predicted, {measured['labelled']} labels arrived; error {measured['error']:.2f} min, "
        f"{measured['ratio']:.2f} times the expected; drifted: {', '.join(found['drifted']) or 'nothing'}; "
        + ("retraining decided and started" if found["training"] else "no retraining")
    )


def follow_retrained(stage: Stage) -> tuple[bool, str]:
    """Look at what the retraining made, and at whether the same process serves it."""
    from flows.steps import serving

    found = stage.known["training"]
    if found["failed"]:
        return False, f"refused by {', '.join(found['failed'])}"
    assert stage.service is not None
    seen = serving.first_answer(stage.url, 2, 5.0)
    ok = found["version"] == 2 and found["promoted"] and seen is not None and stage.service.poll() is None
    return ok, (
        f"version {found['version']}: error {found['error']:.2f} min, version 1 {found['champion_error']:.2f} on the same trips; "
        + (f"the same process (pid {stage.service.pid}) answers with it" if seen else "the service did not follow")
    )


def refuse(stage: Stage) -> tuple[bool, str]:
    """Train with a broken estimator."""
    from flows.steps import serving
    from flows.train import train

    found = train(model=MODEL, reason="a careless change", estimator="flows.models.taxi.broken:build")
    still = serving.first_answer(stage.url, 2, 2.0)
    ok = bool(found["failed"]) and not found["promoted"] and still is not None
    return ok, f"refused by: {', '.join(found['failed']) or 'no gate'}; version 2 goes on serving"


def roll_back(stage: Stage) -> tuple[bool, str]:
    """Roll back to version 1, and forward again."""
    from flows import database, ledger
    from flows.promote import promote, rollback
    from flows.steps import serving

    engine = database.connect(stage.settings)
    waits = []
    for version in (1, 2):
        # Another thread looks at the service all the while, so that what the flow does after its promotion does not count.
        with ThreadPoolExecutor(1) as pool:
            seen = pool.submit(serving.first_answer, stage.url, version, 20.0)
            made = (
                rollback(model=MODEL, why="demo")
                if version == 1
                else promote(MODEL, version, why="demo: forward again")
            )
            if made["version"] != version:
                return False, f"the ledger names version {made['version']}, not {version}"
            moment, champion = seen.result(), ledger.champion(engine, MODEL)
        assert champion is not None
        waits.append((moment - champion.at).total_seconds() if moment else float("inf"))
    return max(waits) <= 2.0, f"the service followed the ledger after {waits[0]:.1f} s and {waits[1]:.1f} s"


def _prepare(settings: Settings) -> None:
    from flows.models.taxi.simulator import break_rows, rename_column, simulate_day
    from flows.steps import registry

    home = settings.home
    changes: dict[int, Callable[[Any], Any]] = {RENAMED: rename_column, BROKEN: break_rows}
    for number in range(DAYS + WEEK):
        trips = simulate_day(_day(number), roads_changed=number >= DAYS)
        folder = home / "source" / ("four-weeks" if number < DAYS else "changed-roads")
        folder.mkdir(parents=True, exist_ok=True)
        if number in changes:
            trips = changes[number](trips)
        trips.to_parquet(folder / f"{_day(number)}.parquet")
    registry.open_client(settings)


def _day(number: int) -> date:
    return FIRST + timedelta(days=number)


STEPS: list[tuple[str, str, Step]] = [
    ("server", "a Prefect server of the demo's own", start_server),
    ("land", "28 days land; one with a renamed column is quarantined, of one the bad rows alone", land),
    ("features", "features computed, registered and materialized", compute_features),
    ("train", "version 1 passes every gate and is promoted", train_first),
    ("serve", "the service answers over HTTP; an unknown zone is answered and flagged", serve),
    ("drift", "monitoring sees the shift and the error's rise on late labels, and starts the retraining", drift),
    ("follow", "version 2 passes, and the running service answers with it", follow_retrained),
    ("refuse", "a broken estimator is refused by its gates", refuse),
    ("rollback", "back to version 1 and forward again, the service within 2 s each", roll_back),
]
