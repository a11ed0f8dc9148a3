"""Data Docs: a page per partition and an index, whole in themselves, so that they look right offline."""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.database import now
from flows.ledger import Partition
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps.files import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

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
        _environment()
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
        _environment()
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
    return write_text(settings.docs / spec.name / "index.html", page)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["share"] = lambda value: "" if value is None else f"{value:.1%}"
    environment.filters["time"] = _time
    environment.filters["filename"] = lambda path: Path(path).name if path else ""
    return environment


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


def _number(value: Any) -> str:
    """Return a figure for people: thousands apart, four digits that count; times without their zeros."""
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return str(value).replace("T", " ").removesuffix(" 00:00:00")
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _time(value: datetime | None) -> str:
    return f"{value:%Y-%m-%d %H:%M} UTC" if value else "-"
