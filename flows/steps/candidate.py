"""What a reviewer reads of a candidate: its figures, gates and pictures beside the champion's, as Markdown and a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Engine

from flows import ledger
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import registry
from flows.steps.files import write_text
from flows.steps.gates import Verdict, markdown

PAGE = "comment.md"


def write_report(settings: Settings, spec: ModelSpec, engine: Engine, run_id: str, folder: Path) -> Path:
    """Write ``comment.md`` and the pictures of a training run, and of the run of the champion that it was judged against.

    The chart in the comment is drawn by whoever shows the Markdown (mermaid), so that it needs no place of its own.
    """
    client = registry.open_client(settings)
    evidence: dict[str, Any] = json.loads(Path(client.download_artifacts(run_id, registry.EVIDENCE)).read_bytes())
    folder.mkdir(parents=True, exist_ok=True)
    runs = {"candidate": run_id}
    judged_by = evidence["champion"]
    for promotion in ledger.list_promotions(engine, spec.name):
        if promotion.version == judged_by:
            runs.setdefault("champion", promotion.run_id)
    for who, run in runs.items():
        for one in client.list_artifacts(run, "pictures"):
            target = folder / who
            target.mkdir(exist_ok=True)
            shutil.copy(client.download_artifacts(run, one.path), target)
    return write_text(folder / PAGE, comment(spec, evidence))


def comment(spec: ModelSpec, evidence: dict[str, Any]) -> str:
    """Return the comment of a candidate from its evidence."""
    failed = evidence["failed"]
    verdict = f"refused by {', '.join(failed)}" if failed else "passes every gate"
    champion = evidence["champion_error"]
    lines = [
        f"## Candidate of `{spec.name}`: {verdict}",
        "",
        f"| {spec.metric.error} | candidate | champion | naive |",
        "| --- | --- | --- | --- |",
        f"| {evidence['judge_rows']} newest rows | {_number(evidence['error'])} | {_number(champion)} "
        f"| {_number(evidence['baseline_error'])} |",
        f"| {evidence['train_rows']} rows trained on | {_number(evidence['train_error'])} | | |",
        "",
        *([_chart(spec, evidence), ""] if evidence["slices"] else []),
        markdown([Verdict.model_validate(gate) for gate in evidence["gates"]]),
        "",
        "The pictures of both are in the artifact `candidate` of this run.",
        "",
    ]
    return "\n".join(lines)


def _chart(spec: ModelSpec, evidence: dict[str, Any]) -> str:
    """Return the errors by slice as a chart: bars for the candidate, a line for the champion."""
    slices = evidence["slices"]
    names = ", ".join(json.dumps(f"{one['column']} {one['value']}") for one in slices)
    rows = ["  bar [" + ", ".join(f"{one['error']:.4g}" for one in slices) + "]"]
    if all(one["champion"] is not None for one in slices):
        rows.append("  line [" + ", ".join(f"{one['champion']:.4g}" for one in slices) + "]")
    title = f'  title "{spec.metric.error} by slice: bars the candidate, line the champion"'
    return "\n".join(["```mermaid", "xychart-beta", title, f"  x-axis [{names}]", *rows, "```"])


def _number(value: float | None) -> str:
    return "none yet" if value is None else f"{value:.4g}"
