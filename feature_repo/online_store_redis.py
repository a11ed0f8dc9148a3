"""The Redis store of ``feature_repo.online_store``; the only module that needs the ``redis`` package."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC
from itertools import groupby
from typing import Any, Literal

import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3, compute_versioned_name
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]  # no stubs are installed
from redis.connection import SSLConnection, parse_url

from feature_repo.online_bytes import Batch, joined, stamps, with_lengths
from feature_repo.online_store import Found, Row, micros

KEYS_A_ROUND = 5_000
KEYS_A_CALL = 100  # of the script, during which Redis answers nobody else: about a millisecond
SECONDS = {"socket_timeout": 5, "socket_connect_timeout": 5}  # the connection string may say otherwise

# Writes keys unless what they hold of the view is newer. ARGV: seconds that a key lives (0: for good), then the rows, each
# the values of its fields behind their lengths, then the names of the fields, those of event time and creation first.
WRITE = """
local function moment(stamp)  -- seconds and nanoseconds of a serialized Timestamp, whose fields have the tags 8 and 16
  local found, at = {[8] = 0, [16] = 0}, 1
  while at <= #stamp do
    local tag, value, groups = stamp:byte(at), 0, 0
    repeat
      at = at + 1
      if groups < 7 then value = value + stamp:byte(at) % 128 * 128 ^ groups end
      groups = groups + 1
    until stamp:byte(at) < 128
    if groups == 10 then value = value - 128 ^ 7 end  -- below zero; what is cut off are ones
    found[tag], at = value, at + 1
  end
  return found[8], found[16]
end
local function before(one, other)
  if one == other then return false end
  local second, nano = moment(one)
  local other_second, other_nano = moment(other)
  return second < other_second or second == other_second and nano < other_nano
end
local function outdated(event, created, was_event, was_created)  -- an unknown creation is empty, and before all others
  if not was_event or before(was_event, event) then return false end
  if event ~= was_event then return true end
  return was_created and was_created ~= '' and (created == '' or before(created, was_created))
end
local layout, at = '<' .. ('I4c0'):rep(#ARGV - 2), 1
for _, key in ipairs(KEYS) do
  local row = {struct.unpack(layout, ARGV[2], at)}
  at = row[#row]
  if not outdated(row[1], row[2], unpack(redis.call('HMGET', key, ARGV[3], ARGV[4]))) then
    local fields = {}
    for place = 1, #row - 1 do
      fields[2 * place - 1], fields[2 * place] = ARGV[place + 2], row[place]
    end
    redis.call('HSET', key, unpack(fields))
    if ARGV[1] ~= '0' then redis.call('EXPIRE', key, ARGV[1]) end
  end
end
"""


class NewestRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """Configuration: as Feast's, but writing without looking (``skip_dedup``) is not offered."""

    type: str = "feature_repo.online_store.NewestRedisOnlineStore"  # type: ignore[assignment]  # a Literal in Feast
    skip_dedup: Literal[False] = False


class NewestRedisOnlineStore(RedisOnlineStore):
    """Feast's Redis store with one more field a view, its creation; a row is compared and written where it is kept, so that
    also of two writers at once the newer wins.
    """

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: Sequence[Row], progress: Callable[[int], Any] | None
    ) -> None:  # fmt: skip
        """Write rows, pipelined; of each key the newest row stays, in whatever order they come."""
        for batch in _batches(data, config.entity_key_serialization_version):
            self.write_columns(config, table, batch)
        if progress:
            progress(len(data))

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: Sequence[Row], progress: Callable[[int], Any] | None
    ) -> None:  # fmt: skip
        """Write rows as ``online_write_batch`` does, in a thread."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def write_columns(self, config: RepoConfig, table: FeatureView, batch: Batch) -> None:
        """Write rows that are bytes already, as ``online_write_batch`` does."""
        view = compute_versioned_name(table, config.registry.enable_online_feature_view_versioning)
        names = [f"_ts:{view}", f"_created:{view}", *(_mmh3(f"{view}:{feature}") for feature in batch.values)]
        columns = [stamps(batch.event), stamps(batch.created), *batch.values.values()]
        rows = joined([with_lengths(column) for column in columns]).to_pylist()
        project = config.project.encode()
        keys = [key + project for key in batch.keys.to_pylist()]
        options = config.online_store
        # The keys of one call must be on one node of a cluster.
        step = 1 if options.redis_type == RedisType.redis_cluster else KEYS_A_CALL
        for start in range(0, len(keys), KEYS_A_ROUND):
            with self._get_client(options).pipeline(transaction=False) as pipe:
                for first in range(start, min(start + KEYS_A_ROUND, len(keys)), step):
                    some = keys[first : first + step]
                    values = b"".join(rows[first : first + step])
                    pipe.eval(WRITE, len(some), *some, options.key_ttl_seconds or 0, values, *names)
                pipe.execute()

    def _get_features_for_entity(
        self, values: Sequence[Any], feature_view: str, requested_features: Sequence[str]
    ) -> Found:
        """Return event time and values of a hash; what is not there is not found, where Feast says null."""
        fields = dict(zip(requested_features, values, strict=True))
        event = fields.pop(f"_ts:{feature_view}", None)
        found = {name: Value.FromString(bytes(value)) for name, value in fields.items() if value is not None}
        if event is None or not found:
            return None, None
        return Timestamp.FromString(bytes(event)).ToDatetime(tzinfo=UTC), found

    @staticmethod
    def _parse_connection_string(connection_string: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Read Feast's ``host:port,name=value`` or a ``redis[s]://`` URL, in which a password may hold any character."""
        if connection_string.startswith(("redis://", "rediss://")):
            options: dict[str, Any] = parse_url(connection_string)  # type: ignore[no-untyped-call]  # redis has no types there
            secure = options.pop("connection_class", None) is SSLConnection
            node = {"host": options.pop("host", "localhost"), "port": options.pop("port", 6379)}
            return [node], SECONDS | ({"ssl": True} if secure else {}) | dict(options)
        nodes, options = RedisOnlineStore._parse_connection_string(connection_string)
        return nodes, SECONDS | options


def _batches(data: Sequence[Row], version: int) -> Iterator[Batch]:
    """Return rows as Feast hands them in, in their order; those that have the same features follow in one batch."""
    for names, group in groupby(data, key=lambda row: tuple(row[1])):
        rows = list(group)
        keys = [serialize_entity_key(row[0], entity_key_serialization_version=version) for row in rows]
        yield Batch(
            keys=pa.array(keys, pa.binary()),
            values={name: pa.array([row[1][name].SerializeToString() for row in rows], pa.binary()) for name in names},
            plain={},
            event=pa.array([micros(row[2]) for row in rows], pa.int64()),
            created=pa.array([micros(row[3]) if row[3] else None for row in rows], pa.int64()),
        )
