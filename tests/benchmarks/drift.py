"""The drift check of 20 features on 1,000,000 rows a side beside evidently's, both by Jensen and Shannon's distance.

evidently has an environment of its own (``uv run --no-project --with``): its plotly and ours do not go together. Both get
their tables in memory before the clock starts.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.steps import drift
from flows.steps.bench import Figure, compared
from tests.benchmarks import rounds

ROWS, NUMBERS, TEXTS = 1_000_000, 16, 4
ROUNDS, THEIRS = 3, 1  # evidently takes minutes for one
EVIDENTLY = "evidently==0.7.23"


def table(seed: int, shift: float) -> pa.Table:
    """Return 16 columns of numbers and 4 of text over 28 days, in their order."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, 28 * 86_400, ROWS)) * 1_000_000 + np.datetime64("2024-01-01", "us").astype(int)
    columns = {"event_timestamp": pa.array(times).cast(pa.timestamp("us", "UTC"))}
    for number in range(NUMBERS):
        drawn = (rng.normal, rng.lognormal)[number % 2](shift, 1.0, ROWS)
        columns[f"number_{number}"] = pa.array(drawn if number % 4 < 2 else np.floor(drawn * 10))
    names = np.array([f"kind {place}" for place in range(12)])
    for number in range(TEXTS):
        shares = rng.dirichlet(np.full(12, 5.0))
        columns[f"text_{number}"] = pa.array(names[rng.choice(12, ROWS, p=shares)])
    return pa.table(columns)


def evidently(then: Path, now: Path, folder: Path) -> list[float]:
    """Return the seconds of evidently's report, once, in a process of its own."""
    script = Path(__file__).with_name("evidently_drift.py")
    command = [
        "uv",
        "run",
        "--quiet",
        "--no-project",
        "--with",
        EVIDENTLY,
        "--with",
        "pyarrow",
        "--with",
        "pandas<3",
        "python",
        str(script),
    ]
    report = folder / "evidently.json"
    done = subprocess.run(
        [*command, str(then), str(now), str(THEIRS), str(report)], capture_output=True, text=True, timeout=1800, cwd=folder
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{EVIDENTLY} could not be run: {(done.stderr.splitlines() or ['no word'])[-1]}")
    found = json.loads(report.read_text())
    if found["columns"] != NUMBERS + TEXTS:
        raise SystemExit(f"evidently compared {found['columns']} columns, not {NUMBERS + TEXTS}")
    print(f"evidently {found['seconds']}", flush=True)
    return found["seconds"]


def figures() -> list[Figure]:
    """Return the whole check beside evidently's, and the part that is done each time."""
    then, now = table(1, 0.0), table(2, 0.05)
    names = [name for name in then.column_names if name != "event_timestamp"]
    known = drift.reference(then, names)
    ours = rounds.seconds(
        {
            "check": lambda: drift.compare(drift.reference(then, names), now),
            "compare": lambda: drift.compare(known, now),
        },
        ROUNDS,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for which, rows in (("then", then), ("now", now)):
            pq.write_table(rows.drop(["event_timestamp"]), folder / f"{which}.parquet")
        other = evidently(folder / "then.parquet", folder / "now.parquet", folder)
    size = f"{len(names)} features x {ROWS:,} rows"
    return [
        compared(
            f"drift check of {size}", "evidently", ours["check"], other * ROUNDS, bound=1 / 15,
            note="of the training set at most 200,000 rows, every n-th, make the reference; days' usual distances included",
        ),
        compared(
            f"the same with the reference made at training, {size}", "evidently", ours["compare"], other * ROUNDS, bound=1 / 15,
        ),
    ]  # fmt: skip
