"""The page of a backtest: one HTML file that needs nothing from elsewhere, and its table in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flows.spec import ModelSpec
from flows.steps import pages
from flows.steps.backtest.findings import Findings
from flows.steps.backtest.replay import Outcome
from flows.steps.pages import money, share, three_digits
from flows.steps.pictures import ACCENT, INK, QUIET, figure, png

ALARM, MILD = "#b3402f", "#d8c08a"
COLUMNS = (
    "policy",
    "cost",
    "over the best",
    "mean error",
    "trainings",
    "refused",
    "taken back",
    "stale days",
    "seconds",
)


def rows(findings: Findings) -> list[tuple[str, ...]]:
    """Return the table of policies, the cheapest first, after the best plan in hindsight; the columns are ``COLUMNS``."""
    ranked = sorted(findings.outcomes, key=lambda one: (one.total, len(one.trained)))
    return [
        (
            one.policy, money(one.total), money(one.regret), three_digits(one.mean_error),
            str(len(one.trained)), str(len(one.refused)), str(one.rollbacks), f"{one.stale_days:.0f}",
            money(one.seconds),
        )
        for one in (findings.best, *ranked)
    ]  # fmt: skip


def markdown(findings: Findings) -> str:
    """Return the findings as a short Markdown text with the table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row) + " |" for row in rows(findings)]
    return "\n".join([*conclusions(findings), "", *lines])


def conclusions(findings: Findings) -> list[str]:
    """Return what follows from the findings, in sentences."""
    verdict, advice = findings.verdict, findings.advice
    said = [f"Cheapest: {verdict.policy}, {money(verdict.total)}."]
    if verdict.rival and verdict.rival_total is not None and verdict.sure is not None:
        said[0] = said[0].removesuffix(".") + (
            f"; next of those that train at other times: {verdict.rival}, {money(verdict.rival_total)}. "
            f"{sureness(verdict.sure)}"
        )
    ratio = "off" if advice.performance_ratio is None else f"{advice.performance_ratio:g}"
    effect = "off" if advice.drift_effect is None else f"{advice.drift_effect:g}"
    said.append(
        f"Thresholds, if only errors and drift are to start trainings: performance_ratio {ratio}, drift_effect {effect}: "
        f"{advice.trainings} trainings, cost {money(advice.total)}; with the spec's own {money(advice.now_total)}. "
        + ("All thresholds tried train at the same times." if advice.sure is None else sureness(advice.sure))
    )
    return said


def sureness(value: float) -> str:
    """Return a share of resamples in words."""
    word = "Sure" if value >= 0.95 else "Likely" if value >= 0.8 else "Not sure"
    return f"{word}: cheaper in {share(value)} of resampled pasts."


def write(spec: ModelSpec, findings: Findings, path: Path) -> Path:
    """Write the page with its pictures, atomically."""
    drawn = {"policies": _draw_policies(findings), "errors": _draw_errors(findings), "matrix": _draw_matrix(findings)}
    shown = {name: pages.embedded(png(one)) for name, one in drawn.items()}
    reasons = [
        (one.policy, findings.periods[step], reason, "refused" if step in one.refused else "")
        for one in findings.outcomes
        if one.policy not in ("every-period", "never")
        for step, reason in zip(one.trained, one.reasons, strict=True)
    ]
    return pages.write(
        path, "backtest.html.j2", spec=spec, findings=findings, columns=COLUMNS, rows=rows(findings),
        conclusions=conclusions(findings),
        pictures=shown, reasons=reasons,
    )  # fmt: skip


def _ticks(axis: Any, periods: Sequence[str]) -> None:
    """Name at most a dozen of the periods."""
    step = -(-len(periods) // 12)
    axis.set_xticks(range(0, len(periods), step), periods[::step], rotation=30 if len(periods) > 6 else 0, ha="right")


def _draw_policies(findings: Findings) -> Any:
    """Draw how far each policy's cost is above the best plan's, and when it trained."""
    from matplotlib.ticker import MaxNLocator

    ranked: list[Outcome] = sorted(findings.outcomes, key=lambda one: (-one.total, -len(one.trained)))
    ranked = [*ranked, findings.best]
    drawing, ((left, right),) = figure(1, 2, 9.6, 0.27 * len(ranked) + 1.2)
    places = range(len(ranked))
    worst = sorted(one.regret for one in ranked)[-1]
    colours = [ACCENT if one.policy == findings.verdict.policy else QUIET for one in ranked]
    left.barh(places, [one.regret for one in ranked], 0.62, color=colours)
    for place, one in zip(places, ranked, strict=True):
        left.text(one.regret + 0.015 * max(worst, 1e-9), place, money(one.regret),
                  va="center", fontsize=7, color=INK)  # fmt: skip
    left.set_yticks(places, [one.policy for one in ranked])
    left.set_xlim(0, 1.18 * worst if worst > 0 else 1)
    left.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 10 or not value else f"{value:g}")
    left.xaxis.set_major_locator(MaxNLocator(5))
    left.set_xlabel("cost above the best in hindsight", fontsize=8, color=INK)
    for place, one in zip(places, ranked, strict=True):
        passed = [step for step in one.trained if step not in one.refused]
        right.plot(
            range(len(findings.periods)), [place] * len(findings.periods), color="#e8eeea", linewidth=1, zorder=0
        )
        right.plot(passed, [place] * len(passed), "o", color=ACCENT, markersize=5)
        right.plot(one.refused, [place] * len(one.refused), "x", color=ALARM, markersize=5)
    right.plot([], [], "o", color=ACCENT, markersize=5, label="trained")
    right.plot([], [], "x", color=ALARM, markersize=5, label="trained, refused by a gate")
    right.set_yticks(places, [])
    for axis in (left, right):
        axis.set_ylim(-0.7, len(ranked) - 0.3)
    _ticks(right, findings.periods)
    drawing.legend(fontsize=8, frameon=False, loc="outside upper right", ncols=2)
    return drawing


def _draw_errors(findings: Findings) -> Any:
    """Draw the error of each period: all policies thin, those that a reader asks for first in colour."""
    drawing, ((axis,),) = figure(1, 1, 9.6, 3.2)
    places = range(len(findings.periods))
    marked = {"never": (ALARM, "--"), "every-period": (MILD, "-"), findings.verdict.policy: (ACCENT, "-")}
    for one in findings.outcomes:
        if one.policy not in marked:
            axis.plot(places, one.errors, color=QUIET, linewidth=0.8, alpha=0.7)
    for one in findings.outcomes:
        if one.policy in marked:
            colour, dashes = marked[one.policy]
            axis.plot(places, one.errors, dashes, color=colour, linewidth=1.8, label=one.policy)
    axis.plot(places, findings.best.errors, ":", color=INK, linewidth=1.6, label="best in hindsight")
    axis.plot([], [], color=QUIET, linewidth=0.8, label="others")
    axis.set_ylim(bottom=0)
    unit = f" ({findings.unit})" if findings.unit else ""
    axis.set_ylabel(findings.metric + unit, fontsize=8, color=INK)
    _ticks(axis, findings.periods)
    drawing.legend(fontsize=8, frameon=False, loc="outside upper right", ncols=5)
    return drawing


def _draw_matrix(findings: Findings) -> Any:
    """Draw the error of every model on every later period, over that of a new one, and the best plan's way through it."""
    errors = np.array([[np.nan if one is None else one for one in row] for row in findings.errors], dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(np.diag(errors) > 0, errors / np.diag(errors), np.nan)
    steps = len(errors)
    drawing, ((axis,),) = figure(1, 1, 6.4, 5.4)
    shown = axis.imshow(ratio, cmap="BrBG_r", vmin=0.5, vmax=1.5, aspect="equal")
    axis.step(range(steps), findings.best.in_force, where="mid", color=INK, linewidth=1.8, label="best in hindsight")
    _ticks(axis, findings.periods)
    step = -(-steps // 12)
    axis.set_yticks(range(0, steps, step), findings.periods[::step])
    axis.set_xlabel("serves", fontsize=8, color=INK)
    axis.set_ylabel("trained before", fontsize=8, color=INK)
    bar = drawing.colorbar(shown, ax=axis, shrink=0.8, extend="both")
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.set_label("error over a new model's", fontsize=8, color=INK)
    drawing.legend(fontsize=8, frameon=False, loc="outside upper right")
    return drawing
