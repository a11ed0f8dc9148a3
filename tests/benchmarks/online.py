"""The online store: materializing beside a bare bulk write and Feast's own store, reading beside a bare read; SQLite, Redis.

The features are the taxi model's: 20,000 routes and 265 zones on both sides, 8 values each. A bare write has its rows
ready, in the layout of the store; a bare read gets the stored bytes of the same keys and decodes nothing.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flows.models.taxi.spec import spec
from flows.settings import Settings
from flows.steps import feature_store
from flows.steps.bench import Figure, compared
from flows.steps.files import write_parquet
from flows.steps.online_plan import OnlinePlan, read_plan
from flows.steps.online_read import OnlineReader
from flows.steps.online_values import key_writer
from flows.steps.processes import free_port, stop
from flows.steps.sql import identifier
from tests.benchmarks import rounds

ROUTES, ZONES, READS, ROUNDS = 20_000, 265, 400, 3
TICK = datetime(2024, 1, 25, 5, tzinfo=UTC)
SPAN = (TICK - timedelta(days=1), TICK + timedelta(seconds=1))
NAMES = (
    "trips_28d", "minutes_mean_28d", "minutes_median_28d", "minutes_q90_28d", "mph_mean_28d", "mph_median_28d",
    "minutes_mean_7d", "mph_mean_7d",
)  # fmt: skip


def keys() -> dict[str, dict[str, np.ndarray]]:
    """Return the keys of each view."""
    zones = np.arange(1, ZONES + 1)
    routes = np.arange(ROUTES)
    return {
        "pickup": {"PULocationID": zones},
        "dropoff": {"DOLocationID": zones},
        "route": {"PULocationID": routes // ZONES + 1, "DOLocationID": routes % ZONES + 1},
    }


def home(folder: Path, url: str) -> Settings:
    """Return a home with feature tables and registered definitions, its online store empty."""
    settings = Settings(home=folder, online_store_url=url)
    rng = np.random.default_rng(7)
    for prefix, keyed in keys().items():
        rows = len(keyed["PULocationID" if prefix != "dropoff" else "DOLocationID"])
        times = pa.array([TICK] * rows, pa.timestamp("us", "UTC"))
        values = {f"{prefix}_{name}": rng.random(rows) * 60 for name in NAMES[1:]} | {
            f"{prefix}_trips_28d": np.arange(rows)
        }
        view = prefix if prefix == "route" else f"{prefix}_zone"
        table = pa.table({**keyed, "event_timestamp": times, "created_timestamp": times, **values})
        write_parquet(table, settings.features("taxi") / view / "0.parquet")
    feature_store.apply_definitions(settings, spec)
    return settings


def by_feast(settings: Settings) -> None:
    """Materialize into Feast's own store, as its users have it."""
    store = feature_store.open_store(settings)
    config = store.config.model_copy()
    if settings.online_store_url:
        online: dict[str, Any] = {
            "type": "redis",
            "connection_string": settings.online_store_url.removeprefix("redis://").replace("/0", ",db=1"),
        }
    else:
        online = {"type": "sqlite", "path": str(settings.home / "feast" / "theirs.db")}
    from feast import FeatureStore, RepoConfig

    given = {name: getattr(config, name) for name in ("project", "provider", "registry", "offline_store", "repo_path")}
    theirs = FeatureStore(config=RepoConfig(**given, online_store=online, entity_key_serialization_version=3))
    with feature_store.quiet():
        for view in spec.entities:  # the tables are made when definitions are applied
            theirs._get_provider().online_store.update(
                theirs.config, [], [theirs.get_feature_view(view)], [], [], partial=True
            )
        theirs.materialize(start_date=SPAN[0], end_date=SPAN[1], feature_views=list(spec.entities))


def stored(plan: OnlinePlan) -> dict[str, list[tuple[Any, ...]]]:
    """Return what the SQLite tables hold, as ready rows."""
    with sqlite3.connect(plan.database) as connection:
        return {
            view.table: connection.execute(f"SELECT * FROM {identifier(view.table)}").fetchall() for view in plan.stored
        }


def bare_sqlite(rows: dict[str, list[tuple[Any, ...]]], folder: Path) -> None:
    """Write ready rows into tables of the same columns and keys, in one transaction a table."""
    file = folder / "bare.db"
    file.unlink(missing_ok=True)
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode = WAL")
    for table, values in rows.items():
        names = ", ".join(f"c{place}" for place in range(len(values[0])))
        connection.execute(f"CREATE TABLE {identifier(table)} ({names}, PRIMARY KEY (c0, c1))")
        with connection:
            connection.executemany(
                f"INSERT INTO {identifier(table)} VALUES ({', '.join('?' * len(values[0]))})", values
            )
    connection.close()


def requests(count: int) -> list[dict[str, Any]]:
    """Return requests about keys that are there, an hour after the tick."""
    local = datetime(2024, 1, 25, 1)
    return [
        {"PULocationID": n * 37 % (ROUTES // ZONES) + 1, "DOLocationID": n * 11 % ZONES + 1, "lpep_pickup_datetime": local,
         "trip_distance": 2.0} for n in range(count)
    ]  # fmt: skip


def reads(
    name: str, ours: Callable[[list[Any]], Any], bare: Callable[[list[Any]], Any], feast: Callable[[list[Any]], Any]
) -> list[Figure]:
    """Return reads of one row and of a hundred, ours beside both others."""
    made = []
    for size in (1, 100):
        asked = requests(size)
        repeats = READS // (1 if size == 1 else 10)
        ways = {"ours": (ours, repeats), "bare": (bare, repeats), "feast": (feast, max(repeats // 20, 2))}
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS + 2):
            for way, (read, times) in ways.items():
                began = time.perf_counter()
                for _ in range(times):
                    read(asked)
                taken[way].append((time.perf_counter() - began) / times * 1e3)
        rows = "1 row" if size == 1 else f"{size} rows"
        made += [
            compared(f"online read of {rows}, {name}", beside, taken["ours"], taken[way], "ms")
            for way, beside in (("bare", f"bare {name}"), ("feast", "Feast"))
        ]
        print(
            made[-2].name,
            f"{made[-2].ours:.3f} ms, bare {made[-2].other:.3f} ms, Feast {made[-1].other:.3f} ms",
            flush=True,
        )
    return made


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run a Redis that keeps nothing; yield its URL."""
    from redis import Redis
    from redis.exceptions import ConnectionError as NotYet

    port = free_port()
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        limit = time.monotonic() + 30
        client = Redis(port=port)
        while time.monotonic() < limit:
            with suppress(NotYet):
                client.ping()
                break
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        stop(process)


def sqlite_figures(folder: Path) -> list[Figure]:
    """Return writing and reading on SQLite."""
    settings = home(folder, "")
    feature_store.materialize(settings, spec, *SPAN)  # what is imported or compiled at first use is not its time
    plan = read_plan(settings, spec)
    assert plan is not None
    rows = stored(plan)
    ways = {
        "ours": lambda: feature_store.materialize(settings, spec, *SPAN),
        "bare": lambda: bare_sqlite(rows, folder),
        "feast": lambda: by_feast(settings),
    }
    taken = rounds.seconds(ways, ROUNDS)
    count = ROUTES + 2 * ZONES
    size = f"materializing {count:,} keys of {len(NAMES)} values, SQLite"
    bare = sqlite3.connect(plan.database)
    writers = [(view, key_writer(view)) for view in plan.stored]

    def read_bare(asked: list[Any]) -> None:
        for view, key in writers:
            marks = ", ".join("?" * len(asked))
            query = f"SELECT feature_name, value, event_us FROM {identifier(view.table)} WHERE entity_key IN ({marks})"
            bare.execute(query, [key(row) for row in asked]).fetchall()

    return [
        compared(
            size,
            "bare bulk write",
            taken["ours"],
            taken["bare"],
            bound=3.0,
            note=f"{count / min(taken['ours']):,.0f} keys/s",
        ),
        compared(size, "Feast's own store", taken["ours"], taken["feast"]),
        *read_figures("SQLite", settings, OnlineReader(plan, spec), read_bare),
    ]


def read_figures(name: str, settings: Settings, reader: OnlineReader, bare: Callable[[list[Any]], Any]) -> list[Figure]:
    """Return the reads by our reader beside the bare ones and those of Feast."""
    store = feature_store.open_store(settings)
    names = feature_store.feature_names(store, spec)
    found = reader(names, requests(3))
    assert not any(found.unknown), found.unknown
    through = feature_store.read_online(store, spec, names, requests(3))
    assert {key: found.columns[key] for key in names} == {key: through.columns[key] for key in names}
    return reads(
        name, lambda asked: reader(names, asked), bare,
        lambda asked: feature_store.read_online(store, spec, names, asked),
    )  # fmt: skip


def redis_figures(folder: Path) -> list[Figure]:
    """Return writing and reading on Redis."""
    from redis import Redis

    with redis_server(folder) as url:
        settings = home(folder, url)
        feature_store.materialize(settings, spec, *SPAN)
        plan = read_plan(settings, spec)
        assert plan is not None
        client, other = Redis.from_url(url), Redis.from_url(url.replace("/0", "/2"))
        rows = [(key, client.hgetall(key)) for key in client.scan_iter(count=1000)]

        def write_bare() -> None:
            other.flushdb()
            for start in range(0, len(rows), 5000):
                with other.pipeline(transaction=False) as pipe:
                    for key, values in rows[start : start + 5000]:
                        pipe.hset(key, mapping=values)
                    pipe.execute()

        ways = {
            "ours": lambda: feature_store.materialize(settings, spec, *SPAN),
            "bare": write_bare,
            "feast": lambda: by_feast(settings),
        }
        taken = rounds.seconds(ways, ROUNDS)
        writers = [
            (view, key_writer(view), [b"_ts:" + view.table.encode(), *map(bytes.fromhex, view.columns)])
            for view in plan.stored
        ]

        def read_bare(asked: list[Any]) -> None:
            with client.pipeline(transaction=False) as pipe:
                for _, key, fields in writers:
                    for row in asked:
                        pipe.hmget(key(row) + plan.project.encode(), fields)
                pipe.execute()

        size = f"materializing {ROUTES + 2 * ZONES:,} keys of {len(NAMES)} values, Redis"
        return [
            compared(size, "bare bulk write", taken["ours"], taken["bare"], bound=3.0),
            compared(size, "Feast's own store", taken["ours"], taken["feast"]),
            *read_figures("Redis", settings, OnlineReader(plan, spec, url), read_bare),
        ]


def figures() -> list[Figure]:
    """Return the figures of both stores; raises SystemExit without Redis."""
    if not shutil.which("redis-server"):
        raise SystemExit("the program redis-server is missing; install it, such as by `apt-get install redis-server`")
    made = []
    for measure in (sqlite_figures, redis_figures):
        with tempfile.TemporaryDirectory(prefix="online-") as name:
            made += measure(Path(name))
    return made
