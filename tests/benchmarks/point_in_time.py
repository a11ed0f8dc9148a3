"""Measures the point-in-time join: our offline store beside the bare DuckDB ASOF join, Feast's store, pandas, Spark.

Run: ``uv run python -m tests.benchmarks.point_in_time [--json FILE] [--rounds N]``. Time is taken in one process, the
variants in turn, round by round. Memory is the peak that the join adds to a process that holds the imports and the
entity rows, a process for each variant; of Spark it would miss Java's and the workers' part, and is not taken. All must
give the same rows.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.steps.bench import Figure

from tests.benchmarks import point_in_time_spark as on_spark

ROOT = Path(__file__).resolve().parents[2]
ENTITY_ROWS, FEATURE_ROWS, KEYS = 1_000_000, 350_000, 5_000
FEATURES = ("trips", "minutes_mean", "minutes_median", "mph_mean")
TTL = timedelta(days=7)
BARE, OURS, FEAST, PANDAS = "bare ASOF join", "our store", "Feast's duckdb store", "pandas merge_asof"
ALL = (BARE, OURS, FEAST, PANDAS)  # and the stores of Spark, where it is
LIMITS = {"time": 1.2, "memory": 1.5}  # of our store, in multiples of the bare join

# The quickest plain way to write it: `e.time - k.time <= INTERVAL ...` takes three times as long.
VALID = f"k.event_timestamp + INTERVAL '{TTL // timedelta(hours=1)} hours' >= e.event_timestamp"
BARE_SQL = f"""
    WITH known AS (
        SELECT * FROM read_parquet('{{features}}')
        QUALIFY row_number() OVER (PARTITION BY zone, event_timestamp ORDER BY created_timestamp DESC) = 1
    )
    SELECT e.*, {", ".join(f"CASE WHEN {VALID} THEN k.{name} END AS {name}" for name in FEATURES)}
    FROM entities AS e ASOF LEFT JOIN known AS k ON e.zone = k.zone AND e.event_timestamp >= k.event_timestamp
"""


def write_data(folder: Path) -> None:
    """Write the feature rows (hourly to daily for each key, 2 % of them corrected later) and the entity rows."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SELECT setseed(0.42)")
        start = "TIMESTAMPTZ '2022-01-01 00:00:00+00'"
        values = ", ".join(f"random() * 60 AS {name}" for name in FEATURES[1:])
        connection.execute(
            f"""
            COPY (
                WITH rows AS (
                    SELECT range % {KEYS} AS zone, {start} + to_hours(CAST(range // {KEYS} * 20 AS BIGINT)) AS time
                    FROM range({FEATURE_ROWS * 98 // 100})
                ), corrected AS (
                    SELECT * FROM rows USING SAMPLE {FEATURE_ROWS * 2 // 100} ROWS (reservoir, 7)
                ), all_rows AS (
                    SELECT *, time AS created FROM rows UNION ALL SELECT *, time + to_days(3) FROM corrected
                )
                SELECT zone, time AS event_timestamp, created AS created_timestamp,
                       CAST(random() * 500 AS BIGINT) AS {FEATURES[0]}, {values}
                FROM all_rows ORDER BY hash(zone, time, created)
            ) TO '{folder / "features.parquet"}' (COMPRESSION zstd)
            """
        )
        connection.execute(
            f"""
            COPY (
                SELECT range AS trip, CAST(random() * {KEYS} * 1.02 AS BIGINT) AS zone,
                       {start} + to_seconds(CAST(random() * 62 * 86400 AS BIGINT)) AS event_timestamp
                FROM range({ENTITY_ROWS})
            ) TO '{folder / "entities.parquet"}' (COMPRESSION zstd)
            """
        )


def variant(name: str, folder: Path) -> Callable[[Any], Any]:
    """Return the function from entity rows (pandas) to the joined Arrow table."""
    if name in (BARE, PANDAS):
        join = _bare if name == BARE else _pandas
        return lambda entities: join(entities, folder)
    store = _feast(name, folder)
    features = [f"zone_past:{feature}" for feature in FEATURES]
    return lambda entities: store.get_historical_features(entity_df=entities, features=features).to_arrow()


def _bare(entities: Any, folder: Path) -> Any:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("entities", entities)
        return connection.execute(BARE_SQL.format(features=folder / "features.parquet")).to_arrow_table()


def _pandas(entities: Any, folder: Path) -> Any:
    import pandas as pd
    import pyarrow as pa

    known = pd.read_parquet(folder / "features.parquet").sort_values(["event_timestamp", "created_timestamp"])
    known = known.drop_duplicates(["zone", "event_timestamp"], keep="last").drop(columns="created_timestamp")
    rows = entities.sort_values("event_timestamp")
    return pa.Table.from_pandas(pd.merge_asof(rows, known, on="event_timestamp", by="zone", tolerance=TTL))


def _feast(name: str, folder: Path) -> Any:
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64, Int64

    stores = {OURS: {"type": "feature_repo.offline_store.DuckDBAsofOfflineStore"}, FEAST: {"type": "duckdb"}}
    path, times = folder / "features.parquet", {
        "timestamp_field": "event_timestamp", "created_timestamp_column": "created_timestamp",
    }  # fmt: skip
    source = on_spark.source(path, times) if name == on_spark.FEAST_ON_SPARK else FileSource(path=str(path), **times)
    offline_store = on_spark.offline_store(name, folder) if name in on_spark.ALL else stores[name]
    home = Path(tempfile.mkdtemp(dir=folder))
    store = FeatureStore(
        config=RepoConfig(
            project="bench", provider="local", registry=str(home / "registry.db"), offline_store=offline_store,
            online_store={"type": "sqlite", "path": str(home / "online.db")}, entity_key_serialization_version=3,
        )
    )  # fmt: skip
    zone = Entity(name="zone", join_keys=["zone"], value_type=ValueType.INT64)
    view = FeatureView(
        name="zone_past",
        entities=[zone],
        ttl=TTL,
        schema=[
            Field(name="zone", dtype=Int64),
            *(Field(name=f, dtype=Int64 if f == FEATURES[0] else Float64) for f in FEATURES),
        ],
        source=source,
    )
    store.apply([zone, view])
    return store


def read_entities(folder: Path) -> Any:
    """Return the entity rows as a pandas frame."""
    import pyarrow.parquet as pq

    return pq.read_table(folder / "entities.parquet").to_pandas()


def measure_times(folder: Path, rounds: int, names: tuple[str, ...]) -> dict[str, list[float]]:
    """Return the seconds of each variant in each round; the order turns from round to round."""
    entities = read_entities(folder)
    run = {name: variant(name, folder) for name in names}
    for join in run.values():  # what is imported or compiled at first use is not the join's time
        join(entities.head(1000))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            run[name](entities)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def measure_memory(folder: Path, name: str) -> float:
    """Return the MB by which one join raises this process's peak above imports and entity rows."""
    import feast  # noqa: F401 (the bare join is measured in the same surroundings)

    entities = read_entities(folder)
    join = variant(name, folder)
    join(entities.head(1000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    join(entities)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def check_equal(folder: Path, names: tuple[str, ...]) -> int:
    """Return the number of joined rows; raises SystemExit if the variants differ."""
    entities = read_entities(folder)
    order = [("trip", "ascending")]
    tables = {name: variant(name, folder)(entities).sort_by(order) for name in names}
    first = tables[names[0]]
    for name, table in tables.items():
        if any(not table[column].cast(first[column].type).equals(first[column]) for column in first.column_names):
            raise SystemExit(f"{name} gives other rows than {names[0]}")
    return int(first.num_rows)


def _child(folder: Path, *arguments: str) -> Any:
    """Run this file again in a process of its own and return what it reports."""
    report = folder / "report.json"
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.point_in_time",
        "--folder",
        str(folder),
        "--report",
        str(report),
        *arguments,
    ]
    subprocess.run(command, check=True, cwd=ROOT, env=None, timeout=1800)
    return json.loads(report.read_text())


def measure(rounds: int, names: tuple[str, ...]) -> dict[str, Any]:
    """Return seconds, memory and their multiples of the bare join for each variant."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        write_data(folder)
        memory = {name: [_child(folder, "--part", "memory", name) for _ in range(3)] for name in names}
        with on_spark.cluster(folder) as stores:
            rows = _child(folder, "--part", "equal", *names, *stores)
            seconds = _child(folder, "--part", "times", "--rounds", str(rounds), *names)
            # Feast's Spark store takes over a minute a round.
            on_clusters = [OURS, *stores]
            beside = _child(folder, "--part", "times", "--rounds", "2", *on_clusters) if stores else {}
    bare = statistics.median(memory[BARE])
    variants = {
        name: {
            "seconds": statistics.median(seconds[name]),
            "seconds_min": min(seconds[name]),
            "seconds_max": max(seconds[name]),
            "megabytes": statistics.median(memory[name]),
            "times_bare": statistics.median(a / b for a, b in zip(seconds[name], seconds[BARE], strict=True)),
            "memory_times_bare": statistics.median(memory[name]) / bare,
        }
        for name in names
    }
    taken = {"rounds_seconds": seconds, "rounds_on_spark": beside, "rounds_megabytes": memory}
    return {
        **taken, "entity_rows": ENTITY_ROWS, "feature_rows": FEATURE_ROWS, "result_rows": rows, "rounds": rounds,
        "variants": variants,
    }  # fmt: skip


def figures() -> list[Figure]:
    """Return time beside each other way, and memory beside the bare join."""
    from flows.steps.bench import compared

    found = measure(5, ALL)
    seconds, memory = found["rounds_seconds"], found["rounds_megabytes"]
    size = f"{ENTITY_ROWS:,} rows joined with {FEATURE_ROWS:,}"
    limits = {BARE: LIMITS["time"], FEAST: None, PANDAS: None}
    times = [
        compared(size, name, seconds[OURS], seconds[name], bound=limit, note="all give the same rows")
        for name, limit in limits.items()
    ]
    beside = found["rounds_on_spark"]
    times += [
        compared(size, name, beside[OURS], beside[name], note="all give the same rows")
        for name in beside
        if name != OURS
    ]
    return [*times, compared(f"{size}, memory", BARE, memory[OURS], memory[BARE], "MB", bound=LIMITS["memory"])]


def main() -> int:
    """Measure, print the table, write it as JSON if asked; 1 if our store is above its limits."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-feast", action="store_true", help="leave out Feast's store, which is slow")
    for hidden in ("--folder", "--report", "--part"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        return _report(options)
    figures = measure(options.rounds, (BARE, OURS, PANDAS) if options.no_feast else ALL)
    print(f"{ENTITY_ROWS:,} entity rows against {FEATURE_ROWS:,} feature rows, {options.rounds} rounds")
    print(f"{'':22}{'seconds (min to max)':>26}{'x bare':>8}{'MB':>8}{'x bare':>8}")
    for name, v in figures["variants"].items():
        span = f"{v['seconds']:.2f} ({v['seconds_min']:.2f} to {v['seconds_max']:.2f})"
        memory = f"{v['megabytes']:>8.0f}{v['memory_times_bare']:>8.2f}"
        print(f"{name:22}{span:>26}{v['times_bare']:>8.2f}{memory}")
    for name, taken in figures["rounds_on_spark"].items():
        print(f"beside Spark: {name:22}{statistics.median(taken):8.2f} ({min(taken):.2f} to {max(taken):.2f})")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    ours = figures["variants"][OURS]
    kept = ours["times_bare"] <= LIMITS["time"] and ours["memory_times_bare"] <= LIMITS["memory"]
    print(f"limits (time {LIMITS['time']}, memory {LIMITS['memory']}): {'kept' if kept else 'NOT kept'}")
    return 0 if kept else 1


def _report(options: argparse.Namespace) -> int:
    """Do one part of the measurement in this process and leave its figures in the report file."""
    folder, names = Path(options.folder), tuple(options.names)
    if options.part == "equal":
        result: Any = check_equal(folder, names)
    elif options.part == "times":
        result = measure_times(folder, options.rounds, names)
    else:
        result = measure_memory(folder, names[0])
    Path(options.report).write_text(json.dumps(result))
    on_spark.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
