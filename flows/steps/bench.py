"""Benchmarks: what there is, their figures (ours beside another's, from one run), the machine, and what became worse."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from flows.errors import UsageError
from flows.spec import Frozen

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("tests/benchmarks")
RECORDED = "recorded.json"
SLACK = 0.15  # what a ratio may be worse than the worst round that was recorded: other machines, other neighbours
LONGEST = 3600  # seconds for one benchmark
LIBRARIES = (
    "duckdb", "pyarrow", "pandas", "scikit-learn", "great-expectations", "feast", "mlflow-skinny", "prefect", "evergreen",
)  # fmt: skip


class Listed(Frozen):
    """A benchmark as the index names it; ``minutes`` is what it took on two cores."""

    name: str
    module: str
    what: str
    minutes: float
    needs: str = ""


class Figure(Frozen):
    """One comparison of a benchmark: ours beside the other on the same work, in ``unit``; both are medians.

    ``ratio`` is the median of ours over the other's by round, ``low`` and ``high`` the least and the greatest of them.
    ``bound`` is the ratio's: at most that, or at least that where ``better`` is higher. ``at_most`` bounds ours itself.
    """

    name: str
    beside: str
    ours: float
    other: float
    unit: str
    ratio: float
    low: float
    high: float
    better: Literal["lower", "higher"] = "lower"
    bound: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def kept(self) -> bool | None:
        """Whether the bounds are kept; None where there are none."""
        if self.bound is None and self.at_most is None:
            return None
        by_ratio = self.bound is None or (
            self.ratio <= self.bound if self.better == "lower" else self.ratio >= self.bound
        )
        return by_ratio and (self.at_most is None or self.ours <= self.at_most)


class Difference(Frozen):
    """What ours does that the other does not, beside the ratios: ``shown`` is where that can be seen, a test or the run."""

    what: str
    ours: str
    other: str
    shown: str


class Machine(Frozen):
    """Where figures come from; no figure means much without it."""

    cpu: str
    cores: int
    memory_gib: float
    system: str
    versions: dict[str, str]


class Result(Frozen):
    """What one benchmark gave: its figures, or why it could not run; ``seconds`` is how long all of it took."""

    name: str
    figures: tuple[Figure, ...] = ()
    differences: tuple[Difference, ...] = ()
    failure: str | None = None
    seconds: float = 0.0


def compared(
    name: str,
    beside: str,
    ours: Sequence[float],
    other: Sequence[float],
    unit: str = "s",
    *,
    better: Literal["lower", "higher"] = "lower",
    bound: float | None = None,
    at_most: float | None = None,
    note: str = "",
) -> Figure:
    """Return the figure of two rows of measurements that were taken in turn, round by round."""
    ratios = [a / b for a, b in zip(ours, other, strict=True)]
    return Figure(
        name=name, beside=beside, ours=statistics.median(ours), other=statistics.median(other), unit=unit,
        ratio=statistics.median(ratios), low=min(ratios), high=max(ratios),
        better=better, bound=bound, at_most=at_most, note=note,
    )  # fmt: skip


def folder() -> Path:
    """Return the folder of the benchmarks; raises UsageError where the package was installed without them."""
    found = ROOT / FOLDER
    if not (found / "index.toml").is_file():
        raise UsageError(
            f"the benchmarks are in the source tree alone ({FOLDER} is not beside {ROOT / 'flows'}); clone it"
        )
    return found


def listed() -> list[Listed]:
    """Return the benchmarks that there are, in the order of the index."""
    index = tomllib.loads((folder() / "index.toml").read_text(encoding="utf-8"))
    return [Listed(name=name, **given) for name, given in index.items()]


def chosen(names: Sequence[str]) -> list[Listed]:
    """Return the named benchmarks, or all; raises UsageError for a name that is none."""
    known = {one.name: one for one in listed()}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names] if names else list(known.values())


def run(benchmark: Listed, say: Callable[[str], None]) -> Result:
    """Run a benchmark in a process of its own, for an hour at most; what it prints goes to ``say`` line by line."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        report, complaints = Path(name) / "figures.json", Path(name) / "errors.txt"
        command = [sys.executable, "-m", ".".join(FOLDER.parts), benchmark.module, str(report)]
        with complaints.open("w") as errors:
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
            limit = threading.Timer(LONGEST, process.kill)
            limit.start()
            try:
                for text in process.stdout or ():
                    say(text.rstrip())
                process.wait()
            finally:
                limit.cancel()
                process.kill()
                process.wait()
        seconds = time.perf_counter() - began
        if process.returncode or not report.is_file():
            told = [text.strip() for text in complaints.read_text(encoding="utf-8").splitlines() if text.strip()]
            last = told[-1][:300] if told else f"it ended with status {process.returncode}"
            return Result(name=benchmark.name, failure=last, seconds=seconds)
        found = json.loads(report.read_text(encoding="utf-8"))
    return Result.model_validate({"name": benchmark.name, "seconds": seconds, **found})


def machine() -> Machine:
    """Return this machine: its processor, the cores and the memory that this process may use, and the libraries."""
    import psutil

    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((text.partition(":")[2].strip() for text in lines if text.startswith("model name")), cpu)
    except OSError:
        pass  # not Linux: what Python knows of it must do
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library.removesuffix("-skinny")] = version(library)
        except PackageNotFoundError:
            continue
    return Machine(
        cpu=cpu, cores=cores, memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.release()}", versions=versions,
    )  # fmt: skip


class Record(Frozen):
    """Figures to measure later ones by, as kept in the source tree: by benchmark, with their machine."""

    machine: Machine
    figures: dict[str, tuple[Figure, ...]]

    def then(self, benchmark: str, now: Figure) -> Figure | None:
        """Return what was recorded of a figure: of the same work beside the same other; None if nothing was."""
        known = self.figures.get(benchmark, ())
        return next((one for one in known if (one.name, one.beside) == (now.name, now.beside)), None)


def recorded() -> Record | None:
    """Return the figures that the source tree holds, None if it holds none yet."""
    path = folder() / RECORDED
    return Record.model_validate_json(path.read_bytes()) if path.is_file() else None


def record(here: Machine, results: Iterable[Result]) -> Path:
    """Keep these figures in the source tree beside those of benchmarks that did not run now; return the file."""
    from flows.steps.files import write_text

    before = recorded()
    figures = dict(before.figures) if before else {}
    figures |= {one.name: one.figures for one in results if one.figures}
    text = Record(machine=here, figures=figures).model_dump_json(indent=1, exclude_defaults=True)
    return write_text(folder() / RECORDED, f"{text}\n")


def worse(results: Iterable[Result], before: Record) -> list[str]:
    """Say which ratios are worse than the worst round that was recorded by more than ``SLACK``; what could not run, too."""
    found = []
    for result in results:
        if result.failure:
            found.append(f"{result.name} could not run: {result.failure}")
        for now in result.figures:
            then = before.then(result.name, now)
            if then is None:
                continue
            limit = then.high * (1 + SLACK) if now.better == "lower" else then.low / (1 + SLACK)
            if (now.ratio > limit) if now.better == "lower" else (now.ratio < limit):
                found.append(
                    f"{result.name}, {now.name}: {now.ratio:.3g} times {now.beside}; "
                    f"recorded {then.ratio:.3g} ({then.low:.3g} to {then.high:.3g})"
                )
    return found
