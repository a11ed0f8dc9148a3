"""What is written online: the newest stays, a correction arrives, a missing key is missing; on SQLite and on Redis."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, FeatureView, Field, FileSource
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64
from hypothesis import given, settings
from hypothesis import strategies as st
from online_cases import (
    FEASTS,
    NOT_FOUND,
    PRESENT,
    REDIS,
    SQLITE,
    ZONE,
    apply_views,
    hour,
    key_of,
    open_online,
    read,
    trips,
    write,
)  # fmt: skip
from services_parts import redis_server

numbers = itertools.count(1000)  # zones that no other test uses
Opener = Callable[..., FeatureStore]


@pytest.fixture(scope="module")
def redis_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a Redis server of our own."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module", params=[SQLITE, REDIS], ids=["sqlite", "redis"])
def open_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """Return the function that opens a feature store of ours, or by its kind Feast's, on the same online store."""
    home = tmp_path_factory.mktemp("online")
    where = (
        {"path": str(home / "deep" / "online.db")}
        if request.param == SQLITE
        else {"connection_string": request.getfixturevalue("redis_address")}
    )
    apply_views(open_online(home, request.param, where))
    return lambda kind=request.param: open_online(home, kind, where)


@pytest.fixture(scope="module")
def store(open_store: Opener) -> FeatureStore:
    return open_store()


@pytest.fixture
def zone() -> int:
    return next(numbers)


def test_an_older_value_never_replaces_a_newer_one(store: FeatureStore, zone: int) -> None:
    write(store, [(zone, hour(5), hour(5), 5)])
    write(store, [(zone, hour(4), hour(9), 4)])
    assert read(store, [zone]) == [(5, 2.5, hour(5).timestamp(), PRESENT)]
    write(store, [(zone, hour(6), hour(6), 6)])
    assert read(store, [zone]) == [(6, 3.0, hour(6).timestamp(), PRESENT)]


def test_the_newest_row_of_a_shuffled_batch_stays(store: FeatureStore, zone: int) -> None:
    write(store, [(zone, hour(n), None, n) for n in (3, 9, 1, 8)])
    assert trips(store, zone) == 9


def test_a_correction_arrives_and_an_older_one_does_not(store: FeatureStore, zone: int) -> None:
    write(store, [(zone, hour(1), hour(2), 1)])
    write(store, [(zone, hour(1), hour(3), 2)])
    assert trips(store, zone) == 2
    write(store, [(zone, hour(1), hour(2), 3)])
    write(store, [(zone, hour(1), None, 4)])
    assert trips(store, zone) == 2
    write(store, [(zone, hour(1), hour(3), None)])  # alike: the last write wins, also with null
    assert read(store, [zone]) == [(None, 0.0, hour(1).timestamp(), PRESENT)]


def test_times_within_one_second_are_told_apart(store: FeatureStore, zone: int) -> None:
    write(store, [(zone, hour(1) + timedelta(microseconds=2), None, 2)])
    write(store, [(zone, hour(1) + timedelta(microseconds=1), None, 1)])
    assert trips(store, zone) == 2


def test_times_around_1970_are_told_apart(store: FeatureStore, zone: int) -> None:
    """Feast's timestamps are written otherwise below zero, and their zeros not at all."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    seconds = (-(10**10), -2, -1.000001, -1, -0.999999, 0, 0.000001, 1, 10**10)
    times = [epoch + timedelta(microseconds=round(one * 1e6)) for one in seconds]
    for number, moment in enumerate(times):
        write(store, [(zone, moment, None, number)])
        assert trips(store, zone) == number
        for older in times[:number]:
            write(store, [(zone, older, hour(1), 99)])
        assert trips(store, zone) == number
    for number, moment in enumerate(times[::-1]):  # the same of creations
        write(store, [(zone, times[-1], moment, -number)])
    assert trips(store, zone) == 0


def test_a_missing_key_is_not_found(store: FeatureStore, zone: int) -> None:
    write(store, [(zone, hour(1), hour(1), 1)])
    assert read(store, [zone + 5_000_000, zone]) == [
        (None, None, 0, NOT_FOUND), (1, 0.5, hour(1).timestamp(), PRESENT)
    ]  # fmt: skip
    key = key_of(zone + 5_000_000)
    online = store._get_provider().online_store
    assert online.online_read(store.config, store.get_feature_view("past"), [key]) == [(None, None)]


def test_a_key_known_to_one_view_is_missing_in_another(store: FeatureStore, zone: int) -> None:
    write(store, [(zone, hour(1), hour(1), 1)], view="second")
    assert read(store, [zone]) == [(None, None, 0, NOT_FOUND)]


def test_a_feature_that_was_never_written_is_not_found(store: FeatureStore, zone: int) -> None:
    key = key_of(zone)
    data = [(key, {"speed": Value(double_val=1.0)}, hour(1), hour(1))]
    store._get_provider().online_write_batch(store.config, store.get_feature_view("past"), data, None)
    assert [row[0] for row in read(store, [zone])] == [None]
    assert [row[3] for row in read(store, [zone])] == [NOT_FOUND]
    assert [row[1] for row in read(store, [zone])] == [1.0]


rows = st.tuples(
    st.integers(0, 2),
    st.integers(0, 4).map(hour),
    st.none() | st.integers(0, 4).map(hour),
    st.none() | st.integers(0, 99),
)


@settings(max_examples=40, deadline=None)
@given(batches=st.lists(st.lists(rows, max_size=6), max_size=4))
def test_any_batches_leave_what_a_look_at_all_rows_finds(store: FeatureStore, batches: list[list[Any]]) -> None:
    base = [next(numbers) for _ in range(3)]
    for batch in batches:
        write(store, [(base[number], *rest) for number, *rest in batch])
    flat = [row for batch in batches for row in batch]
    unknown = datetime.min.replace(tzinfo=UTC)
    for number in range(3):
        order = [(row[1], row[2] or unknown, index) for index, row in enumerate(flat) if row[0] == number]
        (found,) = read(store, [base[number]])
        if order:
            _, event, _, value = flat[max(order)[2]]
            assert found == (value, (value or 0) / 2, event.timestamp(), PRESENT)
        else:
            assert found == (None, None, 0, NOT_FOUND)


def test_feasts_own_store_reads_what_ours_wrote(open_store: Opener, store: FeatureStore, zone: int) -> None:
    write(store, [(zone, hour(1), hour(1), 1)])
    assert read(open_store(FEASTS[store.config.online_store.type]), [zone])[0][:3] == (1, 0.5, hour(1).timestamp())


def test_what_feasts_own_store_wrote_is_guarded_by_ours(open_store: Opener, zone: int) -> None:
    kind = open_store().config.online_store.type
    if kind == SQLITE:  # as in a database that was made before our store was used
        with sqlite3.connect(open_store().config.online_store.path) as connection:
            connection.execute("DROP TABLE contract_second")
        open_store(FEASTS[kind])._get_provider().update_infra(
            "contract", [], [open_store().get_feature_view("second")], [], [ZONE], True
        )
    write(open_store(FEASTS[kind]), [(zone, hour(5), hour(5), 5)], view="second")
    write(open_store(), [(zone, hour(4), hour(9), 4)], view="second")
    assert read(open_store(), [zone], "second") == [(5, 2.5, hour(5).timestamp(), PRESENT)]
    write(open_store(), [(zone, hour(5), hour(6), 6)], view="second")
    assert trips(open_store(), zone, "second") == 6


def test_of_writers_at_once_the_newest_wins(open_store: Opener) -> None:
    zones = [next(numbers) for _ in range(5)]
    failed: list[BaseException] = []

    def writer(first: int) -> None:
        try:
            mine = open_store()
            for event in range(first, 60, 3):
                write(mine, [(zone, hour(event), None, event) for zone in zones])
        except BaseException as error:  # noqa: BLE001 (shown by the assert below)
            failed.append(error)

    threads = [threading.Thread(target=writer, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert failed == []
    assert [row[0] for row in read(open_store(), zones)] == [59] * 5


def test_an_older_window_materialized_again_changes_nothing(open_store: Opener, zone: int) -> None:
    """Through Feast's own materialization; a view without entity goes the same way."""
    store = open_store()
    pq.write_table(
        pa.table(
            {
                "zone": [zone, zone], "time": [hour(1), hour(5)], "created": [hour(9), hour(5)],
                "trips": [1, 5], "speed": [0.5, 2.5],
            }
        ),
        store.config.repo_path / "past.parquet",
    )  # fmt: skip
    store.materialize(hour(0), hour(6), feature_views=["past"])
    store.materialize(hour(0), hour(3), feature_views=["past"])
    assert read(store, [zone]) == [(5, 2.5, hour(5).timestamp(), PRESENT)]
    source = FileSource(name="rain_source", path="past.parquet", timestamp_field="time")
    store.apply([FeatureView(name="weather", schema=[Field(name="speed", dtype=Float64)], source=source)])
    store.materialize(hour(0), hour(6), feature_views=["weather"])
    features = ["weather:speed", "past:trips"]
    found = store.get_online_features(features=features, entity_rows=[{"zone": zone}, {"zone": 0}]).to_dict()
    assert found["speed"] == [2.5, 2.5]


def test_a_large_batch_is_written_and_read_whole(store: FeatureStore) -> None:
    zones = range(10_000_000, 10_012_000)
    write(store, [(zone, hour(1), hour(1), zone) for zone in zones])
    assert [row[0] for row in read(store, zones)] == list(zones)


def test_a_data_frame_can_be_pushed(store: FeatureStore, zone: int) -> None:
    row = {"zone": [zone], "time": [hour(1)], "created": [hour(1)], "trips": [7], "speed": [3.5]}
    store.write_to_online_store("past", pd.DataFrame(row))
    assert trips(store, zone) == 7


def test_deleting_a_view_forgets_its_times_too(open_store: Opener, zone: int) -> None:
    store = open_store()
    view = store.get_feature_view("second")
    write(store, [(zone, hour(9), hour(9), 9)], view="second")
    write(store, [(zone, hour(9), hour(9), 9)])  # the key stays, for another view
    online = store._get_provider().online_store
    online.update(store.config, [view], [], [], [ZONE], True)
    online.update(store.config, [], [view], [], [ZONE], True)
    assert trips(store, zone, "second") is None
    write(store, [(zone, hour(1), hour(1), 1)], view="second")
    assert trips(store, zone, "second") == 1


def test_times_are_right_on_a_machine_whose_clock_is_not_utc(open_store: Opener, zone: int) -> None:
    """02:30 on 13 March 2022 does not exist in New York, 01:30 on 6 November exists twice; all are moments in UTC."""
    store = open_store()
    moments = [datetime(2022, 3, 13, 2, 30, tzinfo=UTC), datetime(2022, 11, 6, 1, 30, tzinfo=UTC)]
    before = os.environ.get("TZ")
    try:
        os.environ["TZ"] = "America/New_York"
        time.tzset()
        for moment in moments:
            write(store, [(zone, moment, None, 1)])
            assert read(store, [zone])[0][2] == moment.timestamp()
    finally:
        os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
        time.tzset()


def test_the_async_ways_are_guarded_too(open_store: Opener, zone: int) -> None:
    store = open_store()
    online = store._get_provider().online_store
    key = key_of(zone)
    view = store.get_feature_view("past")

    async def push_and_read() -> Any:
        for event in (5, 4):
            data = [(key, {"trips": Value(int64_val=event)}, hour(event), None)]
            await online.online_write_batch_async(store.config, view, data, None)
        return await online.online_read_async(store.config, view, [key], ["trips"])

    if not online.async_supported.write:  # Feast's SQLite store has no asynchronous ways
        with pytest.raises(NotImplementedError):
            asyncio.run(push_and_read())
        return
    ((event, values),) = asyncio.run(push_and_read())
    assert (event, values["trips"].int64_val) == (hour(5), 5)
