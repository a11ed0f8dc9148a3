"""Runs that the ledger holds as running though whoever ran them is gone, and what a killed delivery leaves."""

from __future__ import annotations

import platform
import re
from typing import NamedTuple

from sqlalchemy.engine import Engine

from flows import ledger, run_records
from flows.run_records import Run
from flows.steps.processes import lives

DELIVER = "deliver"  # the flow of a delivery
CHAMPION_BEFORE = "champion_before"  # in its summary
EXECUTOR = re.compile(r"@(?P<host>\S+) pid (?P<pid>\d+)$")


def is_gone(run: Run) -> bool | None:
    """Say whether the process that ran a run is gone; None if that was on another machine, or cannot be said."""
    found = EXECUTOR.search(run.executor)
    if found is None or found["host"] != platform.node():
        return None
    return not lives(int(found["pid"]), run.started_at.timestamp())


class Killed(NamedTuple):
    """A delivery that was killed, in words, and how what its trial promoted is taken back, if it is to be."""

    told: str
    back: str


def killed_delivery(engine: Engine, model: str) -> Killed | None:
    """Return what the newest delivery has left if it was killed: it could put nothing back, and its trial may have promoted.

    One that failed since has put back what it changed itself.
    """
    run = next((one for one in run_records.newest(engine, model, None, DELIVER) if one.state != "failed"), None)
    if run is None or CHAMPION_BEFORE not in run.summary:
        return None
    if run.state != "crashed" and not (run.state == "running" and is_gone(run)):
        return None
    told = f"the delivery of {run.summary['version']} was killed"
    champion, before = ledger.champion(engine, model), run.summary[CHAMPION_BEFORE]
    if before is None or champion is None or champion.version == before:
        return Killed(told, "")
    told += f", and version {champion.version} has become the champion in place of version {before} since"
    return Killed(told, "`evergreen rollback` takes that back")
