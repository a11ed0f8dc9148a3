"""The Redis store of ``feature_repo.online_store``; the only module that needs the ``redis`` package."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from feast import FeatureView, RepoConfig
from feast.infra.online_stores.helpers import _mmh3, _redis_key, compute_versioned_name
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import make_tzaware
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]
from redis.connection import SSLConnection, parse_url

from feature_repo.online_store import Found, Row

KEYS_A_ROUND = 5_000
SECONDS = {"socket_timeout": 5, "socket_connect_timeout": 5}  # the connection string may say otherwise

# Writes the fields of one key if its times are still those that were read: 1, or 0 if somebody else wrote in between.
WRITE = """
local now = redis.call('HMGET', KEYS[1], ARGV[1], ARGV[2])
if (now[1] or '') ~= ARGV[3] or (now[2] or '') ~= ARGV[4] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 6))
if ARGV[5] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[5]) end
return 1
"""


class NewestRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """Configuration: as Feast's, but writing without looking (``skip_dedup``) is not offered."""

    type: str = "feature_repo.online_store.NewestRedisOnlineStore"  # type: ignore[assignment]
    skip_dedup: Literal[False] = False


class NewestRedisOnlineStore(RedisOnlineStore):
    """Feast's Redis store with one more field a view, its creation; a row is read, compared and written by
    compare-and-set, so that also of two writers at once the newer wins.
    """

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: Sequence[Row], progress: Callable[[int], Any] | None
    ) -> None:  # fmt: skip
        """Write rows, pipelined; of each key the newest row stays, in whatever order they come."""
        rows: dict[bytes, Row] = {}
        version = config.entity_key_serialization_version
        for row in data:
            key = _redis_key(config.project, row[0], entity_key_serialization_version=version)
            if key not in rows or _order(row[2], row[3]) >= _order(rows[key][2], rows[key][3]):
                rows[key] = row
        keys = list(rows)
        for start in range(0, len(keys), KEYS_A_ROUND):
            pending = {key: rows[key] for key in keys[start : start + KEYS_A_ROUND]}
            while pending:
                pending = self._write(config, table, pending)
        if progress:
            progress(len(data))

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: Sequence[Row], progress: Callable[[int], Any] | None
    ) -> None:  # fmt: skip
        """Write rows as ``online_write_batch`` does, in a thread."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def _write(self, config: RepoConfig, table: FeatureView, rows: dict[bytes, Row]) -> dict[bytes, Row]:
        """Write the rows that are not older than what is stored; return those whose key changed in between."""
        view = compute_versioned_name(table, config.registry.enable_online_feature_view_versioning)
        times = (f"_ts:{view}", f"_created:{view}")
        client = self._get_client(config.online_store)
        with client.pipeline(transaction=False) as pipe:
            for key in rows:
                pipe.hmget(key, times)
            stored = dict(zip(rows, pipe.execute(), strict=True))
        written = []
        with client.pipeline(transaction=False) as pipe:
            for key, (_, values, event, created) in rows.items():
                was_event, was_created = (value or b"" for value in stored[key])
                if was_event and _order(event, created) < _stored_order(was_event, was_created):
                    continue
                fields: list[Any] = [times[0], _encode(event), times[1], _encode(created) if created else b""]
                for feature, value in values.items():
                    fields += [_mmh3(f"{view}:{feature}"), value.SerializeToString()]
                seconds = config.online_store.key_ttl_seconds or 0
                pipe.eval(WRITE, 1, key, *times, was_event, was_created, seconds, *fields)
                written.append(key)
            results = pipe.execute() if written else []
        return {key: rows[key] for key, done in zip(written, results, strict=True) if not done}

    def _get_features_for_entity(
        self, values: Sequence[Any], feature_view: str, requested_features: Sequence[str]
    ) -> Found:
        """Return event time and values of a hash; what is not there is not found, where Feast says null."""
        fields = dict(zip(requested_features, values, strict=True))
        event = fields.pop(f"_ts:{feature_view}", None)
        found = {name: Value.FromString(bytes(value)) for name, value in fields.items() if value is not None}
        if not event or not found:
            return None, None
        return Timestamp.FromString(bytes(event)).ToDatetime(tzinfo=UTC), found

    @staticmethod
    def _parse_connection_string(connection_string: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Read Feast's ``host:port,name=value`` or a ``redis[s]://`` URL, in which a password may hold any character."""
        if connection_string.startswith(("redis://", "rediss://")):
            options: dict[str, Any] = parse_url(connection_string)  # type: ignore[no-untyped-call]
            secure = options.pop("connection_class", None) is SSLConnection
            node = {"host": options.pop("host", "localhost"), "port": options.pop("port", 6379)}
            return [node], SECONDS | ({"ssl": True} if secure else {}) | dict(options)
        nodes, options = RedisOnlineStore._parse_connection_string(connection_string)
        return nodes, SECONDS | options


def _encode(moment: datetime) -> bytes:
    stamp = Timestamp()
    stamp.FromDatetime(make_tzaware(moment))
    return bytes(stamp.SerializeToString())


def _order(event: datetime, created: datetime | None) -> tuple[datetime, bool, datetime]:
    """Return what rows are compared by; an unknown creation comes before all others."""
    return make_tzaware(event), created is not None, make_tzaware(created or event)


def _stored_order(event: bytes, created: bytes) -> tuple[datetime, bool, datetime]:
    times = [Timestamp.FromString(value).ToDatetime(tzinfo=UTC) if value else None for value in (event, created)]
    assert times[0] is not None
    return _order(times[0], times[1])
