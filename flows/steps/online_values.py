"""How Feast writes keys (version 3) and values (its protobuf ``Value``) in its online stores; read without Feast."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from flows.steps.online_plan import NO_KEY, StoredView

STRING, INT64 = 2, 4  # of Feast's ValueType
NOBODY = b"nobody"  # no key of Feast's is written so
Stored = tuple[int, dict[str, Any]]  # time in microseconds since 1970, values by field


def key_writer(view: StoredView) -> Callable[[Mapping[str, Any]], bytes]:
    """Return what serializes a row's join keys for a view, as Feast does: names first, then values.

    Of a row that lacks one it is ``NOBODY``: offline no value is joined to it either.
    """
    head = struct.pack("<I", len(view.keys)) + b"".join(
        struct.pack("<II", STRING, len(name.encode())) + name.encode() for name, _ in view.keys
    )
    names = [name for name, _ in view.keys]
    if names == [NO_KEY]:
        whole = head + struct.pack("<II", STRING, 0)
        return lambda _: whole
    write = _writer(view, head, names)
    return lambda row: NOBODY if None in [row[name] for name in names] else write(row)


def _writer(view: StoredView, head: bytes, names: list[str]) -> Callable[[Mapping[str, Any]], bytes]:
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


DOUBLE, _FLOAT = struct.Struct("<d").unpack_from, struct.Struct("<f").unpack_from
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

DOUBLE_BYTE = bytes([_DOUBLE_TAG])


def decode(value: bytes) -> Any:
    """Return the number, text or flag in a serialized ``Value``, None for a null; raises ValueError for other kinds."""
    if not value:
        return None
    tag = value[0]
    if tag == _DOUBLE_TAG:
        return DOUBLE(value, 1)[0]
    if tag in (_INT64_TAG, _INT32_TAG, _BOOL_TAG):
        number = varint(value)
        return bool(number) if tag == _BOOL_TAG else number
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


def varint(value: bytes) -> int:
    """Return the signed whole number after the first byte, written in groups of seven bits."""
    number, shift = 0, 0
    for byte in value[1:]:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return number - 2**64 if number >= 2**63 else number
