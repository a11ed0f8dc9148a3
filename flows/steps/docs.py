"""Data Docs: a page per partition and an index, whole in themselves, so that they look right offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flows.database import now
from flows.ledger import Partition
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import storage
from flows.steps.files import write_text
from flows.steps.pages import environment

SEVERITY = {"failed": 0, "rows rejected": 1, "passed": 2}  # what needs a look comes first
WIDTH, HEIGHT = 260.0, 64.0  # of a histogram, in its own units


def write_page(settings: Settings, spec: ModelSpec, partition: Partition, decision: dict[str, Any]) -> Path:
    """Write the page of a partition, and beside it Great Expectations' results as JSON; return the page's path.

    ``decision`` has status, checks, reasons, results, statistics, accepted_rows and sample.
    """
    folder = settings.docs / spec.name
    stem = f"{partition.key}-r{partition.revision}"
    results = json.dumps(decision["results"], indent=1, default=str)
    write_text(folder / f"{stem}.json", results)
    page = (
        environment()
        .get_template("partition.html.j2")
        .render(
            spec=spec,
            partition=partition,
            decision=decision,
            checks=sorted(decision["checks"], key=lambda check: SEVERITY[check["verdict"]]),
            rejected=partition.rows - decision["accepted_rows"],
            columns=_profile(decision["statistics"]),
            results_name=f"{stem}.json",
            written=now(),
        )
    )
    return write_text(folder / f"{stem}.html", page)


def write_index(settings: Settings, spec: ModelSpec, partitions: list[Partition]) -> Path:
    """Write the page that lists the partitions of a model, newest period first; return its path."""
    statuses = ("accepted", "quarantined", "landed", "replaced")
    counts = {status: sum(p.status == status for p in partitions) for status in statuses}
    page = (
        environment()
        .get_template("index.html.j2")
        .render(
            spec=spec,
            partitions=sorted(partitions, key=lambda p: (p.key, p.revision), reverse=True),
            counts=counts,
            accepted_rows=sum(p.accepted_rows for p in partitions if p.status == "accepted"),
            most=max((p.rows for p in partitions), default=1) or 1,
            written=now(),
        )
    )
    path = write_text(settings.docs / spec.name / "index.html", page)
    storage.publish(settings, path)
    return path


def _profile(statistics: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the columns of a profile with the bars of their histograms."""
    return [
        {"name": name, "label": name == statistics["label"], "bars": _bars(figures.get("histogram")), **figures}
        for name, figures in statistics.get("columns", {}).items()
    ]


def _bars(histogram: dict[str, Any] | None) -> list[dict[str, float]]:
    """Return the rectangles of a histogram: x, y, width and height in the picture's units, and the count."""
    if not histogram:
        return []
    counts = histogram["counts"]
    most = max(counts) or 1
    step = WIDTH / len(counts)
    return [
        {
            "x": round(number * step, 2),
            "y": round(HEIGHT - HEIGHT * count / most, 2),
            "width": round(step - 1, 2),
            "height": round(HEIGHT * count / most, 2),
            "count": count,
        }
        for number, count in enumerate(counts)
    ]
