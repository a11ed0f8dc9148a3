"""The gates of model validation: each a number, a threshold and a reason. They fail closed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from flows.spec import Frozen, ModelSpec
from flows.steps.compiled import TOLERANCE as COMPILED_TOLERANCE
from flows.steps.metrics import ratio, unseen_text

if TYPE_CHECKING:
    from flows.steps.evaluation import Evaluation
    from flows.steps.probe import Probe

NOT_LOADED = "it did not load"


class Verdict(Frozen):
    """One gate's verdict: passed if ``number`` is at most (or at least) ``threshold``."""

    gate: str
    passed: bool
    number: float
    threshold: float
    direction: Literal["at most", "at least"] = "at most"
    reason: str


def judge(gate: str, number: float, threshold: float, reason: str) -> Verdict:
    """Return the verdict of a number that must be at most its threshold; not a number never passes."""
    return Verdict(
        gate=gate, passed=not math.isnan(number) and number <= threshold, number=number, threshold=threshold,
        reason=reason,
    )  # fmt: skip


def judge_all(
    spec: ModelSpec, evaluation: Evaluation, probe: Probe, published: Mapping[str, str] | None
) -> list[Verdict]:
    """Return the verdict of every gate, in the order of the list below; a challenger needs all of them.

    ``published`` is the champion's request schema (field -> type), None without a champion.
    """
    return [
        _beats_baseline(spec, evaluation),
        _not_worse_than_champion(spec, evaluation),
        _no_slice_regresses(spec, evaluation),
        _loads(probe),
        _predicts_the_same(spec, probe),
        _compiled(probe),
        _fits_the_api(spec, probe, published),
        _latency(spec, probe),
    ]


def failed(verdicts: list[Verdict]) -> list[str]:
    """Return the names of the gates that did not pass."""
    return [verdict.gate for verdict in verdicts if not verdict.passed]


def refusals(verdicts: list[Verdict]) -> list[str]:
    """Return a line on each gate that did not pass: its number, its threshold and why."""
    return [f"{v.gate} {v.number:.4g}, {v.direction} {v.threshold:.4g}: {v.reason}" for v in verdicts if not v.passed]


def evidence(evaluation: Evaluation, verdicts: list[Verdict], champion: int | None) -> dict[str, Any]:
    """Return what a promotion is based on, as JSON values: figures, slices, gates, and which of them failed."""
    return {
        **evaluation.model_dump(mode="json"),
        "champion": champion,
        "gates": [verdict.model_dump(mode="json") for verdict in verdicts],
        "failed": failed(verdicts),
    }


def figures(evaluation: Evaluation, verdicts: list[Verdict]) -> dict[str, float]:
    """Return every number that a run is compared by, finite ones only: MLflow's databases take no others."""
    found = {
        **{f"test_{name}": value for name, value in evaluation.metrics.items()},
        **{f"train_{name}": value for name, value in evaluation.train_metrics.items()},
        "baseline_error": evaluation.baseline_error,
        **{f"gate_{verdict.gate.replace(' ', '_')}": verdict.number for verdict in verdicts},
        **{f"slice_{part.column}_{part.value}": part.error for part in evaluation.slices},
    }
    if evaluation.champion_error is not None:
        found["champion_error"] = evaluation.champion_error
    return {re.sub(r"[^\w./ -]", "_", name): value for name, value in found.items() if math.isfinite(value)}


def brief(evaluation: Evaluation) -> dict[str, Any]:
    """Return the few figures that a person asks for first."""
    names = {
        "error", "train_error", "baseline_error", "champion_version", "champion_error", "judge_rows", "train_rows", "empty",
        "unseen",
    }  # fmt: skip
    return evaluation.model_dump(mode="json", include=names)


def markdown(verdicts: list[Verdict]) -> str:
    """Return the verdicts as a Markdown table."""
    lines = [
        f"| {'passed' if v.passed else '**refused**'} | {v.gate} | {v.number:.4g} "
        f"| {v.direction} {v.threshold:.4g} | {v.reason} |"
        for v in verdicts
    ]
    return "\n".join(["| verdict | gate | number | threshold | what |", "| --- | --- | --- | --- | --- |", *lines])


def _beats_baseline(spec: ModelSpec, evaluation: Evaluation) -> Verdict:
    text = f"{spec.metric.error} {evaluation.error:.4g}, naive {evaluation.baseline_error:.4g}"
    if evaluation.unseen:
        text += f"; {unseen_text(evaluation.unseen)}, each as wrong as can be"
    return judge("baseline", ratio(evaluation.error, evaluation.baseline_error), spec.gates.baseline_ratio, text)


def _not_worse_than_champion(spec: ModelSpec, evaluation: Evaluation) -> Verdict:
    """Refuse if the whole interval of the difference lies above what is tolerated: worse beyond chance."""
    if evaluation.against_champion is None or evaluation.champion_error is None:
        return judge("champion", 0.0, 0.0, "no champion yet")
    if math.isinf(evaluation.champion_error) and math.isfinite(evaluation.error):
        # Between the two there is no interval: a champion that broke could never be replaced.
        text = f"version {evaluation.champion_version} answers with what is no number, this one does not"
        return judge("champion", 0.0, 0.0, text)
    low, high = evaluation.against_champion
    difference = evaluation.error - evaluation.champion_error
    text = (
        f"{spec.metric.error} {evaluation.error:.4g}, version {evaluation.champion_version} {evaluation.champion_error:.4g}: "
        f"difference {difference:+.3g}, {spec.gates.confidence:.0%} interval {low:+.3g} to {high:+.3g}"
    )
    if evaluation.champion_knew:
        text += (
            f"; {evaluation.champion_knew:.0%} of the rows are no newer than those that version {evaluation.champion_version} "
            "was fitted on, and flatter it: let fewer days judge"
        )
    return judge("champion", low, spec.gates.champion_tolerance * evaluation.champion_error, text)


def _no_slice_regresses(spec: ModelSpec, evaluation: Evaluation) -> Verdict:
    """Compare each slice with the champion, or with the baseline where there is no champion."""
    tolerated = 1.0 + spec.gates.slice_tolerance
    if not evaluation.slices:
        missing = bool(spec.slices)
        text = f"no slice has {spec.gates.slice_min_rows} rows" if missing else "the spec names no slices"
        return judge("slices", math.nan if missing else 0.0, tolerated, text)
    ratios = [ratio(one.error, one.baseline if one.champion is None else one.champion) for one in evaluation.slices]
    worst = max(range(len(ratios)), key=lambda place: math.inf if math.isnan(ratios[place]) else ratios[place])
    part = evaluation.slices[worst]
    against = "champion" if evaluation.champion_error is not None else "naive"
    text = f"worst of {len(ratios)}: {part.column} = {part.value}, error over the {against}'s"
    return judge("slices", ratios[worst], tolerated, text)


def _loads(probe: Probe) -> Verdict:
    return judge("loads", 0.0 if probe.loaded else 1.0, 0.0, probe.reason or "opened in a fresh process, types trusted")


def _predicts_the_same(spec: ModelSpec, probe: Probe) -> Verdict:
    difference = math.nan if probe.difference is None else probe.difference
    text = f"{probe.rows} golden rows, serialized against fitted, relative" if probe.loaded else NOT_LOADED
    return judge("same predictions", difference, spec.gates.prediction_tolerance, text)


def _compiled(probe: Probe) -> Verdict:
    """Judge the compiled form that would serve; without one scikit-learn itself does, and nothing can differ.

    A form that differed on the test set was refused when the bundle was saved: the reason says so, and by how much.
    """
    if not probe.loaded:
        return judge("compiled", math.nan, COMPILED_TOLERANCE, NOT_LOADED)
    if probe.not_compiled:
        return judge("compiled", 0.0, COMPILED_TOLERANCE, f"scikit-learn itself serves: {probe.not_compiled}")
    difference = math.nan if probe.compiled_difference is None else probe.compiled_difference
    text = "compiled form against scikit-learn, test set and rows on thresholds, relative"
    return judge("compiled", difference, COMPILED_TOLERANCE, text)


def _fits_the_api(spec: ModelSpec, probe: Probe, published: Mapping[str, str] | None) -> Verdict:
    """A client of the champion must be able to go on: no field new, gone or of another type."""
    fields = {field.name: field.type for field in spec.request}
    changed = {name for name in {*fields, *(published or {})} if published and fields.get(name) != published.get(name)}
    if not probe.loaded:
        return judge("api", math.nan, 0.0, NOT_LOADED)
    text = f"changed fields: {', '.join(sorted(changed))}" if changed else f"{len(fields)} request fields, as published"
    return judge("api", float(len(changed)), 0.0, text)


def _latency(spec: ModelSpec, probe: Probe) -> Verdict:
    if probe.latency_ms is None:
        text = "its golden rows could not be predicted" if probe.loaded else NOT_LOADED
        return judge("latency", math.nan, spec.gates.latency_ms, text)
    return judge("latency", probe.latency_ms, spec.gates.latency_ms, "ms, median of one row in a fresh process")
