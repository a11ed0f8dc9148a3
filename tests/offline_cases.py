"""Feature stores on small tables for the offline tests, and a point-in-time join in plain Python to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64, Int64

OURS = "feature_repo.offline_store.DuckDBAsofOfflineStore"
FEASTS = "duckdb"
START = datetime(2022, 3, 1, tzinfo=UTC)
TTL = timedelta(hours=3)
ZONE = Entity(name="zone", join_keys=["zone"], value_type=ValueType.INT64)
PAST = pa.schema(
    {
        "zone": pa.int64(),
        "time": pa.timestamp("us", "UTC"),
        "created": pa.timestamp("us", "UTC"),
        "trips": pa.int64(),
        "speed": pa.float64(),
    }
)


def hour(number: float) -> datetime:
    """Return the time that many hours after the start."""
    return START + timedelta(hours=number)


def open_store(home: Path, kind: str = OURS, **offline: Any) -> FeatureStore:
    """Open an empty feature store in a folder."""
    home.mkdir(parents=True, exist_ok=True)
    return FeatureStore(
        config=RepoConfig(
            project="contract", provider="local", registry=str(home / "registry.db"), repo_path=home,
            offline_store={"type": kind, **offline}, online_store={"type": "sqlite", "path": str(home / "online.db")},
            entity_key_serialization_version=3,
        )
    )  # fmt: skip


def past_view(
    name: str, path: Path | str, ttl: timedelta | None = TTL, created: str = "created", **options: Any
) -> Any:
    """Return a view of zones on a table of the schema ``PAST``; ``mapping`` and ``fields`` change its columns."""
    fields = options.pop("fields", {"trips": Int64, "speed": Float64})
    return FeatureView(
        name=name,
        entities=[ZONE],
        ttl=ttl,
        schema=[Field(name="zone", dtype=Int64), *(Field(name=field, dtype=kind) for field, kind in fields.items())],
        source=FileSource(
            name=f"{name}_source",
            path=str(path),
            timestamp_field="time",
            created_timestamp_column=created,
            field_mapping=options.pop("mapping", None),
        ),
        **options,
    )


def write_past(path: Path, rows: Sequence[tuple[Any, ...]]) -> None:
    """Write rows (zone, time, created, trips, speed) as one parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(zip(*rows, strict=True)) or [()] * len(PAST)
    pq.write_table(pa.table([list(column) for column in columns], schema=PAST), path)


def value_at(
    rows: Sequence[tuple[Any, ...]], zone: int | None, moment: datetime | None, ttl: timedelta | None, known: bool
) -> tuple[Any, Any]:
    """Return (trips, speed) of a zone at a moment by looking at every row; ``known``: only what had been created.

    Newest event, then newest creation (unknown is oldest), then the row written last.
    """
    if zone is None or moment is None:
        return None, None
    seen = [
        (row[1], row[2] or datetime.min.replace(tzinfo=UTC), number)
        for number, row in enumerate(rows)
        if row[0] == zone and row[1] <= moment and (not known or (row[2] is not None and row[2] <= moment))
    ]
    if not seen:
        return None, None
    time, _, number = max(seen)
    return rows[number][3:] if not ttl or moment - time <= ttl else (None, None)


def multiset(table: pa.Table) -> list[tuple[Any, ...]]:
    """Return the rows of a table in an order of their own, nulls and NaN both as None, to compare tables by."""
    rows = (
        tuple(None if value is None or value != value else value for value in row.values()) for row in table.to_pylist()
    )
    return sorted(rows, key=repr)


ROWS = [
    (1, hour(0), hour(0), 10, 1.0),
    (1, hour(2), hour(2), 12, 1.2),
    (2, hour(1), hour(1), 21, 2.1),
    (2, hour(1), hour(4), 24, 2.4),
]
ENTITIES = pa.table({"zone": [1, 1, 2, 3], "event_timestamp": [hour(1), hour(2), hour(3), hour(3)]})
TRIPS = [(1, hour(1), 10), (1, hour(2), 12), (2, hour(3), 24), (3, hour(3), None)]


def trips(store: FeatureStore, entities: Any = ENTITIES, features: Any = ("past:trips",), **options: Any) -> list[Any]:
    """Return the joined rows in an order of their own."""
    features = list(features) if isinstance(features, tuple) else features
    return multiset(store.get_historical_features(entity_df=entities, features=features, **options).to_arrow())
