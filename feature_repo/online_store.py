"""Our Feast online stores: a value is only ever replaced by a newer one, or by a correction of itself.

Newer means a later event time or, at the same event time, a later creation; of equals the one written last counts. A
row of unknown creation counts as oldest. All writers of a store must use these classes; Feast's own can read it.

Use: ``online_store: {type: feature_repo.online_store.NewestSqliteOnlineStore, path: FILE}``, or
``{type: feature_repo.online_store.NewestRedisOnlineStore, connection_string: HOST:PORT}``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from feast import FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_table_id, extract_text_and_num
from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteOnlineStoreConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import make_tzaware, to_naive_utc
from pydantic import field_validator

from feature_repo.online_bytes import Batch, texts
from flows.steps.sql import identifier

# What Feast gives to be written: key, values by feature, event time, creation.
Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
# What Feast expects of a read: event time and values by feature, or nothing for a key that is not there.
Found = tuple[datetime | None, dict[str, Value] | None]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEVER = -(2**62)  # stands for an unknown creation: before all others
KEYS_A_QUERY = 10_000  # SQLite allows 32,766 values a statement


def __getattr__(name: str) -> Any:
    """Hand out the Redis store; only who uses it needs the ``redis`` package."""
    if name in ("NewestRedisOnlineStore", "NewestRedisOnlineStoreConfig"):
        from feature_repo import online_store_redis

        return getattr(online_store_redis, name)
    raise AttributeError(name)


def micros(moment: datetime) -> int:
    """Return a time as microseconds since 1970 UTC; a time without zone is UTC."""
    return (make_tzaware(moment) - EPOCH) // timedelta(microseconds=1)


class NewestSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):
    """Configuration: ``path`` of the database file. Feast's columns for vectors and documents are not offered."""

    type: str = "feature_repo.online_store.NewestSqliteOnlineStore"  # type: ignore[assignment]  # a Literal in Feast
    enable_openai_compatible_store: Literal[False] = False

    @field_validator("vector_enabled")
    @classmethod
    def _no_vectors(cls, value: bool) -> bool:
        if value:
            raise ValueError("this store keeps no vectors; leave vector_enabled out")
        return value


class NewestSqliteOnlineStore(SqliteOnlineStore):
    """Feast's SQLite store with two more columns, by which rows are compared: event and creation in exact microseconds.

    Feast's own time columns hold whole seconds, shifted by the machine's zone, so they cannot tell which row is newer.
    """

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        *others: Any,
        **more: Any,
    ) -> None:
        """Make the tables of views, with our columns: one that is never written to is read all the same."""
        super().update(config, tables_to_delete, tables_to_keep, *others, **more)
        for table in tables_to_keep:
            _add_columns(self._get_conn(config), _table_of(config, table))

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: Sequence[Row], progress: Callable[[int], Any] | None
    ) -> None:  # fmt: skip
        """Write rows in one transaction; of each value the newest stays, in whatever order they come."""
        self._write(config, table, _values(data, config.entity_key_serialization_version))
        if progress:
            progress(len(data))

    def write_columns(self, config: RepoConfig, table: FeatureView, batch: Batch) -> None:
        """Write rows that are bytes already, as ``online_write_batch`` does."""
        self._write(config, table, _by_columns(batch))

    def _write(self, config: RepoConfig, table: FeatureView, values: Iterable[tuple[Any, ...]]) -> None:
        name = _table_of(config, table)
        connection = self._get_conn(config)
        _add_columns(connection, name)
        with connection:
            connection.executemany(
                f"""
                INSERT INTO {name}
                    (entity_key, feature_name, value, value_text, event_ts, created_ts, event_us, created_us)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT (entity_key, feature_name) DO UPDATE SET
                    value = excluded.value, value_text = excluded.value_text,
                    event_ts = excluded.event_ts, created_ts = excluded.created_ts,
                    event_us = excluded.event_us, created_us = excluded.created_us
                WHERE (excluded.event_us, excluded.created_us) >= ({name}.event_us, {name}.created_us)
                """,
                values,
            )

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: Sequence[EntityKey],
        requested_features: Sequence[str] | None = None,
    ) -> list[Found]:
        """Return the values of each key; their time is that of the oldest of them."""
        name = _table_of(config, table)
        connection = self._get_conn(config)
        _add_columns(connection, name)
        version = config.entity_key_serialization_version
        keys = [serialize_entity_key(key, entity_key_serialization_version=version) for key in entity_keys]
        wanted = list(requested_features or [field.name for field in table.features])
        found: dict[bytes, tuple[int, dict[str, Value]]] = {}
        for start in range(0, len(keys), KEYS_A_QUERY):
            some = keys[start : start + KEYS_A_QUERY]
            query = (
                f"SELECT entity_key, feature_name, value, event_us FROM {name} WHERE entity_key IN "
                f"({', '.join('?' * len(some))}) AND feature_name IN ({', '.join('?' * len(wanted))})"
            )
            with closing(connection.execute(query, [*some, *wanted])) as rows:
                for key, feature, value, event in rows:
                    oldest, features = found.get(key, (event, {}))
                    features[feature] = Value.FromString(value)
                    found[key] = (min(oldest, event), features)
        return [
            (EPOCH + timedelta(microseconds=found[key][0]), found[key][1]) if key in found else (None, None)
            for key in keys
        ]

    def _get_conn(self, config: RepoConfig) -> sqlite3.Connection:
        if self._conn is None:
            Path(self._get_db_path(config)).parent.mkdir(parents=True, exist_ok=True)
            connection: sqlite3.Connection = super()._get_conn(config)
            # Reads go on while a batch is written. If another process holds the file just now, it sets the same.
            with suppress(sqlite3.OperationalError):
                connection.execute("PRAGMA journal_mode = WAL")
        return super()._get_conn(config)  # type: ignore[no-any-return]  # Feast has no types


def _values(data: Sequence[Row], version: int) -> Iterator[tuple[Any, ...]]:
    """Return the parameters of the INSERT: one tuple a feature of each row."""
    for entity, features, event, created in data:
        key = serialize_entity_key(entity, entity_key_serialization_version=version)
        times = (
            to_naive_utc(event), created and to_naive_utc(created), micros(event), micros(created) if created else NEVER
        )  # fmt: skip
        for feature, value in features.items():
            yield key, feature, value.SerializeToString(), extract_text_and_num(value, False)[0], *times


def _by_columns(batch: Batch) -> Iterator[tuple[Any, ...]]:
    """Return the parameters of the INSERT: one tuple a feature of each row."""
    keys, event, created = batch.keys.to_pylist(), batch.event.to_pylist(), batch.created.to_pylist()
    seconds = {time: _seconds(time) for time in {*event, *created}}  # few: all keys of a tick have its time
    times = [
        (seconds[one], seconds[other], one, NEVER if other is None else other)
        for one, other in zip(event, created, strict=True)
    ]
    columns = [
        zip([name] * len(keys), batch.values[name].to_pylist(), texts(column), strict=True)
        for name, column in batch.plain.items()
    ]
    for key, time, *features in zip(keys, times, *columns, strict=True):
        for feature in features:
            yield key, *feature, *time


def _seconds(time: int | None) -> int | None:
    """Return a time as Feast's own columns have it: whole seconds, shifted by the machine's zone."""
    return None if time is None else int((EPOCH + timedelta(microseconds=time)).replace(tzinfo=None).timestamp())


def _table_of(config: RepoConfig, table: FeatureView) -> str:
    return identifier(compute_table_id(config.project, table, config.registry.enable_online_feature_view_versioning))


def _add_columns(connection: sqlite3.Connection, name: str) -> None:
    """Add our columns to a table that Feast made, and fill them from Feast's: seconds shifted by the machine's zone."""

    def missing() -> bool:
        columns = {row[1] for row in connection.execute(f"PRAGMA table_info({name})")}
        return bool(columns) and "event_us" not in columns

    if not missing():
        return
    seconds = "CAST(strftime('%s', {0}, 'unixepoch', 'localtime') AS INTEGER) * 1000000"
    with connection:
        connection.execute("BEGIN IMMEDIATE")  # of several processes one adds them, the others wait for it
        if missing():
            connection.execute(f"ALTER TABLE {name} ADD COLUMN event_us INTEGER")
            connection.execute(f"ALTER TABLE {name} ADD COLUMN created_us INTEGER")
            connection.execute(
                f"UPDATE {name} SET event_us = {seconds.format('event_ts')}, "
                f"created_us = coalesce({seconds.format('created_ts')}, {NEVER})"
            )
