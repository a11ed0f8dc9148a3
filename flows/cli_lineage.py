"""The commands that look back: where a version or a prediction comes from, the same made again, what changed between two."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli_call import AsJson, Home, Model, find_home, report
from flows.errors import RefusedError, UsageError

Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Also write a page that needs nothing from elsewhere.")
]


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (lineage, reproduce, diff):
        app.command()(command)


def lineage(
    version: Annotated[int | None, typer.Argument(min=1, help="Default: the champion.")] = None,
    prediction: Annotated[
        str | None, typer.Option(metavar="ID", help="A served answer instead: its x-request-id.")
    ] = None,
    html: Html = None,
    model: Model = "taxi",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Say where a version, or a served prediction, comes from: back to partitions, code, gates and promotions."""
    if version is not None and prediction is not None:
        raise UsageError("give a VERSION or --prediction ID, not both")
    from flows import ledger
    from flows.show_lineage import show_graph
    from flows.steps import lineage_facts, lineage_graph, lineage_page

    settings, spec, engine = _open(home, model)
    if prediction is not None:
        facts = lineage_facts.of_prediction(settings, spec, engine, prediction)
    else:
        reigning = ledger.champion(engine, model)
        if version is None and reigning is None:
            raise RefusedError(
                f"{model} has no champion yet; train one, or name a version: `evergreen versions` lists them"
            )
        facts = lineage_facts.of_version(settings, spec, engine, version or (reigning.version if reigning else 0))
    graph = lineage_graph.build(facts)
    page = lineage_page.write(graph, html.absolute()) if html else None
    report(graph.model_dump(mode="json") if as_json else graph, as_json, show_graph)
    _told(page, as_json)


def reproduce(
    version: Annotated[int, typer.Argument(min=1)], model: Model = "taxi", home: Home = None, as_json: AsJson = False
) -> None:
    """Make a version again from its record alone and compare to the bit; registers nothing. Exit status 1 if it differs."""
    from flows.show_lineage import show_causes, show_reproduction
    from flows.steps import reproduction, version_record

    settings, spec, engine = _open(home, model)
    record = version_record.read(settings, model, version)
    examined = reproduction.examine(settings, spec, engine, record)
    if not as_json:
        show_causes(examined.causes)
    found = reproduction.remake(settings, record, examined)
    report(found.model_dump(mode="json") if as_json else found, as_json, show_reproduction)
    if not found.same:
        raise typer.Exit(1)


def diff(
    before: Annotated[int, typer.Argument(metavar="V1", min=1)],
    after: Annotated[int, typer.Argument(metavar="V2", min=1)],
    html: Html = None,
    model: Model = "taxi",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Say what changed from one version to another: data, features, parameters, code, libraries, figures, gates."""
    from flows.show_lineage import show_difference
    from flows.steps import diff_page, version_diff, version_record

    settings, _, _ = _open(home, model)
    records = [version_record.read(settings, model, number) for number in (before, after)]
    found = version_diff.compare(*records)
    page = diff_page.write(found, records[0], records[1], html.absolute()) if html else None
    report(found.model_dump(mode="json") if as_json else found, as_json, show_difference)
    _told(page, as_json)


def _open(home: Path | None, model: str) -> tuple[Any, Any, Any]:
    """Return settings, spec and ledger of a home."""
    settings = find_home(home, model)
    from flows import database
    from flows.lookup import load_model
    from flows.terminal import quiet_libraries

    quiet_libraries()
    return settings, load_model(model, settings), database.connect(settings)


def _told(page: Path | None, as_json: bool) -> None:
    if page and not as_json:
        from flows.terminal import QUIET, line

        line(f"page: {page}", QUIET)
