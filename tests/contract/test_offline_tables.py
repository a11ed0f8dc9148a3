"""What our offline store pulls from tables and writes to them: saved datasets, batches, logs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, FileSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.types import Int64
from offline_cases import (
    ENTITIES,
    FEASTS,
    PAST,
    ROWS,
    TRIPS,
    ZONE,
    hour,
    multiset,
    open_store,
    past_view,
    trips,
    write_past,
)

from feature_repo.offline_store import DuckDBAsofOfflineStore


@pytest.mark.parametrize("path", ["set.parquet", "set"])
def test_a_saved_dataset_reads_back_and_is_only_overwritten_on_demand(
    store: FeatureStore, tmp_path: Path, path: str
) -> None:
    job = store.get_historical_features(entity_df=ENTITIES, features=["past:trips"])
    store.create_saved_dataset(from_=job, name="set", storage=SavedDatasetFileStorage(path))
    order = ["zone", "event_timestamp", "trips"]
    assert multiset(store.get_saved_dataset("set").to_arrow().select(order)) == sorted(TRIPS, key=repr)
    again = store.get_historical_features(entity_df=ENTITIES.slice(0, 1), features=["past:trips"])
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        again.persist(SavedDatasetFileStorage(path))
    again.persist(SavedDatasetFileStorage(path), allow_overwrite=True)
    assert pq.read_table(tmp_path / path).num_rows == 1


def test_pulled_rows_are_those_of_feasts_duckdb_store(store: FeatureStore, tmp_path: Path) -> None:
    feasts = open_store(tmp_path / "feasts", FEASTS)
    source = FileSource(path=str(tmp_path / "past.parquet"), timestamp_field="time", created_timestamp_column="created")
    for start, end in ((hour(0), hour(2)), (hour(1), hour(1)), (hour(0), hour(0) + timedelta(minutes=59))):
        asked = {
            "data_source": source, "join_key_columns": ["zone"], "feature_name_columns": ["trips", "speed"],
            "timestamp_field": "time", "created_timestamp_column": "created", "start_date": start, "end_date": end,
        }  # fmt: skip
        for pull in ("pull_latest_from_table_or_query", "pull_all_from_table_or_query"):
            ours, theirs = (
                getattr(s._get_provider().offline_store, pull)(config=s.config, **asked).to_arrow()
                for s in (store, feasts)
            )
            assert ours.column_names == theirs.column_names
            assert multiset(ours) == multiset(theirs)


def test_of_rows_alike_the_one_written_last_is_pulled(store: FeatureStore, tmp_path: Path) -> None:
    write_past(tmp_path / "past.parquet", [(1, hour(0), hour(0), n, None) for n in (3, 9, 5)])
    job = DuckDBAsofOfflineStore.pull_latest_from_table_or_query(
        store.config,
        store.get_feature_view("past").batch_source,
        ["zone"],
        ["trips"],
        "time",
        "created",
        hour(0),
        hour(9),
    )
    assert job.to_arrow()["trips"].to_pylist() == [5]


@pytest.mark.parametrize("path", ["past.parquet", "folder"])
def test_written_rows_are_found_and_a_correction_written_later_counts(
    store: FeatureStore, tmp_path: Path, path: str
) -> None:
    if path == "folder":
        write_past(tmp_path / "folder/2022-03-01.parquet", ROWS)
        store.apply([past_view("past", "folder")])
    new = pa.table([[1], [hour(2)], [hour(2)], [99], [9.9]], schema=PAST)
    store.write_to_offline_store("past", new.to_pandas())
    assert (1, hour(2), 99) in trips(store)
    assert len(trips(store)) == len(TRIPS)
    with pytest.raises(ValueError, match="exactly those"):
        DuckDBAsofOfflineStore.offline_write_batch(
            store.config, store.get_feature_view("past"), new.drop_columns("speed"), None
        )
    assert not list(tmp_path.glob("**/.*.part"))


def test_the_first_written_batch_makes_the_table(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.apply([ZONE, past_view("past", "new", mapping={"n": "trips"}, fields={"trips": Int64})])
    table = pa.table({"zone": [1], "time": [hour(0)], "created": [hour(0)], "trips": [4]})
    DuckDBAsofOfflineStore.offline_write_batch(store.config, store.get_feature_view("past"), table, None)
    assert pq.read_schema(next((tmp_path / "new").glob("*.parquet"))).names == ["zone", "time", "created", "n"]
    assert (1, hour(1), 4) in trips(store)


def test_logged_features_can_be_read_back(store: FeatureStore, tmp_path: Path) -> None:
    destination = FileLoggingDestination(path="logs", partition_by=["day"])
    logs = pa.table({"day": ["a", "b"], "zone": [1, 2], "time": [hour(0), hour(1)]})
    pq.write_table(logs.slice(1), tmp_path / "more.parquet")
    for data in (logs.slice(0, 1), tmp_path / "more.parquet"):
        DuckDBAsofOfflineStore.write_logged_features(
            store.config, data, source=None, logging_config=LoggingConfig(destination=destination), registry=None
        )
    job = DuckDBAsofOfflineStore.pull_all_from_table_or_query(
        store.config, destination.to_data_source(), [], ["zone", "day"], "time"
    )
    assert multiset(job.to_arrow().select(["zone", "day", "time"])) == [(1, "a", hour(0)), (2, "b", hour(1))]
    assert [path.name for path in tmp_path.glob(".logs*")] == []
