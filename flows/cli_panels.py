"""What ``evergreen --help`` lists: the commands by what they are for, in the order in which one comes to need them."""

from __future__ import annotations

import typer

PANELS = {
    "Begin": ("demo", "new", "up"),
    "Data and features": ("ingest", "label", "partitions", "featurize", "features", "plan", "simulate"),
    "Train and compare": ("train", "backtest", "versions", "diff", "candidate", "adopt"),
    "Promote and serve": ("promote", "trial", "rollback", "serve", "score"),
    "Watch": ("status", "monitor", "triggers"),
    "Trace": ("lineage", "reproduce"),
    "Operate": ("deploy", "doctor", "backup", "restore", "deliver", "smoke", "bench"),
}


def arrange(app: typer.Typer) -> None:
    """Put each command of the application into its panel; raises KeyError for one that has none."""
    panels = {name: panel for panel, names in PANELS.items() for name in names}
    order = list(panels)
    for command in app.registered_commands:
        command.rich_help_panel = panels[_name(command)]
    app.registered_commands.sort(key=lambda command: order.index(_name(command)))


def _name(command: typer.models.CommandInfo) -> str:
    return command.name or (command.callback.__name__ if command.callback else "")
