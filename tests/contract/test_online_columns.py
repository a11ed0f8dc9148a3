"""What our compute engine writes by columns is what Feast's own engine and stores write, and they read it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp
from online_cases import FEASTS, REDIS, SQLITE, hour, open_online
from redis import Redis
from services_parts import redis_server

ENTITIES = [Entity(name="zone", value_type=ValueType.INT64), Entity(name="city", value_type=ValueType.STRING)]
ZONES, CITIES = [1, -2, 3, 2**40, 5, 6], ["ä", "", "b", "c" * 200, "d", "e"]
COLUMNS: dict[str, tuple[Any, pa.DataType, list[Any]]] = {
    "number": (Int64, pa.int64(), [0, -1, None, 2**40, 127, 128]),
    "small": (Int32, pa.int32(), [0, -1, 5, None, 2**31 - 1, -(2**31)]),
    "real": (Float64, pa.float64(), [0.0, float("nan"), None, -1.5, float("inf"), 1e300]),
    "single": (Float32, pa.float32(), [0.0, 0.1, None, -1.5, float("inf"), float("nan")]),
    "flag": (Bool, pa.bool_(), [True, False, None, True, False, True]),
    "text": (String, pa.string(), ["", "ä€", None, "x" * 300, "a\0b", "z"]),
    "data": (Bytes, pa.binary(), [b"", b"\xff\x00", None, b"x" * 300, b"a", b"b"]),
    "moment": (UnixTimestamp, pa.timestamp("us", "UTC"), [hour(0), hour(-500_000), hour(1.5), None, hour(3), hour(4)]),
    "nothing": (Float64, pa.float64(), [None] * 6),
}
LISTED = {
    "list": (Array(Float64), pa.list_(pa.float64()), [[1.0], [], [2.0, 3.0], None, [4.0], [5.0]])
}  # left to Feast
VIEWS = {"plain": COLUMNS, "listed": COLUMNS | LISTED}
CREATED = hour(6)
ASKED = [
    EntityKey(join_keys=["zone", "city"], entity_values=[Value(int64_val=zone), Value(string_val=city)])
    for zone, city in zip(ZONES, CITIES, strict=True)
]

Where = Callable[[Path], dict[str, Any]]


@pytest.fixture(scope="module")
def redis_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a Redis server of our own."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(params=[SQLITE, REDIS], ids=["sqlite", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def where(kind: str, request: pytest.FixtureRequest) -> Where:
    """Return what says where the online store of a folder is, ``ours`` or ``theirs``; both are empty."""
    if kind == SQLITE:
        return lambda home: {"path": str(home / "online.db")}
    address = request.getfixturevalue("redis_address")
    Redis.from_url(f"redis://{address}").flushall()
    return lambda home: {"connection_string": f"{address},db={int(home.name == 'theirs')}"}


def apply_tables(store: FeatureStore, views: dict[str, Any] = VIEWS, created: Any = CREATED) -> None:
    """Register views and write their tables: of each key a row of hour 4, other values, and then one of hour 5."""
    for name, columns in views.items():
        made = {column: pa.array(values, kind) for column, (_, kind, values) in columns.items()}
        times = {
            column: pa.array([time] * 6, pa.timestamp("us", "UTC"))
            for column, time in (("time", hour(5)), ("made", created))
        }
        new = pa.table({"zone": ZONES, "city": CITIES} | made | times)
        old = new.take([1, 2, 3, 4, 5, 0]).set_column(0, "zone", new["zone"]).set_column(1, "city", new["city"])
        old = old.set_column(old.column_names.index("time"), "time", pa.array([hour(4)] * 6))
        pq.write_table(pa.concat_tables([new, old]), Path(str(store.config.repo_path)) / f"{name}.parquet")
        source = FileSource(
            name=f"{name}_source", path=f"{name}.parquet", timestamp_field="time", created_timestamp_column="made"
        )
        fields = [Field(name=column, dtype=feast) for column, (feast, _, _) in columns.items()]
        store.apply([*ENTITIES, FeatureView(name=name, entities=ENTITIES, schema=fields, source=source)])


def opened(home: Path, kind: str, where: Where, **materialization: Any) -> FeatureStore:
    """Open a feature store in a new folder, its views registered."""
    home.mkdir()
    store = open_online(home, kind, where(home), **materialization)
    apply_tables(store)
    return store


def stored(store: FeatureStore) -> Any:
    """Return all that an online store holds, without what ours have beyond Feast's."""
    online = store.config.online_store
    if hasattr(online, "path"):
        with sqlite3.connect(online.path) as connection:
            columns = "entity_key, feature_name, value, value_text, event_ts, created_ts"
            tables = (f"SELECT '{view}', {columns} FROM contract_{view}" for view in VIEWS)
            return sorted(connection.execute(" UNION ALL ".join(tables)).fetchall(), key=repr)
    client = Redis.from_url("redis://" + online.connection_string.replace(",db=", "/"))
    return {
        key: {name: value for name, value in client.hgetall(key).items() if not name.startswith(b"_created:")}
        for key in client.scan_iter()
    }


def test_the_same_is_written_as_by_feast_and_feasts_own_store_reads_it(
    kind: str, where: Where, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    ours = opened(tmp_path / "ours", kind, where)
    theirs = opened(tmp_path / "theirs", FEASTS[kind], where)
    online = ours._get_provider().online_store
    by_rows, write = [], online.online_write_batch

    def watched(config: Any, table: FeatureView, *rest: Any) -> None:
        by_rows.append(table.name)
        write(config, table, *rest)

    monkeypatch.setattr(online, "online_write_batch", watched)
    for store in (ours, theirs):
        store.materialize(hour(0), hour(10))
    assert by_rows == ["listed"]
    assert len(stored(ours)) == (6 if kind == REDIS else 6 * sum(map(len, VIEWS.values())))
    assert stored(ours) == stored(theirs)

    reading = open_online(tmp_path / "ours", FEASTS[kind], where(tmp_path / "ours"))
    for name in VIEWS:
        view = reading.get_feature_view(name)
        names = [field.name for field in view.features]
        found, expected = (
            store._get_provider().online_store.online_read(store.config, view, ASKED, names)
            for store in (reading, theirs)
        )
        assert found == expected
        assert [time for time, _ in found] == [hour(5)] * 6
        assert [row["number"] for _, row in found] == [
            Value() if one is None else Value(int64_val=one) for one in COLUMNS["number"][2]
        ]


def test_rows_are_written_a_few_at_once_if_feast_is_told_to(kind: str, where: Where, tmp_path: Path) -> None:
    whole = opened(tmp_path / "ours", kind, where)
    parts = opened(tmp_path / "theirs", kind, where, online_write_batch_size=4)
    for store in (whole, parts):
        # Feast's own conversion, that of the other views, drops a text where all that it is given at once are empty.
        store.materialize(hour(0), hour(10), feature_views=["plain"])
    assert len(stored(whole)) > 0
    assert stored(parts) == stored(whole)


def test_what_is_materialized_is_remembered_and_the_next_goes_on_from_there(
    kind: str, where: Where, tmp_path: Path
) -> None:  # fmt: skip
    store = opened(tmp_path / "ours", kind, where)
    store.materialize(hour(0), hour(4.5), feature_views=["plain"])
    before = stored(store)
    store.materialize_incremental(hour(10), feature_views=["plain"])
    assert store.get_feature_view("plain").materialization_intervals == [(hour(0), hour(4.5)), (hour(4.5), hour(10))]
    assert before != stored(store)
    store.materialize(hour(0), hour(10), feature_views=["plain"])
    again = stored(store)
    store.materialize(hour(0), hour(4.5), feature_views=["plain"])
    assert stored(store) == again


def test_a_row_of_unknown_creation_is_written_and_a_correction_replaces_it(
    kind: str, where: Where, tmp_path: Path
) -> None:  # fmt: skip
    store = opened(tmp_path / "ours", kind, where)

    def read() -> list[int | None]:
        rows = [{"zone": zone, "city": city} for zone, city in zip(ZONES, CITIES, strict=True)]
        return store.get_online_features(["plain:small"], rows).to_dict()["small"]  # type: ignore[no-any-return]  # Feast has no types

    for created, value in ((None, 1), (hour(6), 2), (None, 3)):
        feast, kind_of, _ = COLUMNS["small"]
        apply_tables(store, {"plain": COLUMNS | {"small": (feast, kind_of, [value] * 6)}}, created)
        store.materialize(hour(0), hour(10), feature_views=["plain"])
        assert read() == [min(value, 2)] * 6


def test_a_null_key_is_told_as_by_feast(kind: str, where: Where, tmp_path: Path) -> None:
    ours = opened(tmp_path / "ours", kind, where)
    theirs = opened(tmp_path / "theirs", FEASTS[kind], where)
    for store in (ours, theirs):
        file = Path(str(store.config.repo_path)) / "plain.parquet"
        table = pq.read_table(file)
        pq.write_table(table.set_column(1, "city", pa.array([None] * 12, pa.string())), file)
        with pytest.raises(ValueError, match="Value type not supported"):
            store.materialize(hour(0), hour(10), feature_views=["plain"])


def test_keys_of_redis_live_as_long_as_the_store_says(redis_address: str, tmp_path: Path) -> None:
    client = Redis.from_url(f"redis://{redis_address}")
    client.flushall()
    options = {"connection_string": f"{redis_address},db=0", "key_ttl_seconds": 1000}
    store = opened(tmp_path / "ours", REDIS, lambda _: options)
    store.materialize(hour(0), hour(10))
    lives = [client.ttl(key) for key in client.scan_iter()]
    assert len(lives) == 6
    assert all(900 < one <= 1000 for one in lives)
