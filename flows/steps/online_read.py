"""The direct read of Feast's SQLite online tables: what ``read_online`` returns, in a fiftieth of its time.

Feast writes the store, this only reads it: keys as Feast serializes them (version 3), values as its protobuf ``Value``.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from flows.spec import ModelSpec
from flows.steps.feature_store import OnlineRows
from flows.steps.online_plan import NO_KEY, OnlinePlan, StoredView, function_of, request_value
from flows.steps.sql import identifier

KEYS_A_QUERY = 10_000
MAPPED_BYTES = 2**28
STRING, INT64 = 2, 4  # of Feast's ValueType
Stored = tuple[int, dict[str, Any]]  # time in microseconds since 1970, values by field


class OnlineReader:
    """Reads a model's features by its plan; may be called from several threads, which take turns.

    A database that was put in the place of the one that is open is opened instead; one that is gone is read on.
    """

    def __init__(self, plan: OnlinePlan, spec: ModelSpec) -> None:
        self.plan = plan
        self._time = spec.source.event_time
        self._zone = ZoneInfo(spec.source.time_zone)
        self._functions = [(view, function_of(view)) for view in plan.computed]
        self._keys = [_key_writer(view) for view in plan.stored]
        self._fields = {field for view in plan.stored for field in view.fields}
        # One statement for all views of a row; what is selected beyond the fields (a key's own column) is passed over.
        self._one = " UNION ALL ".join(
            f"SELECT {place} AS place, feature_name, value, event_us FROM {identifier(view.table)} WHERE entity_key = ?"
            for place, view in enumerate(plan.stored)
        )
        self._turn = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._identity = (0, 0)

    def __call__(self, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> OnlineRows:
        """Return the named features of some rows as ``read_online`` does; raises sqlite3.Error or KeyError."""
        columns: dict[str, list[Any]] = {}
        unknown: list[list[str]] = [[] for _ in rows]
        if not rows:
            return OnlineRows({}, unknown)
        with self._turn:
            found = self._read_one(rows[0]) if len(rows) == 1 else self._read_many(rows)
        moments = [row[self._time].replace(tzinfo=self._zone).timestamp() for row in rows]
        for view, stored in zip(self.plan.stored, found, strict=True):
            valid = [
                one[1] if one is not None and _is_valid(view, moment - one[0] // 1_000_000, one[1]) else _NOTHING
                for moment, one in zip(moments, stored, strict=True)
            ]
            for views, values in zip(unknown, valid, strict=True):
                if values is _NOTHING:
                    views.append(view.name)
            for field in view.fields:
                columns[field] = [values.get(field) for values in valid]
        for computed, function in self._functions:
            made = function({name: [request_value(row[name]) for row in rows] for name in computed.inputs})
            for field in computed.fields:
                columns[field] = made[field]
        return OnlineRows({name: columns[name] for name in names if name in columns}, unknown)

    def _read_one(self, row: Mapping[str, Any]) -> list[list[Stored | None]]:
        if not self._keys:
            return []
        times: list[int | None] = [None] * len(self._keys)
        values: list[dict[str, Any]] = [{} for _ in self._keys]
        found = self._open().execute(self._one, [key(row) for key in self._keys]).fetchall()
        for place, name, value, event in found:
            if name in self._fields:
                values[place][name] = _DOUBLE(value, 1)[0] if value[:1] == _DOUBLE_BYTE else decode(value)
                oldest = times[place]
                times[place] = event if oldest is None or event < oldest else oldest
        return [[None if time is None else (time, one)] for time, one in zip(times, values, strict=True)]

    def _read_many(self, rows: Sequence[Mapping[str, Any]]) -> list[list[Stored | None]]:
        connection = self._open()
        result: list[list[Stored | None]] = []
        for view, key in zip(self.plan.stored, self._keys, strict=True):
            keys = [key(row) for row in rows]
            distinct = list(dict.fromkeys(keys))
            found: dict[bytes, Stored] = {}
            for start in range(0, len(distinct), KEYS_A_QUERY):
                some = distinct[start : start + KEYS_A_QUERY]
                query = (
                    f"SELECT entity_key, feature_name, value, event_us FROM {identifier(view.table)} "
                    f"WHERE entity_key IN ({', '.join('?' * len(some))})"
                )
                for entity, name, value, event in connection.execute(query, some):
                    if name in self._fields:
                        oldest, values = found.get(entity, (event, {}))
                        values[name] = decode(value)
                        found[entity] = (min(oldest, event), values)
            result.append([found.get(one) for one in keys])
        return result

    def _open(self) -> sqlite3.Connection:
        try:
            state = os.stat(self.plan.database)  # noqa: PTH116 (on the way of each request)
        except OSError:
            if self._connection is None:
                raise sqlite3.OperationalError(f"{self.plan.database} is not there") from None
            return self._connection
        identity = (state.st_dev, state.st_ino)
        if self._connection is None or identity != self._identity:
            self.close()
            self._connection = sqlite3.connect(
                f"file:{self.plan.database}?mode=ro",
                uri=True,
                timeout=1.0,
                check_same_thread=False,
                isolation_level=None,
            )
            self._connection.execute(
                f"PRAGMA mmap_size = {MAPPED_BYTES}"
            )  # pages are read without a call of the system
            self._identity = identity
        return self._connection

    def close(self) -> None:
        """Close the database."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None


_NOTHING: dict[str, Any] = {}


def _is_valid(view: StoredView, age: float, values: Mapping[str, Any]) -> bool:
    """Say whether what is stored of a key counts at an age in seconds: neither from the future, nor too old, nor empty."""
    longest = view.ttl_seconds
    return (
        age >= 0 and (longest is None or age <= longest) and any(values.get(field) is not None for field in view.fields)
    )


def _key_writer(view: StoredView) -> Callable[[Mapping[str, Any]], bytes]:
    """Return what serializes a row's join keys for a view, as Feast does: names first, then values."""
    head = struct.pack("<I", len(view.keys)) + b"".join(
        struct.pack("<II", STRING, len(name.encode())) + name.encode() for name, _ in view.keys
    )
    names = [name for name, _ in view.keys]
    if names == [NO_KEY]:
        whole = head + struct.pack("<II", STRING, 0)
        return lambda _: whole
    if all(kind == "int" for _, kind in view.keys):
        layout = struct.Struct("<" + "IIq" * len(names))
        if len(names) == 1:
            (name,) = names
            return lambda row: head + layout.pack(INT64, 8, row[name])
        return lambda row: head + layout.pack(*(part for name in names for part in (INT64, 8, row[name])))

    def write(row: Mapping[str, Any]) -> bytes:
        parts = [head]
        for name, kind in view.keys:
            data = struct.pack("<q", row[name]) if kind == "int" else row[name].encode()
            parts.append(struct.pack("<II", INT64 if kind == "int" else STRING, len(data)) + data)
        return b"".join(parts)

    return write


_DOUBLE, _FLOAT = struct.Struct("<d").unpack_from, struct.Struct("<f").unpack_from
# Tags of Feast's Value: field number times 8 plus how it is written.
_TEXT_TAG, _INT32_TAG, _INT64_TAG, _DOUBLE_TAG, _FLOAT_TAG, _BOOL_TAG, _NULL_TAG = (
    0x12,
    0x18,
    0x20,
    0x29,
    0x35,
    0x38,
    0x98,
)

_DOUBLE_BYTE = bytes([_DOUBLE_TAG])


def decode(value: bytes) -> Any:
    """Return the number, text or flag in a serialized ``Value``, None for a null; raises ValueError for other kinds."""
    if not value:
        return None
    tag = value[0]
    if tag == _DOUBLE_TAG:
        return _DOUBLE(value, 1)[0]
    if tag in (_INT64_TAG, _INT32_TAG, _BOOL_TAG):
        number = _varint(value)
        if tag == _BOOL_TAG:
            return bool(number)
        return number - 2**64 if number >= 2**63 else number
    if tag == _TEXT_TAG:
        length, start = 0, 1
        while True:
            byte = value[start]
            length |= (byte & 0x7F) << (7 * (start - 1))
            start += 1
            if byte < 0x80:
                return value[start : start + length].decode()
    if tag == _FLOAT_TAG:
        return _FLOAT(value, 1)[0]
    if tag == _NULL_TAG:
        return None
    raise ValueError(f"a feature is stored as a kind of value that is not served (tag {tag})")


def _varint(value: bytes) -> int:
    number, shift = 0, 0
    for byte in value[1:]:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return number
