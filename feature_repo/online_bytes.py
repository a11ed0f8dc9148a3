"""Keys, values and times as Feast's online stores hold them, made by columns of Arrow instead of value by value.

A value is Feast's protobuf ``Value``: a tag and a payload of a few bytes, nothing where there is none. What is made here is
equal byte for byte to what Feast makes; types that are not among ``VALUES`` and ``KEYS`` are left to Feast.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, ValueType

Whole = np.ndarray[Any, np.dtype[np.int64]]

INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32())
BITS = np.uint64(7) * np.arange(10, dtype=np.uint64)  # of a whole number, in groups of seven, the lowest first
VERSION = 3  # of the bytes of a key


class Batch(NamedTuple):
    """Rows of a feature view, one a key: the key's bytes, each feature's bytes, and both times in microseconds since 1970.

    ``keys`` and ``values`` are binary arrays without nulls; ``created`` is null where unknown. ``plain`` has the features
    as they came.
    """

    keys: pa.Array
    values: dict[str, pa.Array]
    plain: dict[str, pa.Array]
    event: pa.Array
    created: pa.Array


def batch(table: pa.Table, view: FeatureView, version: int) -> Batch | None:
    """Return the rows of a table in the names of a view; None if Feast must convert them: another type or version, a null key."""
    source = view.batch_source
    keys = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    kinds = {field.name: field.dtype.to_value_type() for field in view.features}
    times = [name for name in (source.timestamp_field, source.created_timestamp_column) if name] if source else []
    if version != VERSION or not times or not {*keys, *kinds, *times} <= {*table.column_names}:
        return None
    plain = {name: _whole(table[name]) for name in {**keys, **kinds}}
    key = entity_keys({name: plain[name] for name in keys}, keys)
    found = {name: values(plain[name], kind) for name, kind in kinds.items()}
    event, *creation = (_micros(table[name]) for name in times)
    if event is None or event.null_count or any(column is None for column in (key, *creation, *found.values())):
        return None
    created = creation[0] if creation else pa.nulls(table.num_rows, pa.int64())
    return Batch(key, found, {name: plain[name] for name in kinds}, event, created)


def values(column: pa.Array, kind: ValueType) -> pa.Array | None:
    """Return the serialized ``Value`` of each element as binary, empty for a null or NaN; None for a type left to Feast."""
    made = VALUES.get(kind)
    return made(column) if made else None


def entity_keys(columns: Mapping[str, pa.Array], kinds: Mapping[str, ValueType]) -> pa.Array | None:
    """Return the serialized key (version 3) of each row as binary: names in their order, then types, lengths, values.

    None for a type left to Feast, and if a value is null.
    """
    names = sorted(columns)
    head = struct.pack("<I", len(names)) + b"".join(
        struct.pack("<II", ValueType.STRING.value, len(name.encode())) + name.encode() for name in names
    )
    parts: list[Any] = [pa.scalar(head, pa.binary())]
    for name in names:
        column, kind = columns[name], kinds[name]
        if column.null_count or kind not in KEYS or column.type not in KEYS[kind]:
            return None
        if kind in (ValueType.STRING, ValueType.BYTES):
            data = column.cast(pa.binary())
        else:
            data = _binary(_bytes(column.to_numpy().astype("<i4" if kind == ValueType.INT32 else "<i8")))
        parts += [pa.scalar(struct.pack("<I", kind.value), pa.binary()), with_lengths(data)]
    return joined(parts)


def stamps(micros: pa.Array) -> pa.Array:
    """Return the serialized protobuf ``Timestamp`` of times in microseconds since 1970 as binary, empty for a null."""
    known = micros.is_valid().to_numpy(zero_copy_only=False)
    whole = micros.fill_null(0).to_numpy()
    parts = []
    for tag, number in ((0x08, whole // 1_000_000), (0x10, whole % 1_000_000 * 1000)):
        parts.append(_numbers(tag, number, known & (number != 0)))
    return joined(parts)


def with_lengths(column: pa.Array) -> pa.Array:
    """Return each element of a binary array behind its length, four bytes, the lowest first."""
    length = pc.binary_length(column).to_numpy(zero_copy_only=False)
    return joined([_binary(_bytes(length.astype("<u4"))), column])


def _real(tag: int, kind: pa.DataType, layout: str) -> Callable[[pa.Array], pa.Array | None]:
    def made(column: pa.Array) -> pa.Array | None:
        if column.type != kind:
            return None
        numbers = column.to_numpy(zero_copy_only=False).astype(layout)  # a null is NaN
        rows = np.hstack([_same(bytes([tag]), len(numbers)), _bytes(numbers)])
        return _binary(rows, ~np.isnan(numbers)[:, None])

    return made


def _integer(tag: int, kinds: tuple[pa.DataType, ...]) -> Callable[[pa.Array], pa.Array | None]:
    def made(column: pa.Array) -> pa.Array | None:
        if column.type not in kinds:
            return None
        known = column.is_valid().to_numpy(zero_copy_only=False)
        return _numbers(tag, column.cast(pa.int64()).fill_null(0).to_numpy(), known)

    return made


def _flag(column: pa.Array) -> pa.Array | None:
    if column.type != pa.bool_():
        return None
    return _integer(0x38, (pa.uint8(),))(column.cast(pa.uint8()))


def _text(tag: int, kind: pa.DataType) -> Callable[[pa.Array], pa.Array | None]:
    def made(column: pa.Array) -> pa.Array | None:
        if column.type != kind:
            return None
        known = column.is_valid().to_numpy(zero_copy_only=False)
        length = pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        return joined([_numbers(tag, length.astype(np.int64), known), column.cast(pa.binary()).fill_null(b"")])

    return made


def _time(column: pa.Array) -> pa.Array | None:
    if not pa.types.is_timestamp(column.type):
        return None
    # A null is the lowest number, for Feast too.
    seconds = column.to_numpy(zero_copy_only=False).astype("datetime64[s]").astype(np.int64)
    return _numbers(0x40, seconds, np.full(len(seconds), True))


def texts(column: pa.Array) -> list[str | None]:
    """Return what Feast's SQLite store keeps beside a value to search by: numbers, flags and texts as text, else None."""
    if pa.types.is_binary(column.type) or pa.types.is_timestamp(column.type):
        return [None] * len(column)
    return [None if value is None or value != value else str(value) for value in column.to_pylist()]


def _whole(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return found.chunk(0) if isinstance(found, pa.ChunkedArray) else found


def _micros(column: pa.ChunkedArray) -> pa.Array | None:
    if not pa.types.is_timestamp(column.type):
        return None
    return _whole(column).cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())


def _bytes(numbers: Any) -> Any:
    """Return the bytes of each number, a row each."""
    return np.ascontiguousarray(numbers).view(np.uint8).reshape(len(numbers), numbers.itemsize)


def _same(data: bytes, rows: int) -> Any:
    return np.broadcast_to(np.frombuffer(data, np.uint8), (rows, len(data)))


def _numbers(tag: int, numbers: Whole, keep: Any) -> pa.Array:
    """Return a tag and each number in groups of seven bits, the lowest first, where ``keep`` is set; else nothing."""
    rest = numbers.astype(np.uint64)[:, None] >> BITS
    there = rest != 0
    there[:, 0] = True
    more = np.zeros_like(there)
    more[:, :-1] = there[:, 1:]
    groups = (rest & np.uint64(0x7F)).astype(np.uint8) | (more * np.uint8(0x80))
    tags = _same(bytes([tag]), len(numbers))
    return _binary(np.hstack([tags, groups]), np.hstack([tags != 0, there]) & keep[:, None])


def _binary(rows: Any, keep: Any = True) -> pa.Array:
    """Return the bytes of each row that are kept as an element of a binary array."""
    keep = np.broadcast_to(keep, rows.shape)
    ends = np.concatenate([[0], np.cumsum(keep.sum(axis=1))]).astype(np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(rows[keep])]
    return pa.Array.from_buffers(pa.binary(), len(rows), buffers)


def joined(parts: list[Any]) -> pa.Array:
    """Return the bytes of several binary arrays behind one another."""
    return pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.binary()))


# The tag is the number of the field in Feast's Value times 8 plus how the payload is written.
VALUES: dict[ValueType, Callable[[pa.Array], pa.Array | None]] = {
    ValueType.BYTES: _text(0x0A, pa.binary()),
    ValueType.STRING: _text(0x12, pa.string()),
    ValueType.INT32: _integer(0x18, (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16())),
    ValueType.INT64: _integer(0x20, INTEGERS),
    ValueType.DOUBLE: _real(0x29, pa.float64(), "<f8"),
    ValueType.FLOAT: _real(0x35, pa.float32(), "<f4"),
    ValueType.BOOL: _flag,
    ValueType.UNIX_TIMESTAMP: _time,
}
KEYS: dict[ValueType, tuple[pa.DataType, ...]] = {
    ValueType.STRING: (pa.string(),),
    ValueType.BYTES: (pa.binary(),),
    ValueType.INT32: (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16()),
    ValueType.INT64: INTEGERS,
}
