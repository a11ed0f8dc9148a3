"""What a policy is told of the predictions of the model in force, live and in a backtest alike."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.errors import ContractError
from flows.settings import Settings
from flows.spec import Costs, Metric, ModelSpec
from flows.steps import labels, metrics, past
from flows.steps.labels import DAY, HOUR, labelled, microseconds
from flows.steps.performance import Expected, due_losses, losses_of, monitored
from flows.steps.policies import COSTED, POLICIES, Known, Served

if TYPE_CHECKING:
    from flows.steps.metrics import Floats
    from flows.steps.reference import Reference

MISS = 0.5  # between a hit, 0, and a miss, 1
LONGEST_DAYS = 366  # that a policy looks back


def know(
    settings: Settings,
    spec: ModelSpec,
    version: int,
    reference: Reference,
    uris: Sequence[str],
    begun: datetime,
    now: datetime,
) -> Known | None:
    """Return what the spec's policy is told of a version's logged predictions since the last training has ``begun``.

    None for a policy that goes by thresholds alone. Raises ContractError for one that weighs costs which no one states.
    """
    policy = spec.triggers.policy
    if policy not in POLICIES:
        return None
    if policy in COSTED and spec.costs is None:
        raise ContractError(
            f"{spec.name}: the policy {policy} weighs costs; set spec.costs, or another triggers.policy"
        )
    rows = labels.read_newest(settings, spec, version, reference.drift.end, LONGEST_DAYS)
    rows = rows.filter(pc.greater_equal(rows["at"], pa.scalar(begun, rows["at"].type))) if rows.num_rows else rows
    told = observe(spec, labels.join_labels(spec, rows, uris), reference.expected) if rows.num_rows else {}
    return Known(
        costs=spec.costs or Costs(training=0.0), days=(now - begun) / timedelta(days=1),
        past=past.read(settings, spec.name) if policy in COSTED else None, **told,
    )  # fmt: skip


def observe(spec: ModelSpec, joined: pa.Table, expected: Expected) -> dict[str, Any]:
    """Return ``served``, ``losses`` and ``limit`` of a policy's ``Known`` from predictions joined with their labels.

    A step is a day of 24 hours from the first event on.
    """
    rows, metric = labelled(joined), monitored(spec, expected)
    losses = losses_of(spec, metric, rows)
    if not len(losses):
        return {}
    due = due_losses(spec, expected, rows)
    times = microseconds(rows)
    day = (times - times.min()) // DAY
    served = []
    for one in np.unique(day):
        chosen = day == one
        error, spread = _error(metric, losses[chosen], times[chosen] // HOUR)
        served.append(
            Served(rows=int(chosen.sum()), error=error, expected=metrics.error(metric, due[chosen]), spread=spread)
        )
    order = np.argsort(rows["label_timestamp"].to_numpy(), kind="stable")
    series, limit = losses[order], MISS
    if metric.name != "accuracy":
        # In units of what its test lets expect, and not squared: one outlier is no change.
        series, limit = series / max(float(np.mean(due)), 1e-300), 1.0
        series = np.sqrt(series) if metric.name == "rmse" else series
    return {"served": tuple(served), "losses": series, "limit": limit}


def _error(metric: Metric, losses: Floats, hours: Any) -> tuple[float, float]:
    """Return the error of some rows and its standard deviation by chance; rows of one hour are alike, hours are not."""
    mean = float(np.mean(losses))
    block = metrics.blocks_of(hours, 0)
    strays = np.bincount(block, weights=losses - mean)
    spread = float(np.sqrt(np.square(strays).sum())) / len(losses)
    error = metrics.error(metric, losses)
    return error, spread / (2.0 * error) if metric.name == "rmse" and error else spread
