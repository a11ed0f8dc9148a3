"""The page of the difference of two versions: words, and bars side by side."""

from __future__ import annotations

from pathlib import Path

from flows.steps import pages
from flows.steps.version_diff import Change, Difference
from flows.steps.version_record import VersionRecord

MOST_FEATURES = 12  # bars of importance


def write(found: Difference, before: VersionRecord, after: VersionRecord, path: Path) -> Path:
    """Write the page of a difference and return its path."""
    keys = sorted({one.key for record in (before, after) for one in record.lineage.partitions})
    sections: list[tuple[str, tuple[Change, ...]]] = [
        ("Data", found.data), ("Features", (*found.features, *found.views)), ("Parameters", found.parameters),
        ("Spec", found.spec), ("Code", found.code), ("Libraries and machine", found.libraries),
    ]  # fmt: skip
    return pages.write(
        path,
        "diff.html.j2",
        found=found,
        records=(before, after),
        keys=keys,
        rows=[{one.key: one for one in record.lineage.partitions} for record in (before, after)],
        most=max((one.accepted_rows for record in (before, after) for one in record.lineage.partitions), default=1)
        or 1,
        importance=found.importance[:MOST_FEATURES],
        strongest=max((max(one.before or 0, one.after or 0) for one in found.importance), default=0) or 1,
        widest=max((value or 0 for one in found.slices for value in (one.before, one.after, one.champion)), default=0)
        or 1,
        sections=[(title, changes) for title, changes in sections if changes],
        metric=after.lineage.spec.get("metric", {}).get("name", "error"),
    )
