"""All that a backtest found: the figures that are printed, stored, logged and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.errors import UsageError
from flows.settings import Settings
from flows.spec import Costs, Frozen, PolicyName
from flows.steps.backtest.recommend import Advice, Verdict, advise, cheapest
from flows.steps.backtest.replay import Bench, Outcome, best_plan
from flows.steps.files import write_text

if TYPE_CHECKING:
    from flows.spec import ModelSpec

POLICIES: tuple[PolicyName, ...] = (
    "never", "every-period", "new-data", "drift", "adwin", "ddm", "page-hinkley", "performance", "cara-threshold",
    "cara-cumulative", "cara-periodic", "retrainopt-base", "retrainopt-learned", "cost-aware", "spec",
)  # fmt: skip
SHARE = 0.02  # of what the errors of a period cost, a training is taken to cost if nobody says what it does


class Findings(Frozen):
    """What a backtest found; ``errors[s][t]`` is that of the model trained before period s on period t, None for t < s."""

    model: str
    metric: str
    unit: str
    every: str
    periods: tuple[str, ...]
    start: datetime
    end: datetime
    at: datetime
    judge_days: float
    costs: Costs
    costs_from: str
    rows: tuple[int, ...]
    errors: tuple[tuple[float | None, ...], ...]
    windows: int
    found_before: int
    seconds: float
    outcomes: tuple[Outcome, ...]
    best: Outcome
    verdict: Verdict
    advice: Advice


def parse_policies(names: Sequence[str]) -> list[PolicyName]:
    """Return the policies that a person named; raises UsageError for one that is not known."""
    unknown = [name for name in names if name not in POLICIES]
    if unknown:
        raise UsageError(f"policy {unknown[0][:40]!r} is not known; known are: {', '.join(POLICIES)}")
    return [name for name in POLICIES if name in names]


def costs_of(spec: ModelSpec, training: float | None, error: float | None, errors: Any, rows: Any) -> tuple[Costs, str]:
    """Return the costs to reckon with, and where they come from: the call, the spec, or an assumption."""
    unit = error if error is not None else spec.costs.error if spec.costs else 1.0
    if training is not None:
        return Costs(training=training, error=unit), "as given"
    if spec.costs is not None:
        return Costs(training=spec.costs.training, error=unit), "of the spec"
    fresh = float(np.mean(np.diag(errors) * rows)) * unit
    return Costs(training=SHARE * fresh, error=unit), (
        f"assumed: a training costs {SHARE:.0%} of what a new model's errors cost in a period; say what it does with "
        "--cost-train"
    )


def beside_best(bench: Bench, lived: Sequence[Outcome]) -> tuple[tuple[Outcome, ...], Outcome]:
    """Return what came of policies, with the regret of each against the best schedule in hindsight, and that schedule."""
    best = best_plan(bench, bench.spec.triggers)
    return tuple(one.model_copy(update={"regret": one.total - best.total}) for one in lived), best


def conclude(
    bench: Bench, lived: Sequence[Outcome], every: str, judge: timedelta, at: datetime, costs_from: str, **more: Any
) -> Findings:
    """Return all that was found, once the policies have lived."""
    spec, steps = bench.spec, bench.history.steps
    outcomes, best = beside_best(bench, lived)
    errors = tuple(tuple(None if np.isnan(one) else float(one) for one in row) for row in bench.errors)
    return Findings(
        model=spec.name, metric=spec.metric.error,
        unit=spec.label.unit if spec.task == "regression" else "", every=every, periods=tuple(one.key for one in steps),
        start=steps[0].start, end=steps[-1].end, at=at, judge_days=judge / timedelta(days=1), costs=bench.costs,
        costs_from=costs_from, rows=tuple(int(one) for one in bench.rows), errors=errors, windows=len(bench.models),
        outcomes=outcomes, best=best, verdict=cheapest(outcomes), advice=advise(bench, spec.triggers), **more,
    )  # fmt: skip


def keep(settings: Settings, findings: Findings) -> Path:
    """Write the findings and return their file."""
    file = settings.backtests(findings.model) / f"backtest-{findings.at:%Y%m%dT%H%M%S%fZ}.json"
    return write_text(file, findings.model_dump_json(indent=1) + "\n")


def summary(findings: Findings, files: dict[str, str]) -> dict[str, Any]:
    """Return the findings as plain data, for JSON."""
    return {**findings.model_dump(mode="json"), "files": files}
