"""Judging the values of 10,000,000 rows beside hand-written SQL that asks the same: Great Expectations' part, and all of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from flows.lookup import load_model
from flows.settings import Settings
from flows.steps.bench import Figure, compared
from flows.steps.event_rows import EVENTS, ROW, create_events
from flows.steps.gx_duckdb import TableJudge
from flows.steps.in_memory import connect
from flows.steps.periods import parse_key
from flows.steps.presence import check_rows
from flows.steps.validation import REJECTS, load_suite, run_suite
from tests.benchmarks import landing, rounds

ROWS, LIMIT = 10_000_000, 1.5
# What the taxi suite asks, in one scan: missing values, bounds, medians, the number of zones; then the rows that break it.
BROKEN = (
    "lpep_dropoff_datetime IS NULL", "trip_distance IS NULL", "NOT (PULocationID BETWEEN 1 AND 265)",
    "NOT (DOLocationID BETWEEN 1 AND 265)", "NOT (trip_distance BETWEEN 0 AND 100)", "NOT (minutes > 0 AND minutes <= 180)",
)  # fmt: skip
SUITE = f"""SELECT count(lpep_pickup_datetime), count(PULocationID), count(DOLocationID),
    {", ".join(f"count(*) FILTER ({one})" for one in BROKEN)},
    median(minutes), median(trip_distance), count(DISTINCT PULocationID) FROM {EVENTS}"""
REASONS = f"INSERT INTO by_hand SELECT {ROW}, '{{0}}' FROM {EVENTS} WHERE {{0}}"
CONTRACT = f"""SELECT count(*), count(lpep_pickup_datetime), count(lpep_dropoff_datetime), count(trip_distance),
    count(PULocationID), count(DOLocationID), count(*) FILTER (isinf(trip_distance)),
    count(*) FILTER (lpep_pickup_datetime >= TIMESTAMP '2024-01-01' AND lpep_pickup_datetime < TIMESTAMP '2024-02-01')
    FROM {EVENTS}"""
KEYS = f"""SELECT count(*) - count(DISTINCT hash(lpep_pickup_datetime, PULocationID, DOLocationID, trip_distance))
    FROM {EVENTS}"""


def figures() -> list[Figure]:
    """Return the suite, and suite and contract, beside what a person would write for both."""
    with tempfile.TemporaryDirectory(prefix="validation-") as name:
        folder = Path(name)
        spec, period = load_model("taxi", Settings(home=folder)), parse_key("2024-01")
        landing.write_rows(folder / "some.parquet", 1_000_000)
        landing.repeat(folder / "some.parquet", ROWS // 1_000_000, folder / "all.parquet")
        with connect(folder) as connection:
            rows = create_events(connection, spec, str(folder / "all.parquet")).rows
            expectations, judge = load_suite(spec), TableJudge(connection, EVENTS)

            def suite() -> None:
                connection.execute(f"CREATE OR REPLACE TABLE {REJECTS} ({ROW} BIGINT, reason VARCHAR)")
                assert not run_suite(connection, judge, expectations).reasons

            def suite_by_hand() -> None:
                connection.execute(f"CREATE OR REPLACE TABLE by_hand ({ROW} BIGINT, reason VARCHAR)")
                found = connection.execute(SUITE).fetchone()
                for broken, count in zip(BROKEN, found[3:-3], strict=True):
                    if count:
                        connection.execute(REASONS.format(broken))

            def whole() -> None:
                suite()
                assert not check_rows(connection, spec, period, rows, []).reasons

            def whole_by_hand() -> None:
                suite_by_hand()
                for query in (CONTRACT, KEYS):
                    connection.execute(query).fetchone()

            ways = {"suite": suite, "suite by hand": suite_by_hand, "all": whole, "all by hand": whole_by_hand}
            suite()  # what is imported or compiled at first use is not its time
            taken = rounds.seconds(ways, 3)
    return [
        compared(
            f"Great Expectations' suite, {rows:,} rows", "hand-written SQL", taken["suite"], taken["suite by hand"],
            bound=LIMIT, note="by hand: one scan for all counts and medians, one more for each rule that a row breaks",
        ),
        compared(
            "the same with the contract on values and keys", "hand-written SQL", taken["all"], taken["all by hand"],
            bound=LIMIT,
        ),
    ]  # fmt: skip
