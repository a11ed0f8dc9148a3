"""The stored features of Feast's Redis online store, read directly: a hash for each key, its fields as the plan names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flows.steps.online_plan import OnlinePlan
from flows.steps.online_values import Stored, decode, key_writer, varint

if TYPE_CHECKING:
    from redis import Redis

SECONDS = 1.0  # for a connection, and for an answer: a request waits for it
KEYS_A_ROUND = 5_000
_SECONDS_TAG = 0x08  # of protobuf's Timestamp


class RedisValues:
    """What a plan's hashes hold for some rows; may be called from several threads at once."""

    is_quick = False  # a call over the network is not made between other requests

    def __init__(self, plan: OnlinePlan, url: str) -> None:
        self._client = _open(url)
        self._project = plan.project.encode()
        self._keys = [key_writer(view) for view in plan.stored]
        self._names = [view.fields for view in plan.stored]
        self._fields: list[list[Any]] = [
            [f"_ts:{view.table}".encode(), *(bytes.fromhex(column) for column in view.columns)] for view in plan.stored
        ]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[list[Stored | None]]:
        """Return by view, for each row, what is stored of its keys; raises redis.RedisError or KeyError."""
        wanted = [[key(row) + self._project for row in rows] for key in self._keys]
        asked = list(dict.fromkeys((place, key) for place, keys in enumerate(wanted) for key in keys))
        found: dict[tuple[int, bytes], Stored | None] = {}
        for start in range(0, len(asked), KEYS_A_ROUND):
            some = asked[start : start + KEYS_A_ROUND]
            with self._client.pipeline(transaction=False) as pipe:
                for place, key in some:
                    pipe.hmget(key, self._fields[place])  # type: ignore[arg-type]  # keys are bytes as well
                for (place, key), (moment, *values) in zip(some, pipe.execute(), strict=True):
                    found[place, key] = _stored(moment, self._names[place], values)
        return [[found[place, key] for key in keys] for place, keys in enumerate(wanted)]

    def away(self) -> str | None:
        """Return None: a Redis that is away cannot be read, and the read says so."""
        return None


def _open(url: str) -> Redis:
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    # Once more for a connection that a restart of the server has ended.
    once_more = Retry(NoBackoff(), 1)
    return Redis.from_url(url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS, retry=once_more)


def _stored(moment: bytes | None, names: Sequence[str], values: Sequence[bytes | None]) -> Stored | None:
    """Return the time and the values of a view in a hash; None for a key that has none of them."""
    if moment is None:
        return None
    seconds = varint(moment) if moment[:1] == bytes([_SECONDS_TAG]) else 0
    return seconds * 1_000_000, {
        name: decode(value) for name, value in zip(names, values, strict=True) if value is not None
    }
