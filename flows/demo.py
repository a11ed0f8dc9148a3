"""The main job from end to end on simulated trips; what it shows is read from the system itself, nothing is staged."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from flows.errors import UsageError
from flows.settings import Settings
from flows.show import console, end_on_signals, line, quiet_libraries, stop_if_interrupted
from flows.spec import Frozen
from flows.steps.files import write_text

MODEL = "taxi"
FIRST = date(2024, 1, 1)
DAYS, RENAMED, BROKEN = 28, 10, 20  # days landed; the one with a renamed column; the one with bad rows
WEEK = 7
MARK = "demo.json"  # says that a home is the demo's own


class Outcome(Frozen):
    """One line of the table at the end."""

    step: str
    expected: str
    happened: str
    ok: bool
    seconds: float


@dataclass
class Stage:
    """What the steps share: the home, the running service, the facts that later steps look back to."""

    settings: Settings
    stack: ExitStack
    url: str = ""
    service: subprocess.Popen[bytes] | None = None
    known: dict[str, Any] = field(default_factory=dict)


Step = Callable[[Stage], tuple[bool, str]]


def run_demo(home: Path | None, json_file: Path | None) -> int:
    """Run every step, show them as they go and in a table at the end; return 0 only if all came out as expected.

    Ctrl-C, or SIGTERM, ends the server and the service first and returns 130.
    """
    settings = Settings() if home is None else Settings(home=home)
    _claim(settings.home)
    quiet_libraries()
    settings.activate()
    end_on_signals()
    outcomes: list[Outcome] = []
    start = time.monotonic()
    try:
        with ExitStack() as stack:
            stage = Stage(settings, stack)
            for name, expected, step in STEPS:
                outcomes.append(_run(stage, name, expected, step))
                if not outcomes[-1].ok:
                    break
    except KeyboardInterrupt:
        line("interrupted: server and service are stopped", "yellow")
        write_text(settings.home / MARK, json.dumps({"pid": None, "runs": None}))
        return 130
    outcomes += [
        Outcome(step=n, expected=e, happened="not reached", ok=False, seconds=0.0) for n, e, _ in STEPS[len(outcomes) :]
    ]
    seconds, ok = time.monotonic() - start, all(outcome.ok for outcome in outcomes)
    _close(settings, outcomes, seconds)
    if json_file:
        content = {
            "ok": ok,
            "seconds": round(seconds, 2),
            "home": str(settings.home),
            "steps": [o.model_dump() for o in outcomes],
        }
        write_text(json_file, json.dumps(content, indent=1) + "\n")
    return 0 if ok else 1


def _run(stage: Stage, name: str, expected: str, step: Step) -> Outcome:
    start = time.monotonic()
    with console.status(Text(f"{name}: {expected}")):
        try:
            ok, happened = step(stage)
        except Exception as error:  # noqa: BLE001 (any failure is what this step came to, and is shown as such)
            stop_if_interrupted()  # DuckDB, for one, turns Ctrl-C into an error of its own
            ok, happened = False, f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - start
    line(f"{'✓' if ok else '✗'} {name} ({seconds:.1f} s): {happened}", "green" if ok else "red")
    return Outcome(step=name, expected=expected, happened=happened, ok=ok, seconds=round(seconds, 2))


# --- the steps, in order ------------------------------------------------------------------------------------------


def start_server(stage: Stage) -> tuple[bool, str]:
    """Start the Prefect server; meanwhile simulate the trips and load the libraries."""
    from flows.runs import settle
    from flows.steps.prefect_server import prefect_server

    os.environ.pop("PREFECT_API_URL", None)  # the demo has a server of its own
    meanwhile = threading.Thread(target=_prepare, args=(stage.settings,), daemon=True)
    meanwhile.start()
    url = stage.stack.enter_context(prefect_server(stage.settings))
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
    from flows import ledger
    from flows.promote import promote, rollback
    from flows.steps import serving

    engine = ledger.connect(stage.settings)
    waits = []
    for version in (1, 2):
        with ThreadPoolExecutor(
            1
        ) as pool:  # looks at the service all the while, so that the flow's own end does not count
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


# --- around the steps ---------------------------------------------------------------------------------------------


def _claim(home: Path) -> None:
    """Make room for the demo in its home; raises UsageError if the home holds anything else than an earlier demo."""
    import psutil

    if home.exists() and any(home.iterdir()):
        try:
            mark = json.loads((home / MARK).read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"{home} holds something else than a demo; name another folder with --home") from error
        if mark["pid"] is not None and psutil.pid_exists(mark["pid"]):
            raise UsageError(f"a demo (pid {mark['pid']}) is at work in {home}; name another folder with --home")
        if mark["runs"] is not None and mark["runs"] != _count_runs(home):
            raise UsageError(f"{home} was used after its demo; name another folder with --home, or delete it")
        shutil.rmtree(home)
    home.mkdir(parents=True, exist_ok=True)
    write_text(home / MARK, json.dumps({"pid": os.getpid(), "runs": None}))


def _count_runs(home: Path) -> int:
    from flows import ledger

    settings = Settings(home=home)
    return len(ledger.last_runs(ledger.connect(settings), MODEL, 100_000)) + len(
        ledger.list_partitions(ledger.connect(settings), MODEL)
    )


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
    # What the flows will need, loaded while the server starts. Prefect is not: it reads the server's address on import.
    for library in ("great_expectations", "feast", "sklearn.ensemble", "skops.io"):
        importlib.import_module(library)
    registry.open_client(settings)


def _day(number: int) -> date:
    return FIRST + timedelta(days=number)


def _close(settings: Settings, outcomes: list[Outcome], seconds: float) -> None:
    """Show the table and where to look, and leave the mark by which a later demo knows this home."""
    drawn = Table(
        "", "step", "expected", "happened", "seconds", title="Evergreen demo", title_style="bold", show_lines=True
    )
    for outcome in outcomes:
        mark = Text("✓", style="green") if outcome.ok else Text("✗", style="red")
        drawn.add_row(mark, outcome.step, outcome.expected, Text(outcome.happened), f"{outcome.seconds:.1f}")
    console.print(drawn)
    done = sum(outcome.ok for outcome in outcomes)
    line(f"{done} of {len(outcomes)} steps as expected, {seconds:.0f} s", "green" if done == len(outcomes) else "red")
    home = settings.home
    line("Where to look:", "bold")
    for what, how in (
        ("state", f"uv run evergreen status --home {home}"),
        ("Data Docs", f"{settings.docs / MODEL / 'index.html'}"),
        ("MLflow UI", f"uv run mlflow ui --backend-store-uri {settings.tracking_uri}"),
        (
            "Prefect UI",
            f"PREFECT_HOME={settings.prefect_home} PREFECT_SERVER_ANALYTICS_ENABLED=false uv run prefect server start",
        ),
        ("service", f"uv run evergreen serve --home {home}"),
    ):
        console.print(Text(f"  {what:<11}{how}"), soft_wrap=True)
    write_text(home / MARK, json.dumps({"pid": None, "runs": _count_runs(home)}))
