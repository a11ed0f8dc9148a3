"""What `--help` lists and what README's table says are the same commands, under the same heads."""

from __future__ import annotations

import re
from pathlib import Path

from flows.cli import app
from flows.cli_panels import PANELS

ROOT = Path(__file__).parents[2]
ALONGSIDE = {"restore"}  # in the row of backup


def test_each_command_stands_once_under_a_head_and_in_the_order_of_the_heads() -> None:
    listed = [
        (one.rich_help_panel, one.name or getattr(one.callback, "__name__", "")) for one in app.registered_commands
    ]
    assert listed == [(panel, name) for panel in PANELS for name in PANELS[panel]]


def test_the_readme_lists_the_commands_under_the_same_heads() -> None:
    table = (ROOT / "README.md").read_text().split("| command | does |")[1].split("\n\n")[0]
    heads = re.findall(r"^\| \*\*(.+?)\*\* \||^\| `evergreen ([a-z]+)", table, re.MULTILINE)
    found: dict[str, list[str]] = {}
    for head, command in heads:
        names = found.setdefault(head, []) if head else list(found.values())[-1]
        if command and command not in names:
            names.append(command)
    assert found == {panel: [name for name in names if name not in ALONGSIDE] for panel, names in PANELS.items()}
