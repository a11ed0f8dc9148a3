"""What the command line shows of benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import groupby
from typing import Any

from flows.steps import bench_page
from flows.steps.bench import Machine, Result
from flows.terminal import BAD, QUIET, console, line, table

COLUMNS = ("beside", "ours", "other", "ratio", "spread", "bound", "")
WIDTHS = (16, 9, 9, 7, 15, 6, 6)  # the same for all figures, and 80 in all


def progress(name: str) -> Callable[[str], None]:
    """Return what shows the lines that a benchmark prints, on stderr, so that JSON stays alone on stdout."""
    print(f"{name} ...", file=sys.stderr, flush=True)  # noqa: T201 (rich writes to stdout)
    return lambda text: print(f"  {text}", file=sys.stderr, flush=True)  # noqa: T201 (the same)


def show_listed(found: list[dict[str, Any]]) -> None:
    """Show which benchmarks there are."""
    rows = [(one["name"], one["what"], f"{one['minutes']:g}", one["needs"]) for one in found]
    console.print(table(("benchmark", "measures", "minutes", "needs"), rows))


def show_benchmarks(found: dict[str, Any]) -> None:
    """Show a table for each figure, the machine, what became worse, and where the page is."""
    results = [Result.model_validate(one) for one in found["results"]]
    line("ours beside the other, medians of one run", "bold")
    for name, group in groupby(bench_page.rows(results), lambda row: row[0]):
        line(f"\n{name}", "bold")
        drawn = table(COLUMNS, [(*row[1:5], f"{row[5]}-{row[6]}", *row[7:]) for row in group])
        for column, width in zip(drawn.columns, WIDTHS, strict=True):
            column.width = width
        for column in drawn.columns[1:5]:
            column.justify = "right"
        console.print(drawn)
    for one in results:
        if one.differences:
            rows = [(line.what, line.ours, line.other, line.shown) for line in one.differences]
            console.print(table(("", "ours", "the other", "shown by"), rows, title=f"{one.name}: what the other lacks"))
        if one.failure:
            line(f"{one.name} could not run: {one.failure}", BAD)
    for text in found["worse"]:
        line(f"worse: {text}", BAD)
    line(bench_page.described(Machine.model_validate(found["machine"])), QUIET)
    line(f"page: {found['page']}", QUIET)
