"""What a person is shown of features and of an adopted experiment."""

from __future__ import annotations

from typing import Any

from flows.show import GOOD, QUIET, console, line, table
from flows.steps.pages import number


def show_features(found: list[dict[str, Any]]) -> None:
    """Show features by their views, each with a few figures and who uses it."""
    if not found:
        line("no such feature is registered; `evergreen featurize` registers a model's")
        return
    figures = ("count", "missing", "mean", "min", "q50", "max")
    for view in dict.fromkeys(one["view"] for one in found):
        rows = [one for one in found if one["view"] == view]
        first = rows[0]
        console.print()
        line(
            f"{view}, by {first['keys'] or 'no key'}; owner {first['owner'] or 'nobody'}; {first['tags'] or 'no tags'}",
            "bold",
        )
        console.print(
            table(
                ["feature", "type", "used by", *figures, "what"],
                [
                    (
                        one["feature"],
                        one["type"],
                        one["models"],
                        *(number(one[name]) for name in figures),
                        one["description"],
                    )
                    for one in rows
                ],
            )
        )
    line(f"{len(found)} features; figures of stored ones alone: at request a feature is computed, not stored", QUIET)


def show_adopted(found: dict[str, Any]) -> None:
    """Show the change that was opened, and what to do with it."""
    where = f"branch {found['branch']}, commit {found['commit'][:12]}" if found["commit"] else f"patch {found['patch']}"
    line(f"{where}: changes {', '.join(found['files'])} in {found['repository']}", GOOD)
    line(found["hint"], QUIET)
