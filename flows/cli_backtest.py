"""The command that replays history under several retraining policies."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli_call import AsJson, Home, Model, report, run_flow

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from flows.settings import Settings
    from flows.spec import ModelSpec

DAY = "%Y-%m-%d"


def add(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="backtest")(backtest)


def backtest(
    model: Model = "taxi",
    home: Home = None,
    start: Annotated[
        datetime | None,
        typer.Option(
            formats=[DAY, "%Y-%m"],
            help="A day in the first period; default: a quarter in, or once there is enough to train on.",
        ),
    ] = None,
    end: Annotated[
        datetime | None, typer.Option(formats=[DAY, "%Y-%m"], help="A day in the last period; default: the newest.")
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(
            help="day, week or month: how often the policies decide; default: the longest that gives six periods."
        ),
    ] = None,
    policy: Annotated[list[str] | None, typer.Option(help="Only these policies; may be given several times.")] = None,
    cost_train: Annotated[float | None, typer.Option(min=0, help="What a training costs; default: the spec's.")] = None,
    cost_error: Annotated[
        float | None,
        typer.Option(min=0, help="What a unit of error in one prediction costs; default: the spec's, or 1."),
    ] = None,
    judge_days: Annotated[int | None, typer.Option(min=1, help="How many of the newest days judge.")] = None,
    data: Annotated[str | None, typer.Option(help="Land this table first; as for `evergreen ingest`.")] = None,
    html: Annotated[Path | None, typer.Option(help="Where to write the page; default: in the home.")] = None,
    as_json: AsJson = False,
) -> None:
    """Replay history under retraining policies side by side: errors, costs, regret, and the thresholds to choose."""
    from flows.steps.backtest.findings import parse_policies
    from flows.steps.periods import parse_kind

    kind, policies = parse_kind(every) if every else None, parse_policies(policy or [])

    def call() -> Any:
        from flows.backtest import backtest as flow

        return flow(
            model=model, start=start.date() if start else None, end=end.date() if end else None, every=kind,
            policies=policies, cost_train=cost_train, cost_error=cost_error, judge_days=judge_days,
            data=data, html=html.absolute() if html else None,
        )  # fmt: skip

    def check(settings: Settings, spec: ModelSpec, engine: Engine) -> None:
        from flows import ledger
        from flows.steps import machines, sources, spark
        from flows.steps.backtest.timeline import plan_steps

        if settings.dask_url:
            machines.reach(settings)
        if settings.compute_url:
            spark.answering(settings)
        accepted = ledger.list_partitions(engine, model, "accepted")
        if data is not None:
            sources.check(data)
        elif accepted or spec.history_data is None:  # what is landed first cannot be looked at before
            plan_steps(spec, accepted, kind, start.date() if start else None, end.date() if end else None)

    from flows.show_backtest import show_backtest

    report(run_flow(home, model, call, check, ("flows.backtest", "skops.io", "mlflow")), as_json, show_backtest)
