"""The commands of delivery and care: plan, candidate, smoke, deliver, doctor, backup, restore; people and CI run the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli_call import AsJson, Home, Model, Why, open_home, report, run_flow
from flows.errors import RefusedError, UsageError


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (doctor, backup, restore, simulate, plan, candidate, smoke, deliver):
        app.command()(command)


def doctor(model: Model = "taxi", home: Home = None, as_json: AsJson = False) -> None:
    """Look at every part that the settings use, and say how to mend what is wrong; changes nothing."""
    from flows.lookup import load_model
    from flows.settings import Settings
    from flows.show import show_findings
    from flows.steps.doctor import examine
    from flows.terminal import quiet_libraries

    settings = Settings() if home is None else Settings(home=home)
    spec = load_model(model, settings)
    quiet_libraries()
    found = examine(settings, spec)
    report([one._asdict() for one in found], as_json, show_findings)
    if any(one.state == "bad" for one in found):
        raise typer.Exit(1)


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Tar file to write; gzipped if its name ends in gz.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write a home into one file, as it is at one moment; what runs on it may go on."""
    from flows.settings import Settings
    from flows.show import show_lines
    from flows.steps.backup import backup as write

    report(write(Settings() if home is None else Settings(home=home), file), as_json, show_lines)


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `evergreen backup` wrote.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Make a home from a backup, in a folder that is empty or not there yet."""
    from flows.settings import Settings
    from flows.show import show_lines
    from flows.steps.backup import restore as read

    report(read(Settings() if home is None else Settings(home=home), file), as_json, show_lines)


def simulate(
    folder: Annotated[Path, typer.Argument(help="Where the files are written, one a day.")],
    days: Annotated[int, typer.Option(min=1, max=3650)] = 10,
    trips: Annotated[int, typer.Option(min=100, max=1_000_000, help="Of each day.")] = 2000,
    first: Annotated[str, typer.Option(help="The first day, as YYYY-MM-DD.")] = "2024-01-01",
) -> None:
    """Write days of simulated taxi trips, always the same ones: a sample for trials."""
    from datetime import date, timedelta

    from flows.models.taxi.simulator import simulate_day
    from flows.steps.files import replacing

    try:
        start = date.fromisoformat(first)
    except ValueError as error:
        raise UsageError(f"--first {first!r} is no day; write it as 2024-01-01") from error
    for number in range(days):
        day = start + timedelta(days=number)
        with replacing(folder / f"{day}.parquet") as path:
            simulate_day(day, trips=trips).to_parquet(path)


def plan(
    allow_destructive: Annotated[
        bool, typer.Option("--allow-destructive", help="Let through what takes away what a served version reads.")
    ] = False,
    model: Model = "taxi",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show what applying the feature definitions would change; refuse what is destructive, or defined twice."""
    from flows import database, run_records
    from flows.lookup import load_model
    from flows.show import show_changes
    from flows.steps import feature_plan
    from flows.terminal import quiet_libraries

    settings = open_home(home, model)
    quiet_libraries()
    spec = load_model(model, settings)
    found, pairs = feature_plan.changes(settings, spec), feature_plan.repeated(spec)
    if settings.ledger_exists:
        found += feature_plan.recomputed(
            spec, run_records.since_completed(database.connect(settings), spec.name, "featurize")
        )
    report([one.model_dump() for one in found], as_json, show_changes)
    if pairs:
        raise RefusedError(f"{pairs[0][1]} repeats {pairs[0][0]} under another name; use the one that is there")
    hard = [one.what for one in found if one.destructive]
    if hard and not allow_destructive:
        raise RefusedError(
            f"destructive: {', '.join(hard)}; add features under new names, or let it through with --allow-destructive"
        )


def candidate(
    folder: Annotated[Path, typer.Argument(help="Where the comment and the pictures are written.")],
    reason: Annotated[str, typer.Option(help="Why, kept in the lineage.")] = "candidate",
    model: Model = "taxi",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Train on what the home holds, and write what a reviewer reads of it: figures, gates, pictures beside the champion's."""

    def call() -> Any:
        from flows.featurize import featurize
        from flows.train import train

        featurize(model=model)
        return train(model=model, reason=reason, force=True)

    from flows import database
    from flows.lookup import load_model
    from flows.show import show_lines
    from flows.steps.candidate import write_report

    outcome = run_flow(home, model, call, needs=("flows.train", "flows.steps.lean_feast", "skops.io", "mlflow"))
    settings = open_home(home, model)
    spec = load_model(model, settings)
    page = write_report(settings, spec, database.connect(settings), outcome["run_id"], folder)
    report({"page": str(page), "failed": outcome["failed"], "version": outcome["version"]}, as_json, show_lines)
    if outcome["failed"]:
        raise typer.Exit(1)


def smoke(
    url: Annotated[str | None, typer.Option(help="A running service; default: one is started for it.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long it is put under load.")] = 60.0,
    p99: Annotated[float, typer.Option(min=0.1, help="Milliseconds in which 99 of 100 answers must come.")] = 250.0,
    model: Model = "taxi",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Test a prediction service as it runs: ready, its contract, a prediction, a refusal, no failure under load."""
    from flows.lookup import load_model
    from flows.show import show_lines
    from flows.steps import processes, serving
    from flows.steps.smoke import smoke as test

    settings = open_home(home, model)
    spec, key = load_model(model, settings), settings.service_api_key.get_secret_value()
    if url is not None:
        report(test(url, spec, seconds, p99, key), as_json, show_lines)
        return
    process = serving.start(settings, model)
    try:
        known = serving.find(settings, model)
        assert known is not None
        report(test(known["url"], spec, seconds, p99, key), as_json, show_lines)
    finally:
        processes.stop(process)


def deliver(
    source: Annotated[
        str, typer.Argument(metavar="VERSION", help="Source tree or train image; `-` puts back the one before.")
    ],
    to: Annotated[str, typer.Option(help="Place, a file in deployments/environments, or the folder of a home.")],
    after: Annotated[str | None, typer.Option(help="Place in which the version must be in force.")] = None,
    name: Annotated[str, typer.Option(help="What the ledger calls the version; default: its folder or image.")] = "",
    trial: Annotated[bool, typer.Option(help="Also train and serve there; off where --after is given.")] = True,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long the trial's service is put under load.")] = 60.0,
    p99: Annotated[float, typer.Option(min=0.1, help="Milliseconds in which 99 of 100 answers must come.")] = 250.0,
    allow_destructive: Annotated[
        bool, typer.Option("--allow-destructive", help="Let through what takes away what a served version reads.")
    ] = False,
    why: Why = "",
    model: Model = "taxi",
    as_json: AsJson = False,
) -> None:
    """Deliver a pipeline version to a place; if it fails there, the version before is put back."""
    from deployments import delivery, places
    from flows import database
    from flows.lookup import load_model
    from flows.show import show_lines
    from flows.terminal import end_on_signals, quiet_libraries

    quiet_libraries()
    end_on_signals()  # what it has begun is put back then as well
    passed = None
    if after is not None:
        theirs = places.settings_of(after)
        if not theirs.ledger_url and not theirs.home.exists():
            raise RefusedError(f"{after} ({theirs.home}) is not there, so nothing has passed in it")
        theirs.home.mkdir(parents=True, exist_ok=True)
        passed = (after, database.connect(theirs))
    settings = places.enter(to)
    spec = load_model(model, settings)
    if source == "-":
        found = delivery.back(settings, spec, why or "put back by hand")
    else:
        source = str(Path(source).resolve()) if Path(source).is_dir() else source
        found = delivery.deliver(
            settings, spec, source, name or Path(source).name, why or "delivered", trial=trial and after is None,
            passed_in=passed, smoke=["--seconds", str(seconds), "--p99", str(p99)], allow_destructive=allow_destructive,
        )  # fmt: skip
    report(found, as_json, show_lines)


def promote_across(source: str, target: str, version: int | None, why: str, model: str, as_json: bool) -> None:
    """Copy a version from one place's registry to another's and make it the champion there; nothing is trained anew."""
    from deployments import places
    from flows import database, ledger
    from flows.lookup import load_model
    from flows.show import show_promoted
    from flows.steps import transfer

    giver = places.settings_of(source)
    taker = places.enter(target)
    if giver.ledger == taker.ledger:
        raise UsageError(f"{source} and {target} are the same place; name two")
    spec = load_model(model, taker)
    theirs, ours = database.connect(giver), database.connect(taker)
    if not why:
        transfer.refuse_incomparable(theirs, ours, model)
    number = version if version is not None else transfer.served(theirs, model)
    made = transfer.copy_version(giver, taker, spec, number, ledger.highest_version(ours, model))

    def call() -> Any:
        from flows.promote import promote as flow

        return flow(model=model, version=made.version, why=why or f"version {number} of {source}, copied")

    report(run_flow(taker.home, model, call), as_json, show_promoted)


def home_at(place: str | None, home: Path | None) -> Path | None:
    """Make a place that of this process if one is named, and return its home; otherwise the home that was given."""
    if place is None:
        return home
    if home is not None:
        raise UsageError("--at names a place, --home a folder: give one of them")
    from deployments import places

    return places.enter(place).home
