"""Runs that the ledger holds as running though whoever ran them is gone."""

from __future__ import annotations

import platform
import re

from flows.run_records import Run
from flows.steps.processes import lives

EXECUTOR = re.compile(r"@(?P<host>\S+) pid (?P<pid>\d+)$")


def is_gone(run: Run) -> bool | None:
    """Say whether the process that ran a run is gone; None if that was on another machine, or cannot be said."""
    found = EXECUTOR.search(run.executor)
    if found is None or found["host"] != platform.node():
        return None
    return not lives(int(found["pid"]), run.started_at.timestamp())
