"""The monitoring of one day of 1,000,000 logged and labelled predictions, by its flow, beside the bare join and error.

``uv run python -m tests.benchmarks.monitoring [--rows N] [--rounds N]``

Six days of trips are landed, featurized and trained on, a seventh is answered by the champion with the features as they
were known, logged as the service logs (requests of 1,000 rows) and folded, and lands with its labels. Timed is `monitor`:
log and labels read and joined, error by day and slice with its intervals, drift of every feature, skew, page, events.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from flows.settings import Settings
from flows.steps.bench import Figure, compared
from tests.benchmarks import rounds as turns

FIRST, DAYS = date(2024, 1, 1), 6
SECONDS = 30.0
ASKED = 1000  # rows of a request


def prepare(home: Settings, rows: int) -> None:
    """Train a champion on six days, and land the seventh with its log of ``rows`` predictions or some more."""
    from flows.featurize import featurize
    from flows.ingest import ingest
    from flows.models.taxi.simulator import simulate_day
    from flows.train import train

    source = home.home / "source"
    source.mkdir()
    for number in range(DAYS + 1):
        last = number == DAYS
        trips = round(rows * (1.4 if last else 0.15))  # of the last day's, some are dirt or it is a Sunday
        simulate_day(FIRST + timedelta(days=number), trips=trips).to_parquet(source / f"{number}.parquet")
        ingest(source=str(source / f"{number}.parquet"))
        if number == DAYS - 1:
            featurize()
            found = train(force=True, reason="benchmark")
            assert found["promoted"], found
    answer(home, rows)
    featurize()


def answer(home: Settings, rows: int) -> None:
    """Log the champion's predictions of trips of the last day, an hour's journals folded after the other."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from flows import database, ledger
    from flows.lookup import load_model
    from flows.steps.bundle import load_bundle
    from flows.steps.champion import reigning
    from flows.steps.feature_store import historical, open_store
    from flows.steps.prediction_hours import fold
    from flows.steps.prediction_log import Answer, PredictionLog
    from flows.steps.storage import folder, local
    from flows.steps.training_set import matrix

    spec, engine = load_model("taxi", home), database.connect(home)
    champion = reigning(engine, spec, "answer with")
    with folder(home, champion.model_uri) as files:
        bundle = load_bundle(files, champion.digest, home.trusted_types)
    names, fields = bundle.manifest.feature_names, [field.name for field in spec.request]
    accepted = ledger.list_partitions(engine, "taxi", "accepted")[-1]
    day = pq.read_table(local(home, str(accepted.accepted_uri))).sort_by("event_timestamp")
    assert day.num_rows >= rows, f"only {day.num_rows} trips"
    day = day.take(pa.array(np.linspace(0, day.num_rows - 1, rows).astype(np.int64)))  # of all hours: a whole day
    store, log = open_store(home), PredictionLog(home, spec)
    hours = pc.floor_temporal(day["event_timestamp"], unit="hour").to_numpy()
    starts = [0, *(place for place in range(1, rows) if hours[place] != hours[place - 1]), rows]
    for start, end in pairwise(starts):
        joined = historical(store, spec, day.slice(start, end - start).select([*fields, "event_timestamp"]))
        scores = bundle.scores(matrix(joined, names))
        for place in range(0, end - start, ASKED):
            some = joined.slice(place, ASKED)
            at: datetime = some["event_timestamp"][-1].as_py()
            answers = [
                Answer(prediction=float(score), probabilities=None, features=features, unknown=[])
                for score, features in zip(scores[place:], some.select(list(names)).to_pylist(), strict=False)
            ]
            log.append(f"{start}-{place}", at, champion.version, some.select(fields).to_pylist(), answers)
        log.close()
        fold(home, spec)


def bare(home: Settings) -> float:
    """Join the folded log with the labels in DuckDB and return the error: no interval, no day, no drift, no page."""
    import duckdb

    from flows import database, ledger
    from flows.steps.storage import local

    accepted = ledger.list_partitions(database.connect(home), "taxi", "accepted")[-1]
    with duckdb.connect() as connection:
        found = connection.execute(
            """SELECT sqrt(avg((p.prediction - l.label) ** 2)) FROM read_parquet($log) AS p
            JOIN read_parquet($labels) AS l ON p."request.PULocationID" = l.PULocationID
            AND p."request.DOLocationID" = l.DOLocationID AND p."request.trip_distance" = l.trip_distance
            AND p."request.lpep_pickup_datetime" = l.lpep_pickup_datetime WHERE l.label BETWEEN 1 AND 60""",
            {
                "log": str(home.predictions("taxi") / "hours/*/*/*.parquet"),
                "labels": local(home, str(accepted.accepted_uri)),
            },
        ).fetchone()
    return float(found[0]) if found else float("nan")


def watch(home: Settings, rows: int) -> dict[str, Any]:
    """Run the flow, print its stages and return its summary."""
    from flows import database, run_records
    from flows.monitor import monitor

    found: dict[str, Any] = monitor(retrain=False)
    run = next(run for run in run_records.newest(database.connect(home), "taxi") if run.flow == "monitor")
    for stage in run.summary["stages"]:
        taken = datetime.fromisoformat(stage["end"]) - datetime.fromisoformat(stage["start"])
        print(f"      {stage['name']:<22} {taken.total_seconds():7.2f} s", flush=True)
    assert (
        found["performance"]["predictions"]
        == found["performance"]["labelled"] + found["performance"]["outside"]
        == rows
    ), found
    return found


def measure(rows: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of the flow and of the bare join, by round."""
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    with tempfile.TemporaryDirectory(prefix="monitoring-") as folder:
        home = Settings(home=Path(folder) / "home").activate()
        from flows.steps.prefect_server import prefect_server

        with prefect_server(home):
            prepare(home, rows)
            return turns.seconds({"monitor": lambda: watch(home, rows), "bare": lambda: bare(home)}, rounds)


def figures() -> list[Figure]:
    """Return the flow's seconds beside those of the bare join."""
    rows = 1_000_000
    taken = measure(rows, 3)
    return [
        compared(
            f"monitoring of a day of {rows:,} predictions", "bare join and error", taken["monitor"], taken["bare"],
            at_most=SECONDS, note="by its flow on its server: labels, error by day and slice, drift, skew, page, events",
        )
    ]  # fmt: skip


def main() -> None:
    """Print the rounds and their stages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    measure(options.rows, options.rounds)


if __name__ == "__main__":
    main()
