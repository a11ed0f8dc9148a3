"""Rolling windows as ibis expressions: statistics of the rows that were known at each tick, over the time before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import ibis
import ibis.expr.types as ir

TICK = "tick"
UNITS = 1_000_000  # of ``mean``: what it counts in are millionths

Expression = Callable[[ir.Table, ir.Table], ir.Table]  # of a feature view, over rows and ticks
Computed = Callable[[str, Expression], str]  # SQL of a view's rows, by its name and expression


def rolling(rows: ir.Table, ticks: ir.Table, by: Sequence[str], window: timedelta, **statistics: Any) -> ir.Table:
    """Return the statistics of each group at each tick T: of its rows in [T - window, T) whose label was known at T.

    ``rows`` has ``event_timestamp`` and ``label_timestamp``, ``ticks`` has ``tick``, all times of one zone. A statistic
    is a deferred ibis expression of the joined table, such as ``ibis._.minutes.mean()``; one over a shorter window
    takes ``where=recent(...)``. A group without a row at T has no row. Columns out: ``by``, ``event_timestamp`` (T)
    and the statistics.
    """
    seen = seen_at(rows, ticks, window)
    return seen.group_by([*by, TICK]).aggregate(**statistics).rename(event_timestamp=TICK)


def seen_at(rows: ir.Table, ticks: ir.Table, window: timedelta) -> ir.Table:
    """Return each row beside each tick T that it counts for: in [T - window, T), with a label known at T."""
    return rows.join(
        ticks,
        [
            rows.event_timestamp >= ticks[TICK] - ibis.interval(seconds=_seconds(window)),
            rows.event_timestamp < ticks[TICK],
            rows.label_timestamp <= ticks[TICK],
        ],
    )


def recent(window: timedelta) -> Any:
    """Return the condition that a row of ``rolling`` lies in the last ``window`` before its tick."""
    return ibis._.event_timestamp >= ibis._[TICK] - ibis.interval(seconds=_seconds(window))


def mean(values: Any, where: Any = None) -> Any:
    """Return the mean of numbers to six decimals, the same whatever the order of the rows; what is not finite is left out.

    A sum of floats depends on its order in the last bits, and a join yields its rows in any order; a sum of whole numbers
    does not (exact up to 2^53 millionths where the engine sums in floats).
    """
    return (values * UNITS).try_cast("int64").mean(where=where) / UNITS


def _seconds(window: timedelta) -> int:
    return round(window.total_seconds())
