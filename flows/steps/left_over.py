"""Runs that the ledger holds as running though whoever ran them is gone."""

from __future__ import annotations

import platform
import re

from flows.ledger import Run

EXECUTOR = re.compile(r"@(?P<host>\S+) pid (?P<pid>\d+)$")
SLACK_SECONDS = 5.0  # a process is older than the run that it has begun


def is_gone(run: Run) -> bool | None:
    """Say whether the process that ran a run is gone; None if that was on another machine, or cannot be said."""
    import psutil

    found = EXECUTOR.search(run.executor)
    if found is None or found["host"] != platform.node():
        return None
    try:
        process = psutil.Process(int(found["pid"]))
        reused = process.create_time() > run.started_at.timestamp() + SLACK_SECONDS
        return bool(reused or process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
