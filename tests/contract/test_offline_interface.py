"""What else Feast asks of an offline store holds for ours: frames, names, ranges, on-demand views, writing, saving."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureService, FeatureStore, FeatureView, Field, FileSource, RequestSource
from feast.errors import FeastEntityDFMissingColumnsError
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64
from offline_cases import ENTITIES, ROWS, TRIPS, TTL, ZONE, hour, multiset, open_store, past_view, trips, write_past

from feature_repo.retrieval import DuckDBRetrievalJob


@pytest.mark.parametrize("kind", ["pandas", "arrow", "reader", "naive pandas", "SQL"])
def test_entity_rows_may_be_pandas_arrow_or_a_query(store: FeatureStore, tmp_path: Path, kind: str) -> None:
    pq.write_table(ENTITIES, tmp_path / "entities.parquet")
    frame = ENTITIES.to_pandas()
    entities = {
        "pandas": frame,
        "arrow": ENTITIES,
        "reader": ENTITIES.to_reader(),
        "naive pandas": frame.assign(event_timestamp=frame["event_timestamp"].dt.tz_localize(None)),
        "SQL": f"SELECT zone, event_timestamp FROM '{tmp_path}/entities.parquet'",
    }[kind]
    assert trips(store, entities) == sorted(TRIPS, key=repr)


def test_entity_rows_keep_their_order_and_their_columns(store: FeatureStore) -> None:
    number = 5000
    entities = pa.table(
        {
            "ride": [str(index) for index in range(number)],
            "event_timestamp": [hour(3 - index % 4) for index in range(number)],
            "zone": pa.array([index % 3 for index in range(number)], pa.int32()),
            "tags": [["a"] if index % 2 else None for index in range(number)],
        }
    )
    result = store.get_historical_features(entity_df=entities, features=["past:trips"]).to_arrow()
    assert result.select(entities.column_names).equals(entities)
    known = {(1, 0): 10, (1, 1): 10, (1, 2): 12, (1, 3): 12, (2, 1): 24, (2, 2): 24, (2, 3): 24}
    assert result["trips"].to_pylist() == [known.get((index % 3, 3 - index % 4)) for index in range(number)]


def test_no_entity_rows_give_no_rows(store: FeatureStore) -> None:
    result = store.get_historical_features(entity_df=ENTITIES.slice(0, 0), features=["past:trips"]).to_arrow()
    assert (result.num_rows, result.column_names) == (0, ["zone", "event_timestamp", "trips"])


def test_times_may_be_text(store: FeatureStore) -> None:
    entities = pa.table({"zone": [1, 1], "event_timestamp": ["2022-03-01 02:00:00", "2022-02-28 20:00:00-05:00"]})
    result = store.get_historical_features(entity_df=entities, features=["past:trips"]).to_arrow()
    assert result.to_pydict() == {"zone": [1, 1], "event_timestamp": [hour(2), hour(1)], "trips": [12, 10]}


def test_a_query_of_entity_rows_is_run_once(store: FeatureStore) -> None:
    query = f"SELECT 1 AS zone, TIMESTAMPTZ '{hour(2)}' AS event_timestamp, uuid() AS ride"
    job = store.get_historical_features(entity_df=query, features=["past:trips"])
    assert multiset(job.to_arrow()) == multiset(job.to_arrow())


def test_the_time_column_may_have_another_name(store: FeatureStore) -> None:
    assert trips(store, ENTITIES.rename_columns(["zone", "pickup"])) == sorted(TRIPS, key=repr)


def test_times_in_other_zones_and_without_zone_are_the_same_moments(tmp_path: Path) -> None:
    """The hour that New York has twice, 6 November 2022, in a source without zone and one in Tokyo's."""
    first = datetime(2022, 11, 6, 5, 30, tzinfo=UTC)
    moments = [first, first + timedelta(hours=1)]
    table = pa.table({"zone": [1, 1], "time": moments, "trips": [1, 2]})
    for name, kind in (("naive", pa.timestamp("us")), ("tokyo", pa.timestamp("us", "Asia/Tokyo"))):
        pq.write_table(table.set_column(1, "time", table["time"].cast(kind)), tmp_path / f"{name}.parquet")
    store = open_store(tmp_path)
    views = [past_view(name, f"{name}.parquet", created="", fields={"trips": Int64}) for name in ("naive", "tokyo")]
    store.apply([ZONE, *views])
    eastern = ZoneInfo("America/New_York")
    frame = pd.DataFrame(
        {"zone": [1, 1], "event_timestamp": pd.DatetimeIndex([moment.astimezone(eastern) for moment in moments])}
    )
    before = os.environ.get("TZ")
    try:
        os.environ["TZ"] = "America/New_York"  # the machine's own zone must not matter
        time.tzset()
        result = trips(store, frame, ("naive:trips", "tokyo:trips"), full_feature_names=True)
    finally:
        os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
        time.tzset()
    assert result == [(1, moments[0], 1, 1), (1, moments[1], 2, 2)]


def test_field_mapping_renames_features_keys_and_times(tmp_path: Path) -> None:
    renamed = {"zone": "zone id", "time": 'the "time"', "created": "made", "trips": "n", "speed": "speed"}
    write_past(tmp_path / "past.parquet", ROWS)
    pq.write_table(
        pq.read_table(tmp_path / "past.parquet").rename_columns(list(renamed.values())), tmp_path / "o'.parquet"
    )
    mapping = {old: new for new, old in renamed.items() if old != new}
    store = open_store(tmp_path)
    store.apply([ZONE, past_view("past", "o'.parquet", mapping=mapping)])
    assert trips(store) == sorted(TRIPS, key=repr)


def test_one_view_can_be_joined_under_two_names_on_two_keys(store: FeatureStore) -> None:
    view = store.get_feature_view("past")
    service = FeatureService(
        name="both",
        features=[
            view.with_name("pickup").with_join_key_map({"zone": "from"})[["trips"]],
            view.with_name("dropoff").with_join_key_map({"zone": "to"})[["trips"]],
        ],
    )
    store.apply([service])
    entities = pa.table({"from": [1, 2], "to": [2, 9], "event_timestamp": [hour(2), hour(2)]})
    job = store.get_historical_features(entity_df=entities, features=service, full_feature_names=True)
    assert job.to_arrow().column_names == ["from", "to", "event_timestamp", "pickup__trips", "dropoff__trips"]
    assert multiset(job.to_arrow()) == [(1, 2, hour(2), 12, 24), (2, 9, hour(2), 24, None)]


def test_a_view_without_entity_joins_by_time_alone(tmp_path: Path) -> None:
    pq.write_table(pa.table({"time": [hour(0), hour(2)], "rain": [0.0, 5.0]}), tmp_path / "rain.parquet")
    store = open_store(tmp_path)
    source = FileSource(name="rain_source", path="rain.parquet", timestamp_field="time")
    store.apply([FeatureView(name="weather", schema=[Field(name="rain", dtype=Float64)], source=source, ttl=TTL)])
    entities = pa.table({"ride": [7, 8, 9], "event_timestamp": [hour(1), hour(3), hour(9)]})
    assert trips(store, entities, ("weather:rain",)) == [(7, hour(1), 0.0), (8, hour(3), 5.0), (9, hour(9), None)]


def test_a_folder_is_one_table_whose_columns_are_matched_by_name(tmp_path: Path) -> None:
    """The later file has its columns in another order and lacks one; at a full tie, it is the one that counts."""
    write_past(tmp_path / "lake/past/2022-03-01.parquet", ROWS)
    tie = pa.table({"trips": [13], "zone": [1], "created": [hour(2)], "time": [hour(2)]})
    pq.write_table(tie, tmp_path / "lake/past/2022-03-02.parquet")
    (tmp_path / "lake/past/.half-written.parquet").write_bytes(b"not yet")
    store = open_store(tmp_path / "repo", root=str(tmp_path / "lake"))
    store.apply([ZONE, past_view("past", "past")])
    assert (1, hour(2), 13, None) in trips(store, features=("past:trips", "past:speed"))


def test_without_entity_rows_all_that_happened_in_the_range_comes(store: FeatureStore, tmp_path: Path) -> None:
    write_past(tmp_path / "other.parquet", [(1, hour(1), hour(1), 7, None), (5, hour(2), hour(2), 8, None)])
    store.apply([past_view("other", "other.parquet")])
    job = store.get_historical_features(
        features=["past:trips", "other:trips"], start_date=hour(1), end_date=hour(2), full_feature_names=True
    )
    assert job.to_arrow().column_names == ["event_timestamp", "zone", "past__trips", "other__trips"]
    assert multiset(job.to_arrow()) == sorted(
        [(hour(1), 1, 10, 7), (hour(1), 2, 24, None), (hour(2), 1, 12, 7), (hour(2), 5, None, 8)], key=repr
    )


def test_on_demand_views_are_applied_in_python_and_in_pandas_mode(store: FeatureStore) -> None:
    request = RequestSource(name="ride", schema=[Field(name="miles", dtype=Float64)])
    view = store.get_feature_view("past")

    @on_demand_feature_view(
        sources=[view, request], schema=[Field(name="in_pandas", dtype=Float64)], mode="pandas"
    )  # fmt: skip
    def with_pandas(inputs: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame({"in_pandas": inputs["miles"] * inputs["trips"]})

    @on_demand_feature_view(
        sources=[view, request], schema=[Field(name="in_python", dtype=Float64)], mode="python"
    )  # fmt: skip
    def with_python(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"in_python": [m * t for m, t in zip(inputs["miles"], inputs["trips"], strict=True)]}

    store.apply([with_pandas, with_python])
    entities = pd.DataFrame({"zone": [1, 2], "event_timestamp": [hour(2), hour(2)], "miles": [0.5, 2.0]})
    features = ["past:trips", "with_pandas:in_pandas", "with_python:in_python"]
    job = store.get_historical_features(entity_df=entities, features=features)
    frame = job.to_df().set_index("zone").sort_index()
    assert frame[["trips", "in_pandas", "in_python"]].to_numpy().tolist() == [[12, 6.0, 6.0], [24, 48.0, 48.0]]
    saved = store.create_saved_dataset(
        from_=job, name="with_on_demand", storage=SavedDatasetFileStorage("with_on_demand.parquet")
    )
    assert multiset(saved.to_arrow().select(["zone", "trips", "in_pandas", "in_python"])) == [
        (1, 12, 6.0, 6.0), (2, 24, 48.0, 48.0)
    ]  # fmt: skip


def test_features_of_the_same_name_are_refused_or_told_apart(store: FeatureStore) -> None:
    with pytest.raises(ValueError, match="trips: several columns"):
        trips(store, ENTITIES.append_column("trips", ENTITIES["zone"]))
    with_prefix = trips(store, ENTITIES.append_column("trips", ENTITIES["zone"]), full_feature_names=True)
    assert sorted(row[-1] for row in with_prefix if row[-1] is not None) == [10, 12, 24]


def test_what_cannot_be_joined_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(FeastEntityDFMissingColumnsError):
        trips(store, ENTITIES.drop_columns("zone"))
    with pytest.raises(TypeError, match="give a pandas or Arrow frame"):
        trips(store, [1, 2])
    (tmp_path / "past.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"past_source: no parquet file at .*past\.parquet"):
        trips(store)
    store.apply([past_view("past", "s3://bucket/past.parquet")])
    with pytest.raises(ValueError, match="remote path"):
        trips(store)


def test_a_query_past_its_time_out_is_interrupted() -> None:
    endless = DuckDBRetrievalJob("SELECT sum(a.range * b.range) FROM range(10_000_000) AS a, range(10_000_000) AS b")
    with pytest.raises(duckdb.InterruptException):
        endless.to_arrow(timeout=1)
