"""The page of one monitoring run: one HTML file that needs nothing from elsewhere, and its short form in Markdown."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from flows.engines import finite
from flows.spec import Frozen, ModelSpec
from flows.steps import pages
from flows.steps.decision import Decision, Facts
from flows.steps.pages import share, three_digits
from flows.steps.pictures import png
from flows.steps.skew import Skew

if TYPE_CHECKING:
    from flows.steps.drift import FeatureDrift
    from flows.steps.performance import Performance

SHOWN_COLUMNS = 30  # bars in the picture of drift
SHOWN_DIFFERENCES = 20  # served values that differ, in the short form; the page has all that nothing explains
TOLD_DIFFERENCES = 100  # of them in JSON and in the ledger, those that nothing explains first


class Findings(Frozen):
    """All that a monitoring run found: what is reported, stored and told. Times are aware."""

    model: str
    version: int
    champion_since: datetime
    at: datetime
    facts: Facts
    decision: Decision
    skew: Skew = Skew()
    stale_views: dict[str, float] = Field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The outcome in one sentence."""
        if self.decision.retrain:
            return "Retrain."
        if self.decision.held:
            return "There is cause to retrain, but it is held back."
        if not self.facts.performance or not self.facts.performance.predictions:
            return f"Nothing to judge yet: no predictions of version {self.version} after its training data."
        return "No cause to retrain."


def draw(spec: ModelSpec, findings: Findings) -> dict[str, bytes]:
    """Return the report's pictures as PNG: ``days`` and ``drift``, without those that there is nothing to show on."""
    found, drifts = findings.facts.performance, findings.facts.drift
    drawn = {}
    if found and found.days:
        drawn["days"] = png(_draw_days(spec, found))
    if drifts:
        drawn["drift"] = png(_draw_drift(drifts))
    return drawn


def write_report(spec: ModelSpec, findings: Findings, drawn: dict[str, bytes], folder: Path) -> Path:
    """Write the page ``monitor-<run time>.html`` with its pictures into a folder, atomically."""
    shown = {name: pages.embedded(picture) for name, picture in drawn.items()}
    return pages.write(
        folder / f"monitor-{findings.at:%Y%m%dT%H%M%S%fZ}.html", "monitor.html.j2",
        spec=spec, findings=findings, performance=findings.facts.performance, drift=findings.facts.drift,
        decision=findings.decision, skew=findings.skew, stale=findings.stale_views, days_picture=shown.get("days", ""),
        drift_picture=shown.get("drift", ""),
    )  # fmt: skip


def markdown(findings: Findings) -> str:
    """Return the findings as a short Markdown text with tables."""
    found, decision = findings.facts.performance, findings.decision
    lines = [f"**{findings.verdict}** {findings.model} version {findings.version}", ""]
    for title, texts in (("Reasons", decision.reasons), ("Held back", decision.held), ("Data", decision.notes)):
        lines += [f"- {title}: {text}" for text in texts]
    if found and found.predictions:
        lines += [
            "", "| predictions | labelled | error | expected | ratio | interval |", "|---|---|---|---|---|---|",
            f"| {found.predictions:,} | {found.labelled:,} | {three_digits(found.error)} | {three_digits(found.expected)} "
            f"| {three_digits(found.ratio)} | {' to '.join(map(three_digits, found.ratio_interval))} |",
        ]  # fmt: skip
    lines += [
        f"- Nothing valid in view {view}: {share(part)} of the rows" for view, part in findings.stale_views.items()
    ]
    lines += _skew_lines(findings.skew)
    watched = [one for one in findings.facts.drift if one.watched]
    if watched:
        lines += ["", "| watched | distance | limit | drifted |", "|---|---|---|---|"]
        lines += [
            f"| {one.feature} | {one.distance:.3f} | {one.limit:.3f} | {'yes' if one.drifted else 'no'} |"
            for one in watched
        ]
    return "\n".join(lines)


def summary(findings: Findings, page: str) -> dict[str, Any]:
    """Return the findings as plain data, for JSON: what is not a number, or infinite, is None."""
    found, outcome = findings.facts.performance, findings.decision
    differences = sorted(findings.skew.differences, key=lambda one: one.kind != "skew")[:TOLD_DIFFERENCES]
    skew = findings.skew.model_copy(update={"differences": tuple(differences)})
    return {
        "model": findings.model,
        "version": findings.version,
        "verdict": findings.verdict,
        "retrain": outcome.retrain,
        "reasons": list(outcome.reasons),
        "held": list(outcome.held),
        "data_problems": list(outcome.notes),
        "performance": finite(found.model_dump(mode="json", exclude={"days", "slices"})) if found else None,
        "drift": [finite(one.model_dump(mode="json")) for one in findings.facts.drift if one.watched],
        "drifted": [one.feature for one in findings.facts.drift if one.drifted],
        "missing": {one.feature: one.missing for one in findings.facts.drift if one.missing},
        "stale_views": findings.stale_views,
        "skew": {"warning": findings.skew.warning, **skew.model_dump(mode="json")},
        "report": page,
    }


def _skew_lines(found: Skew) -> list[str]:
    """Return the sampled rows and the differences that nothing explains, as Markdown."""
    lines = ["", found.warning] if found.warning else []
    if not found.skewed:
        return lines
    lines += ["", "| feature | request | served | recomputed |", "|---|---|---|---|"]
    lines += [
        f"| {one.feature} | {one.request_id} row {one.row} | {one.served} | {one.recomputed} |"
        for one in found.skewed[:SHOWN_DIFFERENCES]
    ]
    rest = len(found.skewed) - SHOWN_DIFFERENCES
    return [*lines, f"| and {rest} more | in the report | | |"] if rest > 0 else lines


def _draw_days(spec: ModelSpec, found: Performance) -> Any:
    """Draw the error of each day with its interval, beside the error to expect and the limit."""
    from flows.steps.pictures import ACCENT, INK, QUIET, figure

    unit = f" ({spec.label.unit})" if spec.label.unit and spec.task == "regression" else ""
    drawing, ((axis,),) = figure(1, 1, 8, 3.0)
    places = range(len(found.days))
    expected = [day.expected for day in found.days]
    limit = [spec.triggers.performance_ratio * value for value in expected]
    colours = ["#b3402f" if day.low > top else ACCENT for day, top in zip(found.days, limit, strict=True)]
    for place, day, colour in zip(places, found.days, colours, strict=True):
        if math.isfinite(day.error):
            axis.plot([place, place], [day.low, day.high], color=colour, linewidth=2, alpha=0.6)
            axis.plot(place, day.error, "o", color=colour, markersize=6)
    steps = {"where": "mid", "linewidth": 1.4}
    axis.step(places, expected, color=INK, label="expected from its test", **steps)
    axis.step(
        places, limit, color=QUIET, linestyle="--", label=f"{spec.triggers.performance_ratio:g} times expected", **steps
    )
    axis.plot([], [], "o-", color=ACCENT, label=f"error, {spec.gates.confidence:.0%} interval")
    axis.set_xticks(places, [day.name for day in found.days], rotation=30 if len(found.days) > 8 else 0)
    axis.set_ylim(bottom=0)
    axis.set_ylabel(found.metric + unit, fontsize=8, color=INK)
    drawing.legend(fontsize=8, frameon=False, loc="outside upper right", ncols=3)
    return drawing


def _draw_drift(drifts: tuple[FeatureDrift, ...]) -> Any:
    """Draw the distance of each column and its limit; watched ones in colour."""
    from flows.steps.pictures import ACCENT, INK, QUIET, figure

    shown = drifts[:SHOWN_COLUMNS][::-1]
    drawing, ((axis,),) = figure(1, 1, 8, 0.24 * len(shown) + 1.0)
    colours = ["#b3402f" if one.drifted else ACCENT if one.watched else QUIET for one in shown]
    axis.barh(range(len(shown)), [one.distance for one in shown], 0.62, color=colours)
    axis.plot([one.limit for one in shown], range(len(shown)), "|", color=INK, markersize=11, markeredgewidth=1.6)
    axis.set_yticks(range(len(shown)), [one.feature.replace("$", r"\$") for one in shown])  # no formulas
    axis.set_xlim(left=0)
    axis.set_ylim(-0.7, len(shown) - 0.3)
    axis.set_xlabel("Jensen-Shannon distance to training, 0 to 1", fontsize=8, color=INK)
    for colour, name in (("#b3402f", "drifted"), (ACCENT, "watched"), (QUIET, "shown only")):
        axis.barh([0], [0], color=colour, label=name)
    axis.plot([], [], "|", color=INK, markersize=11, markeredgewidth=1.6, label="limit")
    drawing.legend(fontsize=8, frameon=False, loc="outside upper right", ncols=4)
    return drawing
