"""Keys, values and times that are made by columns are Feast's own bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from feast import ValueType
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import extract_text_and_num
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given
from hypothesis import strategies as st

from feature_repo import online_bytes
from feature_repo.online_store import micros

times = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
recent = st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # within nanoseconds


def whole(bits: int, sign: bool = True) -> st.SearchStrategy[int]:
    """Return numbers of so many bits, each length of them as likely."""
    top = bits - sign
    return st.integers(0, top).flatmap(lambda n: st.integers(-(2**n) if sign else 0, 2**n - 1))


CASES: list[tuple[ValueType, pa.DataType, st.SearchStrategy[Any]]] = [
    (ValueType.DOUBLE, pa.float64(), st.floats()),
    (ValueType.FLOAT, pa.float32(), st.floats(width=32)),
    (ValueType.BOOL, pa.bool_(), st.booleans()),
    (ValueType.STRING, pa.string(), st.text()),
    (ValueType.STRING, pa.string(), st.integers(120, 20_000).map(lambda size: "ä" * size)),
    (ValueType.BYTES, pa.binary(), st.binary()),
    *((ValueType.INT64, kind, whole(kind.bit_width)) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())),
    *((ValueType.INT64, kind, whole(kind.bit_width, False)) for kind in (pa.uint8(), pa.uint16(), pa.uint32())),
    *((ValueType.INT32, kind, whole(kind.bit_width)) for kind in (pa.int8(), pa.int16(), pa.int32())),
    *((ValueType.INT32, kind, whole(kind.bit_width, False)) for kind in (pa.uint8(), pa.uint16())),
    *((ValueType.UNIX_TIMESTAMP, pa.timestamp(unit, "UTC"), recent) for unit in ("s", "ms", "us", "ns")),
    (ValueType.UNIX_TIMESTAMP, pa.timestamp("us"), recent),
]
KEYS = [case for case in CASES if case[0] in online_bytes.KEYS]


def array(data: list[Any], kind: pa.DataType) -> pa.Array:
    """Return an array that begins in the middle of another, as a part of a table does."""
    return (
        pa.array([None, *data], kind, safe=False)[1:]
        if pa.types.is_timestamp(kind)
        else pa.array([None, *data], kind)[1:]
    )


def by_feast(value: Any, kind: pa.DataType, feast: ValueType) -> Value:
    """Return the value as Feast makes it of a column; beside another, since Feast drops texts if all are empty."""
    beside = {pa.string(): ["x"], pa.binary(): [b"x"]}.get(kind, [])
    return python_values_to_proto_values(array([value, *beside], kind).to_numpy(zero_copy_only=False), feast)[0]


@given(data=st.data(), case=st.sampled_from(CASES))
def test_values_are_feasts(data: st.DataObject, case: tuple[ValueType, pa.DataType, st.SearchStrategy[Any]]) -> None:
    feast, kind, elements = case
    given_values = data.draw(st.lists(st.none() | elements, max_size=8))
    column = array(given_values, kind)
    made = online_bytes.values(column, feast)
    assert made is not None
    made.validate(full=True)
    expected = [by_feast(value, kind, feast) for value in given_values]
    assert made.to_pylist() == [value.SerializeToString() for value in expected]
    assert online_bytes.texts(column) == [extract_text_and_num(value, False)[0] for value in expected]


@given(data=st.data(), names=st.lists(st.text(min_size=1), min_size=1, max_size=4, unique=True), rows=st.integers(0, 5))
def test_keys_are_feasts(data: st.DataObject, names: list[str], rows: int) -> None:
    cases = {name: data.draw(st.sampled_from(KEYS)) for name in names}
    columns = {name: data.draw(st.lists(case[2], min_size=rows, max_size=rows)) for name, case in cases.items()}
    made = online_bytes.entity_keys(
        {name: array(columns[name], cases[name][1]) for name in names}, {name: cases[name][0] for name in names}
    )
    assert made is not None
    expected = []
    for row in range(rows):
        parts = [by_feast(columns[name][row], cases[name][1], cases[name][0]) for name in names]
        expected.append(serialize_entity_key(EntityKey(join_keys=names, entity_values=parts), 3))
    assert made.to_pylist() == expected


@given(st.lists(st.none() | times, max_size=8))
@example([datetime(1970, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)])
def test_times_are_protobufs(moments: list[datetime | None]) -> None:
    made = online_bytes.stamps(pa.array([moment and micros(moment) for moment in moments], pa.int64()))
    expected = []
    for moment in moments:
        stamp = Timestamp()
        if moment:
            stamp.FromDatetime(moment)
        expected.append(stamp.SerializeToString())
    assert made.to_pylist() == expected


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_lengths_go_before(parts: list[bytes]) -> None:
    made = online_bytes.with_lengths(pa.array(parts, pa.binary()))
    assert made.to_pylist() == [len(part).to_bytes(4, "little") + part for part in parts]


def test_a_whole_number_beside_a_null_is_exact() -> None:
    """Feast takes such a column through floats, which hold 53 bits."""
    made = online_bytes.values(pa.array([2**53 + 1, None]), ValueType.INT64)
    assert made.to_pylist() == [Value(int64_val=2**53 + 1).SerializeToString(), b""]


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        (ValueType.DOUBLE, pa.array([1])),
        (ValueType.INT64, pa.array([1.0])),
        (ValueType.INT64, pa.array([1], pa.uint64())),
        (ValueType.INT32, pa.array([1])),
        (ValueType.STRING, pa.array(["a"]).dictionary_encode()),
        (ValueType.UNIX_TIMESTAMP, pa.array([1])),
        (ValueType.FLOAT_LIST, pa.array([[1.0]], pa.list_(pa.float32()))),
    ],
)
def test_what_is_not_known_is_left_to_feast(kind: ValueType, column: pa.Array) -> None:
    assert online_bytes.values(column, kind) is None
    assert online_bytes.entity_keys({"key": column}, {"key": kind}) is None


def test_a_key_that_is_null_is_left_to_feast() -> None:
    assert online_bytes.entity_keys({"key": pa.array([1, None])}, {"key": ValueType.INT64}) is None
