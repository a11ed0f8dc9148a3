"""The command that runs the benchmarks of the source tree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli_call import AsJson, Home, open_home, report


def add(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="bench")(bench)


def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these; default: all.")] = None,
    only_list: Annotated[bool, typer.Option("--list", help="Say which there are, and run none.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="End with status 1 if a ratio is worse than the recorded one.")
    ] = False,
    record: Annotated[bool, typer.Option("--record", help="Keep the figures in the source tree, for --check.")] = False,
    html: Annotated[Path | None, typer.Option(help="Where to write the page; default: in the home's docs.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Measure Evergreen beside what it is built on: ratios from one run each, on this machine."""
    from flows.show_bench import progress, show_benchmarks, show_listed
    from flows.steps import bench as steps
    from flows.steps import bench_page

    wanted = steps.chosen(names or [])
    if only_list:
        report([one.model_dump() for one in wanted], as_json, show_listed)
        return
    before = steps.recorded()
    page = html or open_home(home, "taxi").docs / "bench.html"
    here = steps.machine()
    results = [steps.run(one, progress(one.name)) for one in wanted]
    slower = steps.worse(results, before) if before and check else []
    bench_page.write(here, results, before, page)
    if record:
        steps.record(here, results)
    found = {
        "machine": here.model_dump(),
        "results": [one.model_dump() for one in results],
        "worse": slower,
        "page": str(page),
    }
    report(found, as_json, show_benchmarks)
    if slower or any(one.failure for one in results):
        raise typer.Exit(1)
