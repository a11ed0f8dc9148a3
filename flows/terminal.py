"""The terminal: how lines and tables are printed, what libraries may not print, and how a signal ends a command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

console = Console(highlight=False, soft_wrap=False)
GOOD, BAD, QUIET = "green", "red", "dim"
MARKS = {
    "accepted": GOOD, "completed": GOOD, "champion": GOOD, "quarantined": BAD, "failed": BAD, "crashed": BAD,
    "replaced": QUIET, "cancelled": QUIET, "served before": QUIET, "passed": GOOD, "stopped": QUIET,
}  # fmt: skip


_interrupted: list[int] = []


def end_on_signals() -> None:
    """Make SIGINT and SIGTERM a KeyboardInterrupt, and remember it: libraries turn it into errors of their own.

    One that Python loses, in a callback from which nothing can be raised, is raised again.
    """

    def interrupt(number: int, _: object) -> None:
        _interrupted.append(number)
        raise KeyboardInterrupt

    def lost(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        else:
            sys.__unraisablehook__(unraisable)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, interrupt)
    sys.unraisablehook = lost


def stop_if_interrupted() -> None:
    """Raise KeyboardInterrupt if a signal asked for the end."""
    if _interrupted:
        raise KeyboardInterrupt


def quiet_libraries() -> None:
    """Keep the libraries' logs and warnings off the terminal; Prefect's own go to its server all the same."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # its errors come back as exceptions
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.captureWarnings(False)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    """Return a table; a cell is shown as it is, never as markup, and coloured if it names a known state."""
    drawn = Table(
        *columns, title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False
    )
    for column in drawn.columns:
        column.overflow = "fold"  # a name that is cut short may be another's
    for row in rows:
        drawn.add_row(*(Text("-" if cell is None else str(cell), style=MARKS.get(str(cell), "")) for cell in row))
    return drawn


def line(text: str, style: str = "") -> None:
    """Print one line."""
    console.print(Text(text, style=style))


def to_copy(text: str) -> None:
    """Print one line that is meant to be copied: none is broken by the width of the terminal."""
    console.print(Text(text), soft_wrap=True)
