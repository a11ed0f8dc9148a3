"""Feature stores on SQLite and Redis for the online tests, a Redis server, and short ways to write and read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, Int64

from feature_repo.compute_engine import NAME as ENGINE

SQLITE = "feature_repo.online_store.NewestSqliteOnlineStore"
REDIS = "feature_repo.online_store.NewestRedisOnlineStore"
FEASTS = {SQLITE: "sqlite", REDIS: "redis"}
START = datetime(2022, 3, 1, tzinfo=UTC)
ZONE = Entity(name="zone", join_keys=["zone"], value_type=ValueType.INT64)
PRESENT, NOT_FOUND = 1, 3  # Feast's FieldStatus is INVALID, PRESENT, NULL_VALUE, NOT_FOUND


def hour(number: float) -> datetime:
    """Return the time that many hours after the start."""
    return START + timedelta(hours=number)


def open_online(home: Path, kind: str, where: dict[str, Any], **materialization: Any) -> FeatureStore:
    """Open the feature store of a folder on an online store of this kind; ours are filled by our engine."""
    return FeatureStore(
        config=RepoConfig(
            project="contract", provider="local", registry=str(home / "registry.db"), repo_path=home,
            offline_store={"type": "feature_repo.offline_store.DuckDBAsofOfflineStore"},
            online_store={"type": kind, **where}, entity_key_serialization_version=3,
            batch_engine=ENGINE if kind in FEASTS else "local",
            materialization={"pull_latest_features": True, **materialization},
        )
    )  # fmt: skip


def apply_views(store: FeatureStore) -> None:
    """Register the views ``past`` and ``second``, of zones, on ``past.parquet``."""
    pq.write_table(
        pa.table({"zone": [0], "time": [hour(0)], "created": [hour(0)], "trips": [0], "speed": [0.0]}),
        store.config.repo_path / "past.parquet",
    )
    source = FileSource(
        name="past_source", path="past.parquet", timestamp_field="time", created_timestamp_column="created"
    )
    schema = [Field(name="zone", dtype=Int64), Field(name="trips", dtype=Int64), Field(name="speed", dtype=Float64)]
    views = [FeatureView(name=name, entities=[ZONE], schema=schema, source=source) for name in ("past", "second")]
    store.apply([ZONE, *views])


def key_of(zone: int) -> EntityKey:
    """Return the key of a zone as Feast hands it to a store."""
    return EntityKey(join_keys=["zone"], entity_values=[Value(int64_val=zone)])


def write(
    store: FeatureStore, rows: Sequence[tuple[int, datetime, datetime | None, int | None]], view: str = "past"
) -> None:
    """Write rows (zone, event, creation, trips) as one batch."""
    data = [
        (
            key_of(zone),
            {
                "trips": Value() if trips is None else Value(int64_val=trips),
                "speed": Value(double_val=(trips or 0) / 2),
            },
            event,
            created,
        )
        for zone, event, created, trips in rows
    ]
    store._get_provider().online_write_batch(store.config, store.get_feature_view(view), data, None)


def read(store: FeatureStore, zones: Sequence[int], view: str = "past") -> list[tuple[Any, ...]]:
    """Return (trips, speed, event time in seconds, status) of each zone, by Feast's own way to read."""
    response = store.get_online_features(
        features=[f"{view}:trips", f"{view}:speed"], entity_rows=[{"zone": zone} for zone in zones]
    )
    values = response.to_dict(include_event_timestamps=True)
    names = list(response.proto.metadata.feature_names.val)
    statuses = [int(status) for status in response.proto.results[names.index("trips")].statuses]
    return list(zip(values["trips"], values["speed"], values["trips__ts"], statuses, strict=True))


def trips(store: FeatureStore, zone: int, view: str = "past") -> int | None:
    """Return the trips of a zone."""
    return read(store, [zone], view)[0][0]
