"""The commands of data: what arrives is landed and judged, labels that come later meet it, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli_call import AsJson, Home, Model, find_home, report, run_flow

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from flows.settings import Settings
    from flows.spec import ModelSpec


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (ingest, label, partitions):
        app.command()(command)


def ingest(
    source: Annotated[
        str | None,
        typer.Argument(help="Parquet or CSV file, folder, glob, or http(s) or s3 URL; default: the landing folder."),
    ] = None,
    partition_by: Annotated[str | None, typer.Option(help="day, week or month; default: what the model says.")] = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Let it stand: rows that a later revision has replaced become the newest once more, and rows of another part "
            "of the period are replaced as well.",
        ),
    ] = False,
    model: Model = "taxi",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Land raw rows, judge them, accept or quarantine them; exit status 1 if none of it was accepted."""

    def call() -> Any:
        from flows.ingest import ingest as flow

        return flow(source=source, model=model, partition_by=partition_by, again=again)

    def check(_settings: Settings, spec: ModelSpec, _engine: Engine) -> None:
        from flows.steps import periods, sources

        periods.parse_kind(partition_by or spec.partition_by)
        if source is not None:
            sources.check(source)

    from flows.show import show_ingested

    partitions = run_flow(home, model, call, check, ("flows.ingest", "great_expectations"))
    report(partitions, as_json, show_ingested)
    _end_if_refused(partitions)


def label(
    source: Annotated[str, typer.Argument(help="Parquet or CSV file, folder, glob, or http(s) or s3 URL.")],
    on: Annotated[
        str | None, typer.Option(metavar="COLUMN,...", help="Which columns tell the row; default: the model's key.")
    ] = None,
    model: Model = "taxi",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Fill labels that came in a table of their own into landed rows, and judge those once more; exit status as for ingest."""

    def call() -> Any:
        from flows.label import label as flow

        return flow(source=source, model=model, on=[name.strip() for name in on.split(",")] if on else None)

    def check(_settings: Settings, _spec: ModelSpec, _engine: Engine) -> None:
        from flows.steps import sources

        sources.check(source)

    from flows.show import show_labelled

    found = run_flow(home, model, call, check, ("flows.label", "great_expectations"))
    report(found, as_json, show_labelled)
    _end_if_refused(found["partitions"])


def _end_if_refused(partitions: list[dict[str, Any]]) -> None:
    if partitions and all(one["status"] == "quarantined" for one in partitions):
        raise typer.Exit(1)


def partitions(
    state: Annotated[
        Literal["accepted", "quarantined", "landed", "replaced"] | None, typer.Option("--status", help="Only these.")
    ] = None,
    model: Model = "taxi",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List the landed partitions and their verdicts."""
    from flows import database, ledger
    from flows.show import show_partitions
    from flows.steps.status import partition

    settings = find_home(home, model)
    found = [partition(one) for one in ledger.list_partitions(database.connect(settings), model, state)]
    report(found, as_json, show_partitions)
