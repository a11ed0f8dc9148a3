"""What a person is shown of features and of an adopted experiment."""

from __future__ import annotations

from typing import Any

from flows.steps.pages import number
from flows.terminal import GOOD, QUIET, console, line, table

FIGURES = ("count", "missing", "mean", "min", "q50", "max")


def show_features(found: list[dict[str, Any]]) -> None:
    """Show features by their views, each with a few figures and who uses it."""
    if not found:
        line("no such feature is registered; `evergreen featurize` registers a model's")
        return
    for view in dict.fromkeys((one["view"], one["models"]) for one in found):
        rows = [one for one in found if (one["view"], one["models"]) == view]
        console.print()
        line(f"{view[0]}, by {rows[0]['keys'] or 'no key'}; used by {view[1] or 'no model'}", "bold")
        line(f"owner {rows[0]['owner'] or 'nobody'}; {rows[0]['tags'] or 'no tags'}", QUIET)
        texts = {one["description"] for one in rows}
        if len(texts) == 1:
            line(texts.pop(), QUIET)
        lines = []
        for one in rows:
            lines.append((one["feature"], *(number(one[name]) for name in FIGURES)))
            lines += [(f"  {one['description']}", *[""] * len(FIGURES))] if texts else []
        drawn = table(["feature", *FIGURES], lines)
        for column in drawn.columns[1:]:
            column.no_wrap, column.justify = True, "right"
        console.print(drawn)
    line(f"{len(found)} features; what is computed at a request has no figures, --json has quantiles", QUIET)


def show_adopted(found: dict[str, Any]) -> None:
    """Show the change that was opened, and what to do with it."""
    where = f"branch {found['branch']}, commit {found['commit'][:12]}" if found["commit"] else f"patch {found['patch']}"
    line(f"{where}: changes {', '.join(found['files'])} in {found['repository']}", GOOD)
    line(found["hint"], QUIET)
