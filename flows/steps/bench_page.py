"""The page of the benchmarks: one table, a picture of the ratios and their bounds, and the machine; whole in itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.steps import pages
from flows.steps.bench import Figure, Machine, Record, Result
from flows.steps.pages import three_digits
from flows.steps.pictures import ACCENT, INK, QUIET, figure, png

ALARM = "#b3402f"
COLUMNS = ("figure", "beside", "ours", "other", "ratio", "from", "to", "bound", "")


def rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Return the table of all figures; the columns are ``COLUMNS``."""
    return [
        (
            one.name, one.beside, f"{three_digits(one.ours)} {one.unit}", f"{three_digits(one.other)} {one.unit}",
            three_digits(one.ratio), three_digits(one.low), three_digits(one.high), bound(one),
            {None: "", True: "passed", False: "failed"}[one.kept],
        )
        for result in results
        for one in result.figures
    ]  # fmt: skip


def bound(one: Figure) -> str:
    """Return the bounds of a figure in signs."""
    sign = "≤" if one.better == "lower" else "≥"
    parts = [f"{sign} {one.bound:.3g}"] if one.bound is not None else []
    return ", ".join([*parts, *([f"ours ≤ {one.at_most:g} {one.unit}"] if one.at_most is not None else [])])


def described(machine: Machine) -> str:
    """Return a machine in one line."""
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    return f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib:g} GiB, {machine.system}; {versions}"


def write(machine: Machine, results: Sequence[Result], before: Record | None, path: Path) -> Path:
    """Write the page, atomically."""
    drawn = [one for result in results for one in result.figures]
    picture = pages.embedded(png(_draw(results, before))) if drawn else ""
    notes = [(result.name, one.name, one.note) for result in results for one in result.figures if one.note]
    return pages.write(
        path, "bench.html.j2", machine=described(machine), columns=COLUMNS, rows=rows(results), picture=picture, notes=notes,
        differences=[(one.name, one.figures[0].beside, one.differences) for one in results if one.figures and one.differences],
        failures=[(one.name, one.failure) for one in results if one.failure],
        seconds=sum(one.seconds for one in results), kept=sum(one.kept is True for one in drawn),
        broken=sum(one.kept is False for one in drawn), figures=len(drawn),
    )  # fmt: skip


def _draw(results: Sequence[Result], before: Record | None) -> Any:
    """Draw each ratio on a scale of powers, with its spread, its bound and the recorded one."""
    ranked = [(result.name, one) for result in results for one in result.figures][::-1]
    drawing, ((axis,),) = figure(1, 1, 9.6, 0.26 * len(ranked) + 1.1)
    for place, (name, one) in enumerate(ranked):
        colour = ALARM if one.kept is False else ACCENT
        axis.plot([one.low, one.high], [place, place], color=colour, linewidth=3, alpha=0.45, solid_capstyle="butt")
        axis.plot(one.ratio, place, "o", color=colour, markersize=5)
        if one.bound is not None:
            axis.plot(one.bound, place, "|", color=INK, markersize=11, markeredgewidth=1.6)
        then = before.then(name, one) if before else None
        if then is not None:
            axis.plot(then.ratio, place, "d", color=QUIET, markersize=5, zorder=0)
    axis.axvline(1.0, color=QUIET, linewidth=0.8)
    axis.plot([], [], "o", color=ACCENT, label="now, with its spread")
    axis.plot([], [], "|", color=INK, markersize=10, markeredgewidth=1.6, label="bound")
    axis.plot([], [], "d", color=QUIET, label="recorded")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_yticks(range(len(ranked)), [f"{name}: {one.name} / {one.beside}" for name, one in ranked], fontsize=7)
    axis.set_ylim(-0.7, len(ranked) - 0.3)
    axis.set_xlabel("ours over the other", fontsize=8, color=INK)
    drawing.legend(fontsize=8, frameon=False, loc="outside upper right", ncols=3)
    return drawing
