"""The command that makes a model of a table: it asks what it cannot see, tells what will hurt, and writes the files."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli_call import Home

if TYPE_CHECKING:
    from flows.steps.new.choose import Chosen


def add(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="new")(new)


def new(
    name: Annotated[str, typer.Argument(help="Name of the new model: lower-case letters, digits, underscores.")],
    data: Annotated[str, typer.Option(help="CSV or parquet file, folder, glob, or http(s) or s3 URL.")],
    time: Annotated[str | None, typer.Option(help="Column of the time; or DATE,HOUR; or one that counts.")] = None,
    label: Annotated[str | None, typer.Option(help="Column to be predicted.")] = None,
    entity: Annotated[str | None, typer.Option(help="Columns whose values each have a past, with commas.")] = None,
    key: Annotated[
        str, typer.Option(help="Columns that name one row, an id; default: time, entities and what it takes.")
    ] = "",
    task: Annotated[str | None, typer.Option(help="regression, binary or multiclass.")] = None,
    drop: Annotated[str, typer.Option(help="Columns to leave out, with commas.")] = "",
    keep: Annotated[str, typer.Option(help="Columns to keep, whatever is found against them.")] = "",
    start: Annotated[str | None, typer.Option(help="Time of the first row, where the rows count: 2024-01-01.")] = None,
    every: Annotated[
        str | None, typer.Option(help="Time from row to row, where the rows count: 30min, 1h, 1d.")
    ] = None,
    delay: Annotated[str | None, typer.Option(help="How long after its row a label is known: 1h, 1d.")] = None,
    zone: Annotated[
        str, typer.Option(help="IANA time zone whose hours and days count, and of times without one.")
    ] = "UTC",
    into: Annotated[
        Path | None, typer.Option(help="Folder of your own package of models; default: flows/models.")
    ] = None,
    home: Home = None,
) -> None:
    """Make a model of a table: look at it, warn of what will hurt, write the files to be read and edited."""
    from flows.errors import UsageError
    from flows.lookup import known_models
    from flows.settings import Settings
    from flows.spec import NAME
    from flows.steps.in_memory import connect
    from flows.steps.new import choose, drafting, table
    from flows.steps.new.wanted import Wanted, parse_moment, parse_names, parse_span, parse_task, parse_zone, refuse

    settings = Settings() if home is None else Settings(home=home)
    if not NAME.fullmatch(name) or iskeyword(name) or name in known_models(settings):
        known = name in known_models(settings)
        why = (
            "is a model already"
            if known
            else "is no name: lower-case letters, digits and underscores, a letter first, and no word of Python's"
        )
        raise UsageError(f"{name[:60]!r} {why}; choose another name")
    place = drafting.place_of(name, into)
    wanted = Wanted(
        name=name, data=_absolute(data), label=label, zone=parse_zone(zone), drop=parse_names(drop), keep=parse_names(keep),
        key=parse_names(key),
        time=None if time is None else parse_names(time), entity=None if entity is None else parse_names(entity),
        task=None if task is None else parse_task(task), start=None if start is None else parse_moment(start),
        every=None if every is None else parse_span(every), delay=None if delay is None else parse_span(delay),
    )  # fmt: skip
    asks = sys.stdin.isatty() and sys.stdout.isatty()
    with connect(settings.home) as connection:
        looked = table.load(connection, wanted.data, settings)
        if asks and entity is None:
            names = str(typer.prompt("Whose past counts: entity columns, with commas (empty for none)", default=""))
            wanted = wanted.model_copy(update={"entity": parse_names(names)})
        answer = _prompt if asks else refuse
        chosen = choose.choose(connection, looked, wanted, answer, place.package, place.definitions_module)
    written = drafting.write(place, drafting.render(chosen.draft))
    drafting.check(place, chosen.draft)
    _show(chosen, written, place.package, into, settings.model_packages)


def _prompt(question: str, _option: str) -> str:
    return str(typer.prompt(question))


def _absolute(data: str) -> str:
    """Return where the data is, the same from every folder."""
    return data if "://" in data else str(Path(data).expanduser().absolute())


def _show(chosen: Chosen, written: list[Path], package: str, into: Path | None, packages: Sequence[str]) -> None:
    """Say what was inferred, what will hurt, what was written and what comes next.

    ``packages`` are those in which models are looked up already.
    """
    from flows.steps.new import drafting
    from flows.terminal import line, to_copy

    for text in chosen.notes:
        line(f"  {text}", "dim")
    for text in chosen.warnings:
        line(f"! {text}", "yellow")
    for path in written:
        line(f"+ {path}", "green")
    name = chosen.draft.name
    if into is not None:
        root = drafting.root_to_name(into, package)
        if root is not None:
            to_copy(f"export PYTHONPATH={shlex.quote(str(root))}${{PYTHONPATH:+:$PYTHONPATH}}")
        holder = package.rpartition(".")[0]
        if holder not in packages:
            to_copy(f"export EVERGREEN_MODEL_PACKAGES={shlex.quote(json.dumps([*packages, holder]))}")
    line("Read and edit them, then:", "bold")
    # Quoted, or the shell would make several sources of one glob.
    for command in ("ingest " + shlex.quote(chosen.draft.origin), "featurize", "train", "serve"):
        to_copy(f"  uv run evergreen {command} --model {name}")
    line(f"or all at once: uv run evergreen demo --model {name}")
    line(f"What retraining will bring: uv run evergreen backtest --model {name}")
