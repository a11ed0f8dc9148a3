"""The model card of a training: what the model is for, what it was made of, how good it is and where it is not.

The sections follow Mitchell et al., Model Cards for Model Reporting, FAT* 2019; all is taken from spec, lineage, evidence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.spec import ModelSpec
from flows.steps import pages
from flows.steps.lineage import Lineage
from flows.steps.metrics import unseen_text

WORST_SLICES = 3
MOST_FEATURES = 20  # bars of importance


def write(spec: ModelSpec, lineage: Lineage, evidence: dict[str, Any], pictures: Path, path: Path) -> Path:
    """Write the card of a training as one page that needs nothing from elsewhere; return its path."""
    slices, importance = evidence["slices"], list(evidence["importance"].items())[:MOST_FEATURES]
    beside = "baseline" if evidence["champion_error"] is None else "champion"
    return pages.write(
        path,
        "card.html.j2",
        spec=spec,
        lineage=lineage,
        evidence=evidence,
        made=max((stage.end for stage in lineage.stages), default=None),
        limits=limits(spec, lineage, evidence),
        beside=beside,
        widest=max((part[name] or 0 for part in slices for name in ("error", beside)), default=0) or 1,
        importance=importance,
        strongest=max((value for _, value in importance), default=0) or 1,
        rejected=sum(one.rejected_rows for one in lineage.partitions),
        judging=pages.picture(pictures / "judging.png"),
    )


def limits(spec: ModelSpec, lineage: Lineage, evidence: dict[str, Any]) -> list[str]:
    """Return what one must know before using the model, in sentences, from what was declared and measured."""
    label, unit = spec.label, f" {spec.label.unit}" if spec.label.unit else ""
    found = []
    if label.low is not None or label.high is not None:
        low, high = (f"{bound:g}{unit}" if bound is not None else None for bound in (label.low, label.high))
        bounds = f"from {low} to {high}" if low and high else f"from {low} up" if low else f"up to {high}"
        found.append(f"It answers for {label.name} {bounds}: nothing else was trained or judged.")
    found.append(
        f"It knows events from {lineage.window.start:%Y-%m-%d} to {lineage.window.split:%Y-%m-%d}, and was judged on "
        f"{evidence['judge_rows']:,} later ones up to {lineage.window.end:%Y-%m-%d}. What has changed since, it does not know."
    )
    worst = sorted(evidence["slices"], key=lambda part: -part["error"])[:WORST_SLICES]
    if len(evidence["slices"]) > 1:
        parts = ", ".join(f"{part['column']} = {part['value']} ({part['error']:.4g})" for part in worst)
        found.append(f"Its {spec.metric.error} of {evidence['error']:.4g} is a mean; it is largest on {parts}.")
    if evidence["train_error"] and evidence["error"] > 1.2 * evidence["train_error"]:
        found.append(
            f"On the rows that it was trained on, the {spec.metric.error} is {evidence['train_error']:.4g}: part of the "
            "difference is learned by heart, part is that the days differ."
        )
    empty = evidence.get("empty", ())
    if empty:
        found.append(f"No row that trained had a value of {', '.join(empty)}: it learned nothing of them.")
    unseen = evidence.get("unseen", {})
    if unseen:
        found.append(f"{unseen_text(unseen)}: it never says one of them, and its error holds what that costs.")
    keys = sorted({key for names in spec.entities.values() for key in names})
    if keys:
        found.append(
            f"For a new {' or '.join(keys)} it answers without a past, from the request alone, and the answer says so in "
            "its field unknown."
        )
    return found
