"""What the command line shows of a backtest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from flows.terminal import GOOD, QUIET, console, line, table


def show_backtest(found: dict[str, Any]) -> None:
    """Show the policies, what follows, and where the page is."""
    from flows.steps.backtest import page
    from flows.steps.backtest.findings import Findings

    findings = Findings.model_validate({name: value for name, value in found.items() if name != "files"})
    title = f"{findings.model}: {findings.periods[0]} to {findings.periods[-1]} by {findings.every}"
    console.print(_drawn(page.COLUMNS, page.rows(findings), title))
    for text in page.conclusions(findings):
        line(text, GOOD)
    costs = f"a training {findings.costs.training:.4g}, a unit of error in one prediction {findings.costs.error:g}"
    line(f"Costs {findings.costs_from}: {costs}", QUIET)
    kept = f"{findings.windows} windows, {findings.found_before} trained before; {findings.seconds:.0f} s"
    line(f"{kept}; page: {found['files']['html']}", QUIET)


def _drawn(names: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> Table:
    """Return the policies as a table as narrow as its words allow: in 80 columns a folded amount would be read as another."""
    drawn = table(names, rows, title=title)
    drawn.collapse_padding = True
    for name, column, values in zip(names, drawn.columns, zip(*rows, strict=True), strict=True):
        column.width = max(map(len, [*name.split(), *values]))
        column.justify = "left" if column is drawn.columns[0] else "right"
    return drawn
