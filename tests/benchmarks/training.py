"""The training flow on 1,000,000 rows beside a bare script that joins, fits and measures with the same libraries.

``uv run python -m tests.benchmarks.training [--rows N] [--rounds N] [--json FILE]``
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from flows.settings import Settings
from flows.steps.bench import Figure, compared

FIRST, DAYS = date(2024, 1, 1), 28


def prepare(home: Settings, rows: int) -> None:
    """Land and featurize 28 days of trips, ``rows`` in all."""
    from flows.featurize import featurize
    from flows.ingest import ingest
    from flows.models.taxi.simulator import simulate_day

    source = home.home / "source"
    source.mkdir()
    for number in range(DAYS):
        day = FIRST + timedelta(days=number)
        simulate_day(day, trips=round(rows / DAYS * 1.1)).to_parquet(source / f"{day}.parquet")
    ingest(source=str(source))
    featurize()


def flow_run() -> dict[str, Any]:
    """Train by the flow: join, fit, evaluation, gates, logging, registration and promotion."""
    from flows.train import train

    found: dict[str, Any] = train(force=True, reason="benchmark")
    assert not found["failed"], found
    return found


def bare(home: Settings) -> dict[str, Any]:
    """Join in DuckDB, fit scikit-learn's estimator, measure on train and test."""
    import duckdb
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    from flows import database, ledger
    from flows.models.taxi.features import request_features
    from flows.models.taxi.spec import spec
    from flows.steps.fitting import make_estimator
    from flows.steps.training_set import choose_window

    accepted = ledger.list_partitions(database.connect(home), "taxi", "accepted")
    window = choose_window(spec, accepted)
    joins, columns = [], []
    for view, keys in spec.entities.items():
        on = " AND ".join(f'r."{key}" = {view}."{key}"' for key in keys)
        table = f"(FROM read_parquet('{home.features('taxi') / view}/*.parquet'))"
        joins.append(f"ASOF LEFT JOIN {table} AS {view} ON {on} AND r.event_timestamp >= {view}.event_timestamp")
        excluded = ", ".join([*(f'"{key}"' for key in keys), "event_timestamp", "created_timestamp"])
        columns.append(f"{view}.* EXCLUDE ({excluded})")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows = connection.execute(
            f"SELECT r.lpep_pickup_datetime, r.trip_distance, r.label, r.event_timestamp, {', '.join(columns)} "
            f"FROM read_parquet({[p.accepted_uri for p in accepted]}) r {' '.join(joins)} "
            "WHERE label BETWEEN 1 AND 60 AND (r.event_timestamp >= $split OR label_timestamp <= $split)",
            {"split": window.split},
        ).df()
    inputs = rows.drop(columns=["lpep_pickup_datetime", "trip_distance", "label", "event_timestamp"])
    inputs = inputs.join(request_features(rows))
    train = (rows["event_timestamp"] < window.split).to_numpy()
    fitted = make_estimator(spec.estimator, spec.params).fit(inputs[train], rows["label"][train])
    figures = {}
    for part, chosen in (("train", train), ("test", ~train)):
        predicted, labels = fitted.predict(inputs[chosen]), rows["label"][chosen]
        figures[part] = {
            f.__name__: f(labels, predicted) for f in (root_mean_squared_error, mean_absolute_error, r2_score)
        }
    return {"error": figures["test"]["root_mean_squared_error"], "rows": len(rows)}


def measure(rows: int, rounds: int) -> tuple[dict[str, list[float]], float]:
    """Return the seconds of flow and script by round, and those of the flow's stages as plain steps, once."""
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    with tempfile.TemporaryDirectory() as folder:
        home = Settings(home=Path(folder) / "home").activate()
        from flows.steps.prefect_server import prefect_server

        with prefect_server(home):
            prepare(home, rows)
            times: dict[str, list[float]] = {"flow": [], "bare": []}
            for _ in range(rounds):
                for name, call in (("bare", lambda: bare(home)), ("flow", flow_run)):
                    start = time.perf_counter()
                    found = call()
                    times[name].append(time.perf_counter() - start)
                    print(f"{name:<5} {times[name][-1]:7.2f} s  error {found['error']:.4f}", flush=True)
            return times, show_stages(home)


def figures() -> list[Figure]:
    """Return the flow beside the script, and beside the work of its own stages: what orchestration adds."""
    rows = 1_000_000
    times, inside = measure(rows, 5)
    beside = compared(
        f"training flow on {rows:,} rows", "bare script", times["flow"], times["bare"], bound=1.25,
        note="the script joins, fits and measures with the same libraries; the flow also judges, logs and registers",
    )  # fmt: skip
    added = compared(
        "training flow on its server",
        "its stages' own time",
        times["flow"][-1:],
        [inside],
        note=f"what runs, records and a Prefect server add in all: {times['flow'][-1] - inside:.2f} s",
    )
    return [beside, added]


def main() -> None:
    """Print both times and their ratio, interleaved rounds in one process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    times, _ = measure(options.rows, options.rounds)
    ratio = statistics.median(times["flow"]) / statistics.median(times["bare"])
    spread = {
        name: f"{statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})"
        for name, values in times.items()
    }
    print(
        f"{options.rows:,} rows, median of {options.rounds}: flow {spread['flow']}, bare {spread['bare']}; "
        f"ratio {ratio:.2f} (goal 1.25)"
    )
    if options.json:
        options.json.write_text(json.dumps({"rows": options.rows, "seconds": times, "ratio": ratio}, indent=1))
    sys.stdout.flush()


def show_stages(home: Settings) -> float:
    """Print how long each stage of the newest training took; return the seconds of all."""
    total = 0.0
    from flows import database, run_records

    run = next(run for run in run_records.newest(database.connect(home), "taxi") if run.flow == "train")
    for stage in run.summary["stages"]:
        seconds = (datetime.fromisoformat(stage["end"]) - datetime.fromisoformat(stage["start"])).total_seconds()
        total += seconds
        print(f"      {stage['name']:<22} {seconds:7.2f} s", flush=True)
    return total


if __name__ == "__main__":
    main()
