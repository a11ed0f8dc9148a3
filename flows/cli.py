"""The ``evergreen`` command: reads the words of a call, runs a flow or a step, and shows what came of it."""

from __future__ import annotations

import io
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli_backtest import add as add_backtest
from flows.cli_bench import add as add_bench
from flows.cli_call import Approve, AsJson, Home, Model, find_home, open_home, report, run_flow
from flows.cli_data import add as add_data
from flows.cli_delivery import add as add_delivery
from flows.cli_lineage import add as add_lineage
from flows.cli_new import add as add_new
from flows.cli_panels import arrange
from flows.cli_promote import add as add_promote
from flows.cli_research import add as add_research
from flows.cli_stack import add as add_stack

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from flows.settings import Settings
    from flows.spec import ModelSpec

app = typer.Typer(
    name="evergreen", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Keeps a tabular model trained, checked, deployed and served by itself.",
)  # fmt: skip

add_stack(app)
add_data(app)
add_delivery(app)
add_new(app)
add_backtest(app)
add_promote(app)
add_lineage(app)
add_research(app)
add_bench(app)


@app.command()
def demo(
    model: Model = "taxi",
    data: Annotated[str | None, typer.Option(help="The model's table; default: what its spec names.")] = None,
    home: Home = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the outcome to this file.")] = None,
) -> None:
    """Run the main job on simulated taxi trips, or on a model's own history: land, train, serve, retrain, roll back."""
    from flows.demo import run_demo

    raise typer.Exit(run_demo(home, json_file, model, data))


@app.command()
def featurize(
    again: Annotated[
        bool, typer.Option("--again", help="Write all to the online store once more, and make what is damaged anew.")
    ] = False,
    model: Model = "taxi",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Bring feature tables and online store up to date with the accepted partitions."""

    def call() -> Any:
        from flows.featurize import featurize as flow

        return flow(model=model, again=again)

    from flows.show import show_featurized

    report(run_flow(home, model, call, needs=("flows.featurize", "flows.steps.lean_feast")), as_json, show_featurized)


@app.command()
def train(
    reason: Annotated[str, typer.Option(help="Why, kept in the lineage.")] = "on demand",
    force: Annotated[bool, typer.Option("--force", help="Train even if the same was trained before.")] = False,
    judge_days: Annotated[int | None, typer.Option(min=1, help="How many of the newest days judge.")] = None,
    estimator: Annotated[str | None, typer.Option(help="Another estimator factory, as package.module:build.")] = None,
    trials: Annotated[int | None, typer.Option(min=0, help="Tuning trials inside the training window.")] = None,
    approve: Approve = False,
    model: Model = "taxi",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Train, evaluate and judge; register what passes every gate, and promote it if the model says so."""

    def call() -> Any:
        from flows.train import train as flow

        return flow(
            model=model, reason=reason, force=force, judge_days=judge_days, estimator=estimator, trials=trials,
            approve=approve,
        )  # fmt: skip

    def check(_settings: Settings, spec: ModelSpec, engine: Engine) -> None:
        from flows import ledger
        from flows.steps.training_set import choose_window

        judge = timedelta(days=judge_days) if judge_days else None
        choose_window(spec, ledger.list_partitions(engine, model, "accepted"), judge)

    from flows.show import show_trained

    outcome = run_flow(home, model, call, check, ("flows.train", "flows.steps.lean_feast", "skops.io", "mlflow"))
    report(outcome, as_json, show_trained)
    if outcome["failed"]:
        raise typer.Exit(1)


@app.command()
def monitor(
    days: Annotated[int | None, typer.Option(min=1, help="The newest days of events to look at.")] = None,
    retrain: Annotated[bool, typer.Option(help="Train at once if that is the decision.")] = True,
    model: Model = "taxi",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Judge the champion on late labels, measure drift, decide on a retraining."""

    def call() -> Any:
        from flows.monitor import monitor as flow

        return flow(model=model, days=days, retrain=retrain)

    def check(_settings: Settings, spec: ModelSpec, engine: Engine) -> None:
        from flows.steps.champion import reigning

        reigning(engine, spec, "monitor")

    from flows.show import show_monitored

    report(run_flow(home, model, call, check, ("flows.monitor", "mlflow")), as_json, show_monitored)


@app.command()
def score(
    source: Annotated[str, typer.Argument(metavar="IN", help="Parquet or CSV file of requests.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="Parquet or CSV file to write.")],
    model: Model = "taxi",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Predict a whole file with the champion."""

    def call() -> Any:
        from flows.score import score as flow

        return flow(source=source, target=target, model=model)

    def check(_settings: Settings, spec: ModelSpec, engine: Engine) -> None:
        from flows.steps.champion import reigning

        reigning(engine, spec, "score with")

    from flows.show import show_scored

    report(run_flow(home, model, call, check, ("flows.score", "skops.io", "mlflow")), as_json, show_scored)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Default: 8300; 0 takes a free one.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Processes on the port; default: 1.")] = None,
    model: Model = "taxi",
    home: Home = None,
) -> None:
    """Serve predictions over HTTP, following the ledger, until Ctrl-C."""
    from flows.steps.serving import command

    settings = open_home(home, model)
    arguments = command(settings, model, host, port, workers)
    os.execve(sys.executable, arguments, os.environ | settings.environment())  # noqa: S606 (no shell: a list of ours)


@app.command()
def status(model: Model = "taxi", home: Home = None, as_json: AsJson = False) -> None:
    """Say what serves, what waits, what was landed and what ran last."""
    from flows import database, run_records
    from flows.lookup import load_model
    from flows.show import show_status
    from flows.steps.status import status as look

    settings = find_home(home, model)
    engine = database.connect(settings)
    if run_records.under_way(engine, model):  # what runs, or was killed: a killed run cannot say so itself
        from flows.runs import close_ended
        from flows.steps.prefect_server import running

        close_ended(engine, model, running(settings))
    report(look(settings, load_model(model, settings), engine), as_json, show_status)


@app.command()
def versions(model: Model = "taxi", home: Home = None, as_json: AsJson = False) -> None:
    """List the registered versions of a model."""
    from flows import database
    from flows.lookup import load_model
    from flows.show import show_versions
    from flows.steps.status import versions as look

    settings = find_home(home, model)
    report(look(settings, load_model(model, settings), database.connect(settings)), as_json, show_versions)


arrange(app)


def main() -> None:
    """Run the command; a known error is one line on stderr and its exit status, never a traceback."""
    from flows.steps.processes import leave

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # the work is done: a sign that the terminal lacks must not fail it
    try:
        _run()
    except SystemExit as ended:
        runs = sys.modules.get("flows.runs")
        if runs and not runs.is_settled():
            leave(ended.code if isinstance(ended.code, int) else 0)
        raise


def _run() -> None:
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        _fail("interrupted; nothing was left half done, the same command goes on", 130)
    except Exception as error:  # noqa: BLE001 (nobody else is left to tell it)
        from flows.cli_error import UNFORESEEN, told

        line, status = told(error)
        kept = f"; the traceback is in {_keep_traceback()}" if line.startswith(UNFORESEEN) else ""
        _fail(line + kept, status)


def _keep_traceback() -> Path:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="evergreen-", suffix=".log", delete=False) as file:
        traceback.print_exc(file=file)
    return Path(file.name)


def _fail(line: str, status: int) -> None:
    print(f"evergreen: {line}", file=sys.stderr)  # noqa: T201 (rich may not have been imported yet)
    raise SystemExit(status)
