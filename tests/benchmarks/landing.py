"""Measures landing against a bare DuckDB copy of the same rows from parquet to parquet, in turn, in one process.

Run: ``uv run python -m tests.benchmarks.landing [--rows N] [--rounds N] [--json FILE]``. Landing is all of it: read,
hash, write, validate with Great Expectations, split off bad rows, statistics, page, ledger; one monthly partition. Also
shown: the same from a file in small row groups, as daily partitions, and through the Prefect flow with its server.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from flows.steps.bench import Figure, compared
from tests.benchmarks import rounds as turns

YEAR = 2024
LIMIT = 6.0  # landing, in multiples of the bare copy
BARE, MONTH, DAYS, FLOW = "bare copy", "landed as 1 month", "landed as 31 days", "1 month, through the flow"
BARE_GROUPED, MONTH_GROUPED = "bare copy, small row groups", "landed, small row groups"


def write_rows(path: Path, rows: int) -> None:
    """Write a simulated January as the public monthly files are written: by pyarrow with its defaults."""
    import pandas as pd

    from flows.models.taxi.simulator import simulate_day

    days = [simulate_day(date(YEAR, 1, 1) + timedelta(days=day), trips=rows // 28) for day in range(31)]
    month = pd.concat(days, ignore_index=True).head(rows)
    month.to_parquet(path, index=False)


def rewrite(source: Path, target: Path) -> None:
    """Write a file again as DuckDB does, in small row groups: then the bare copy can use all cores."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT * FROM read_parquet($source)) TO $target (FORMAT parquet)",
            {"source": str(source), "target": str(target)},
        )


def bare(source: Path, folder: Path) -> float:
    """Copy the rows from parquet to parquet with DuckDB's defaults; return the seconds."""
    started = time.perf_counter()
    rewrite(source, folder / "copy.parquet")
    return time.perf_counter() - started


def land(source: Path, folder: Path, kind: str) -> float:
    """Land the rows in a fresh home by the plain steps; return the seconds."""
    from flows import database, ledger
    from flows.lookup import load_model
    from flows.settings import Settings
    from flows.steps import docs, judging, landing
    from flows.steps.in_memory import connect
    from flows.steps.periods import parse_kind

    home = Settings(home=Path(tempfile.mkdtemp(dir=folder)))
    spec = load_model("taxi", home)
    engine = database.connect(home)
    started = time.perf_counter()
    with connect(home.home) as connection:
        landed = landing.land(str(source), spec, home, engine, parse_kind(kind), connection)
        bench = judging.Bench(connection, spec, home, engine, landed)
        decided = [judging.decide(bench, partition) for partition in landed.partitions]
    docs.write_index(home, spec, ledger.list_partitions(engine, spec.name))
    taken = time.perf_counter() - started
    if {partition.status for partition in decided} != {"accepted"}:
        raise SystemExit(f"not accepted: {[partition.reasons for partition in decided]}")
    return taken


def through_flow(source: Path, folder: Path) -> float:
    """Land the rows as one month through the Prefect flow, its server running; return the seconds of the flow run."""
    from flows.settings import load
    from flows.steps.prefect_server import prefect_server

    home = load(tempfile.mkdtemp(dir=folder))
    with prefect_server(home):
        from flows.ingest import ingest

        started = time.perf_counter()
        ingest(str(source), partition_by="month")
        return time.perf_counter() - started


def measure(rows: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of each variant, and of landing in multiples of the bare copy: the median over the rounds."""
    with tempfile.TemporaryDirectory(prefix="landing-") as name:
        folder = Path(name)
        source, small, grouped = (folder / f"{name}.parquet" for name in ("rows", "small", "grouped"))
        write_rows(source, rows)
        write_rows(small, 28_000)
        rewrite(source, grouped)
        for _ in range(2):  # what is imported or compiled at first use is not landing's time
            land(small, folder, "month")
        seconds = {label: [0.0] * rounds for label in (BARE, MONTH, BARE_GROUPED, MONTH_GROUPED)}
        for number in range(rounds):
            for file, copied, landed in ((source, BARE, MONTH), (grouped, BARE_GROUPED, MONTH_GROUPED)):
                seconds[copied][number] = bare(file, folder)
                seconds[landed][number] = land(file, folder, "month")
        seconds[DAYS] = [land(source, folder, "day")]
        seconds[FLOW] = [through_flow(source, folder)]
    ratios = {
        landed: statistics.median(b / a for a, b in zip(seconds[copied], seconds[landed], strict=True))
        for copied, landed in ((BARE, MONTH), (BARE_GROUPED, MONTH_GROUPED))
    }
    return {"rows": rows, "seconds": seconds, "ratios": ratios, "limit": LIMIT, "cores": os.cpu_count()}


def figures() -> list[Figure]:
    """Return landing beside the bare copy at 1,000,000 rows in both layouts, and at 10,000,000."""
    found = measure(1_000_000, 5)
    seconds = found["seconds"]
    print(f"as 31 days {seconds[DAYS][0]:.2f} s, through the flow {seconds[FLOW][0]:.2f} s", flush=True)
    small = [
        compared(
            f"ingest of 1,000,000 rows, {layout}", "bare DuckDB copy", seconds[landed], seconds[copied], bound=LIMIT,
            note="all of it: read, hash, write, validate, split off bad rows, statistics, page, ledger",
        )
        for layout, copied, landed in (("as published", BARE, MONTH), ("small row groups", BARE_GROUPED, MONTH_GROUPED))
    ]  # fmt: skip
    flow = compared(
        "ingest of 1,000,000 rows by its flow", "the plain steps", seconds[FLOW], [statistics.median(seconds[MONTH])],
        note="what the flow adds: its run, its tasks and their records on a Prefect server",
    )  # fmt: skip
    return [*small, flow, large(10_000_000, 3), large(10_000_000, 3, months=1)]


def large(rows: int, rounds: int, months: int = 2) -> Figure:
    """Return landing beside the bare copy of a large file; the file's layout is DuckDB's.

    Repeated with all others, the few trips of a wrong year are enough for a partition of their own, and each of the two
    is written anew. A file of one month alone is kept as it came.
    """
    with tempfile.TemporaryDirectory(prefix="landing-") as name:
        folder = Path(name)
        source, small, big = (folder / f"{name}.parquet" for name in ("some", "small", "big"))
        write_rows(small, 28_000)
        write_rows(source, 1_000_000)
        repeat(source, rows // 1_000_000, big, strays=months > 1)
        land(small, folder, "month")
        ways = {"land": lambda: land(big, folder, "month"), "copy": lambda: bare(big, folder)}
        taken = turns.seconds(ways, rounds)
    name = f"ingest of {rows:,} rows" + (", all of one month" if months == 1 else "")
    return compared(name, "bare DuckDB copy", taken["land"], taken["copy"], bound=4.0)


def repeat(source: Path, times: int, target: Path, strays: bool = True) -> None:
    """Write a file's rows several times over, each time some microseconds later, so that no row repeats a key.

    Without ``strays`` the rows of a wrong year come once.
    """
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(
            f"""COPY (
                SELECT trip.* REPLACE (lpep_pickup_datetime + to_microseconds(n) AS lpep_pickup_datetime)
                FROM read_parquet($source) AS trip, range({times}) AS again(n)
                WHERE {strays} OR n = 0 OR year(lpep_pickup_datetime) = {YEAR}
            ) TO $target (FORMAT parquet)""",
            {"source": str(source), "target": str(target)},
        )


def main() -> None:
    """Measure, print a table and end with status 1 if landing takes longer than it may."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options.rows, options.rounds)
    print(f"{options.rows:,} rows, {result['cores']} cores, {options.rounds} rounds")
    print(f"{'':30}{'median s':>10}{'x bare':>9}")
    for label, times in result["seconds"].items():
        ratio = result["ratios"].get(label)
        print(f"{label:30}{statistics.median(times):10.3f}" + (f"{ratio:9.2f}" if ratio else ""))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    if result["ratios"][MONTH] > LIMIT:
        raise SystemExit(f"landing takes {result['ratios'][MONTH]:.2f} times the bare copy, more than {LIMIT:g}")


if __name__ == "__main__":
    main()
