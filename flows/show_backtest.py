"""What the command line shows of a backtest."""

from __future__ import annotations

from typing import Any

from flows.terminal import GOOD, QUIET, console, line, table


def show_backtest(found: dict[str, Any]) -> None:
    """Show the policies, what follows, and where the page is."""
    from flows.steps.backtest import page
    from flows.steps.backtest.findings import Findings

    findings = Findings.model_validate({name: value for name, value in found.items() if name != "files"})
    title = f"{findings.model}: {findings.periods[0]} to {findings.periods[-1]} by {findings.every}"
    rows = page.rows(findings)
    drawn = table(page.COLUMNS, rows, title=title)
    for name, column, values in zip(page.COLUMNS, drawn.columns, zip(*rows, strict=True), strict=True):
        # As narrow as its words allow: in 80 columns the two policies of retrainopt would be cut to one name.
        column.width = max(map(len, [*name.split(), *map(str, values)]))
        column.justify = "left" if column is drawn.columns[0] else "right"
    console.print(drawn)
    for text in page.conclusions(findings):
        line(text, GOOD)
    costs = f"a training {findings.costs.training:.4g}, a unit of error in one prediction {findings.costs.error:g}"
    line(f"Costs {findings.costs_from}: {costs}", QUIET)
    kept = f"{findings.windows} windows, {findings.found_before} trained before; {findings.seconds:.0f} s"
    line(f"{kept}; page: {found['files']['html']}", QUIET)
