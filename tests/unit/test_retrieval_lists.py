"""The lists that an on-demand view is handed are those that Arrow makes of its columns."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.retrieval import as_list

START = datetime(2024, 1, 1, 12, 30, 0, 123456)
TIMES = [START + timedelta(days=day, microseconds=day) for day in range(-400, 400, 7)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(TIMES),
        pa.array([None, *TIMES]),
        pa.array([time.replace(microsecond=123000) for time in TIMES]).cast(pa.timestamp("ms")),
        pa.array([time.replace(microsecond=0) for time in TIMES]).cast(pa.timestamp("s")),
        pa.array([time.replace(tzinfo=UTC) for time in TIMES]),
        pa.array(TIMES).cast(pa.timestamp("ns")),
        pa.array([time.date() for time in TIMES]),
        pa.array([1, 2, 2**62]),
        pa.array([1, None, 3], pa.int8()),
        pa.array([2**64 - 1, 0], pa.uint64()),
        pa.array([0.5, -0.0], pa.float32()),
        pa.array([True, False]),
        pa.array(["a", None]),
        pa.array([], pa.float64()),
    ],
    ids=lambda column: f"{column.type}-{column.null_count}",
)
def test_a_column_becomes_the_list_that_arrow_makes_of_it(column):
    chunked = pa.chunked_array([column, column.slice(1)])
    found = as_list(chunked)
    assert found == chunked.to_pylist()
    assert [type(one) for one in found] == [type(one) for one in chunked.to_pylist()]


@given(st.lists(st.floats() | st.none()))
def test_numbers_are_equal_to_the_bit(values):
    column = pa.chunked_array([pa.array(values, pa.float64())])
    assert list(map(repr, as_list(column))) == list(map(repr, column.to_pylist()))
