"""The main job from end to end on simulated trips; what it shows is read from the system itself, nothing is staged."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

from rich.table import Table
from rich.text import Text

from flows import demo_own, demo_steps
from flows.demo_steps import MODEL, Stage, Step
from flows.errors import UsageError
from flows.lookup import load_model
from flows.secret import shown
from flows.settings import Settings
from flows.spec import Frozen
from flows.steps.files import write_text
from flows.terminal import console, end_on_signals, line, quiet_libraries, stop_if_interrupted

MARK = "demo.json"  # says that a home is the demo's own


class Outcome(Frozen):
    """One line of the table at the end."""

    step: str
    expected: str
    happened: str
    ok: bool
    seconds: float


def run_demo(home: Path | None, json_file: Path | None, model: str = MODEL, data: str | None = None) -> int:
    """Run every step, show them as they go and in a table at the end; return 0 only if all came out as expected.

    The taxi model's demo is on simulated trips; any other model's, or with ``data``, is on its own history.
    Ctrl-C, or SIGTERM, ends the server and the service first and returns 130.
    """
    settings = Settings() if home is None else Settings(home=home)
    spec = load_model(model, settings)
    steps = demo_steps.STEPS if model == MODEL and data is None else demo_own.STEPS
    if steps is demo_own.STEPS and data is None and spec.history_data is None:
        raise UsageError(f"{model} names no history_data in its spec; name its table with --data")
    _claim(settings, model)
    quiet_libraries()
    settings.activate()
    end_on_signals()
    outcomes: list[Outcome] = []
    start = time.monotonic()
    try:
        with ExitStack() as stack:
            stage = Stage(settings, stack, spec, data)
            for name, expected, step in steps:
                outcomes.append(_run(stage, name, expected, step))
                if not outcomes[-1].ok:
                    break
    except KeyboardInterrupt:
        line("interrupted: server and service are stopped", "yellow")
        write_text(settings.home / MARK, json.dumps({"pid": None, "runs": None}))
        return 130
    outcomes += [
        Outcome(step=n, expected=e, happened="not reached", ok=False, seconds=0.0) for n, e, _ in steps[len(outcomes) :]
    ]
    seconds, ok = time.monotonic() - start, all(outcome.ok for outcome in outcomes)
    _close(settings, model, outcomes, seconds)
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


def _claim(settings: Settings, model: str) -> None:
    """Make room for the demo in its home; raises UsageError if the home holds anything else than an earlier demo.

    A ledger on a server must know nothing of the model: a demo there cannot be taken back.
    """
    import psutil

    home = settings.home
    if settings.ledger_url and _is_known(settings, model):
        raise UsageError(
            f"the ledger at {shown(settings.ledger_url)} knows {model} already, and a demo would write into its history; "
            "name an empty database in EVERGREEN_LEDGER_URL"
        )
    if any(not path.is_dir() for path in home.rglob("*")):  # empty folders are what `evergreen new` worked in
        try:
            mark = json.loads((home / MARK).read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"{home} holds something else than a demo; name another folder with --home") from error
        if mark["pid"] is not None and psutil.pid_exists(mark["pid"]):
            raise UsageError(f"a demo (pid {mark['pid']}) is at work in {home}; name another folder with --home")
        if mark["runs"] is not None and mark["runs"] != _count_runs(settings, mark.get("model", MODEL)):
            raise UsageError(f"{home} was used after its demo; name another folder with --home, or delete it")
        shutil.rmtree(home)
    home.mkdir(parents=True, exist_ok=True)
    write_text(home / MARK, json.dumps({"pid": os.getpid(), "runs": None}))


def _is_known(settings: Settings, model: str) -> bool:
    """Say whether a ledger on a server, which may be empty still, knows of a model; leaves nothing in the home."""
    from flows import database, ledger, run_records
    from flows.engines import make_engine

    engine = make_engine(settings.ledger)
    try:
        made = database.revisions(engine)[0] is not None
        return made and bool(run_records.newest(engine, model, 1) or ledger.list_partitions(engine, model))
    finally:
        engine.dispose()


def _count_runs(settings: Settings, model: str) -> int:
    from flows import database, ledger, run_records

    return len(run_records.newest(database.connect(settings), model, 100_000)) + len(
        ledger.list_partitions(database.connect(settings), model)
    )


def _close(settings: Settings, model: str, outcomes: list[Outcome], seconds: float) -> None:
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
    home, option = settings.home, "" if model == MODEL else f" --model {model}"
    line("Where to look:", "bold")
    for what, how in (
        ("state", f"uv run evergreen status --home {home}{option}"),
        ("Data Docs", f"{settings.docs / model / 'index.html'}"),
        ("MLflow UI", _mlflow_ui(settings)),
        (
            "Prefect UI",
            f"PREFECT_HOME={settings.prefect_home} PREFECT_SERVER_ANALYTICS_ENABLED=false uv run prefect server start",
        ),
        ("service", f"uv run evergreen serve --home {home}{option}"),
    ):
        console.print(Text(f"  {what:<11}{how}"), soft_wrap=True)
    write_text(home / MARK, json.dumps({"pid": None, "runs": _count_runs(settings, model), "model": model}))


def _mlflow_ui(settings: Settings) -> str:
    """Return where MLflow's pages are, or the command that shows them; never the password of a database."""
    if settings.tracking_uri.startswith("http"):
        return shown(settings.tracking_uri)
    store = "$EVERGREEN_MLFLOW_TRACKING_URI" if settings.mlflow_tracking_uri else settings.tracking_uri
    return f"uv run mlflow ui --backend-store-uri {store}"
