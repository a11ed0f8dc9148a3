"""Time and peak memory of ingest, features, scoring and training per million rows, as the data grows; 4 GiB a process.

``uv run python -m tests.benchmarks.memory [--millions 1 10 ...] [--draw FILE]``

The rows are a simulated month repeated by SQL, some microseconds later each time. Each stage is a process of its own
in a memory cgroup of 4 GiB (version 1; a machine without one has no limit, and the figures say so). Memory is the peak
of what the process holds itself, without the pages of files that the system keeps for it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.steps.bench import Figure, compared

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 4 * 2**30
GROUPS = Path("/sys/fs/cgroup/memory")
SMALL, LARGE, DAYS, YEAR = 1, 10, 31, 2024  # million rows; a file of more is of more months, each of ten millions
BUDGET = 500_000  # rows that train, of as many as there are


def ingest(folder: Path) -> int:
    """Land and judge the file as one month."""
    from flows import database
    from flows.lookup import load_model
    from flows.settings import Settings
    from flows.steps import judging, landing
    from flows.steps.in_memory import connect
    from flows.steps.periods import parse_kind

    home = Settings(home=folder / "home")
    spec, engine = load_model("taxi", home), database.connect(home)
    with connect(home.home) as connection:
        landed = landing.land(str(folder / "rows.parquet"), spec, home, engine, parse_kind("month"), connection)
        bench = judging.Bench(connection, spec, home, engine, landed)
        decided = [judging.decide(bench, partition) for partition in landed.partitions]
    assert {one.status for one in decided} == {"accepted"}, decided
    return sum(one.rows for one in decided)


def features(folder: Path) -> int:
    """Compute the feature tables of what was accepted, register them, and mark the partitions."""
    from flows import database, ledger
    from flows.lookup import load_model
    from flows.settings import Settings
    from flows.steps import feature_store, feature_tables

    home = Settings(home=folder / "home").activate()
    spec, engine = load_model("taxi", home), database.connect(home)
    accepted = ledger.list_partitions(engine, "taxi", "accepted")
    planned = feature_tables.plan(spec, accepted)
    feature_tables.compute(home, spec, planned)
    feature_store.apply_definitions(home, spec)
    ledger.mark_featurized(engine, planned.new, planned.moment)
    return sum(one.rows for one in accepted)


def score(folder: Path) -> int:
    """Fit a model on some rows and predict the whole file with it, features joined as of each row."""
    from flows.lookup import load_model
    from flows.settings import Settings
    from flows.steps import feature_store
    from flows.steps.scoring import score_file

    home = Settings(home=folder / "home").activate()
    spec = load_model("taxi", home)
    store = feature_store.open_store(home)
    found = score_file(home, spec, store, _Mean(feature_store.feature_names(store, spec)), 1,
                       str(folder / "requests.parquet"), str(folder / "scored.parquet"))  # fmt: skip
    return found.rows


def train(folder: Path) -> int:
    """Build the training set of the newest window by a budget of rows, and fit the model's estimator on it."""
    from flows import database, ledger
    from flows.lookup import load_model
    from flows.settings import Settings
    from flows.steps import feature_store, fitting, training_set

    home = Settings(home=folder / "home").activate()
    spec, engine = load_model("taxi", home), database.connect(home)
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"max_rows": BUDGET})})
    accepted = ledger.list_partitions(engine, "taxi", "accepted")
    window = training_set.choose_window(spec, accepted)
    data = training_set.build(home, feature_store.open_store(home), spec, accepted, window, folder)
    fitting.fit(spec, data, dict(spec.params))
    assert data.train_rows <= BUDGET, data
    return sum(one.rows for one in accepted if one.id in window.partition_ids)


class _Mean:
    """Stands for a model's bundle, so that joining and writing are what is measured: the mean of a row's features."""

    def __init__(self, names: list[str]) -> None:
        from types import SimpleNamespace

        self.manifest = SimpleNamespace(feature_names=tuple(names), classes=None)

    def scores(self, rows: Any) -> Any:
        return rows.mean(axis=1).fillna(0.0).to_numpy()


STAGES = {"ingest": ingest, "features": features, "join and score": score, "training by budget": train}


def write_trips(month: Path, millions: int, target: Path) -> None:
    """Write the trips of a month some times over: up to ten times as the same month, each ten of them 31 days later.

    Months follow one another, as in a file of monthly files put together; within one, rows are in no order. The few trips
    of a wrong year come once: a hundred times over they would make months of their own.
    """
    import duckdb

    with duckdb.connect(config={"memory_limit": "2GB", "temp_directory": str(target.parent)}) as connection:
        parts = []
        for number, first in enumerate(range(0, millions, LARGE)):
            parts.append(str(target.with_name(f"month-{number}.parquet")))
            connection.execute(
                f"""COPY (
                    SELECT trip.* REPLACE (
                        lpep_pickup_datetime + to_days({DAYS * number}) + to_microseconds(n) AS lpep_pickup_datetime,
                        lpep_dropoff_datetime + to_days({DAYS * number}) AS lpep_dropoff_datetime
                    ) FROM range({min(LARGE, millions - first)}) AS again(n), read_parquet($source) AS trip
                    WHERE ({number} = 0 AND n = 0) OR year(lpep_pickup_datetime) = {YEAR}
                ) TO $target (FORMAT parquet)""",
                {"source": str(month), "target": parts[-1]},
            )
        connection.execute(
            "COPY (SELECT * FROM read_parquet($parts)) TO $target (FORMAT parquet)",
            {"parts": parts, "target": str(target)},
        )
    for part in parts:
        Path(part).unlink()


@contextmanager
def limited() -> Iterator[Path | None]:
    """Yield a cgroup of 4 GiB, None where there is none to be made."""
    group = GROUPS / f"evergreen-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(LIMIT))
    except OSError:
        print("no memory cgroup can be made here: the processes are not limited", flush=True)
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()


def run(stage: str, folder: Path, group: Path | None) -> tuple[float, float, int]:
    """Run a stage in a process of its own; return seconds, peak MB and rows."""
    report = folder / "stage.json"
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--stage", stage, "--folder", str(folder)]
    enter = (lambda: (group / "cgroup.procs").write_text(str(os.getpid()))) if group else None
    done = subprocess.run(command, cwd=ROOT, preexec_fn=enter, capture_output=True, text=True, timeout=3 * 3600)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise SystemExit(f"{stage} did not end within {LIMIT >> 30} GiB: {last}")
    found = json.loads(report.read_text())
    return found["seconds"], found["megabytes"], found["rows"]


def inside(stage: str, folder: Path) -> None:
    """Do a stage in this process and leave its figures."""
    began = time.perf_counter()
    rows = STAGES[stage](folder)
    taken = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (folder / "stage.json").write_text(json.dumps({"seconds": taken, "megabytes": peak, "rows": rows}))


def measure(millions: int) -> dict[str, tuple[float, float, int]]:
    """Return seconds, peak MB and rows of each stage at a size."""
    from tests.benchmarks import landing

    with tempfile.TemporaryDirectory(prefix="memory-") as name, limited() as group:
        folder = Path(name)
        landing.write_rows(folder / "some.parquet", 1_000_000)
        write_trips(folder / "some.parquet", millions, folder / "rows.parquet")
        (folder / "requests.parquet").symlink_to(folder / "rows.parquet")
        found = {}
        for stage in STAGES:
            found[stage] = run(stage, folder, group)
            seconds, peak, rows = found[stage]
            print(f"{stage:18} {rows:>12,} rows {seconds:8.1f} s {peak:8.0f} MB "
                  f"{seconds / rows * 1e6:7.2f} s a million {peak / rows * 1e6:7.0f} MB a million", flush=True)  # fmt: skip
    return found


def figures() -> list[Figure]:
    """Return time and memory per million rows at 10 million beside those at 1 million."""
    small, large = measure(SMALL), measure(LARGE)
    made = []
    for stage in STAGES:
        for place, what, unit in ((0, "time", "s"), (1, "peak memory", "MB")):
            ours, other = (one[stage][place] / one[stage][2] * 1e6 for one in (large, small))
            name = f"{stage}: {what} per million rows of {LARGE},000,000"
            made.append(
                compared(
                    name, f"of {SMALL},000,000", [ours], [other], unit, bound=1.25, note=f"within {LIMIT >> 30} GiB"
                )
            )
    return made


def draw(found: dict[int, dict[str, tuple[float, float, int]]], path: Path) -> None:
    """Draw seconds and peak MB of each stage per million rows by the size in million rows, as PNG."""
    from flows.steps.files import replacing
    from flows.steps.pictures import figure, png

    drawing, (axes,) = figure(1, 2, 9, 3.4)
    for axis, place, what in ((axes[0], 0, "seconds"), (axes[1], 1, "peak MB")):
        for stage in STAGES:
            values = [one[stage][place] / one[stage][2] * 1e6 for one in found.values()]
            axis.plot(list(found), values, "o-", markersize=4, linewidth=1.2, label=stage)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(list(found), [f"{millions} million" for millions in found])
        axis.set_title(f"{what} per million rows", fontsize=9)
    axes[0].legend(fontsize=8, frameon=False)
    with replacing(path) as temporary:
        temporary.write_bytes(png(drawing))


def main() -> None:
    """Print the figures of each size, and draw them if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--millions", type=int, nargs="+", default=[SMALL, LARGE])
    parser.add_argument("--draw", type=Path, metavar="FILE", help="PNG of the figures by size")
    for hidden in ("--stage", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        inside(options.stage, Path(options.folder))
        return
    found = {millions: measure(millions) for millions in options.millions}
    if options.draw:
        draw(found, options.draw)


if __name__ == "__main__":
    main()
