"""Up to when the past had arrived at a row: the start of the local period that had ended so long before."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flows.models.taxi.spec import spec
from flows.steps.arrival import arrived, drawn
from flows.steps.periods import period_of


@example([datetime(2038, 4, 1, 11, tzinfo=UTC)], "America/New_York", "day", timedelta(hours=7))
@given(
    moments=st.lists(st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)), min_size=1),
    zone=st.sampled_from(["America/New_York", "America/Havana", "Asia/Kolkata", "Australia/Lord_Howe", "UTC"]),
    kind=st.sampled_from(["day", "week", "month"]),
    arrival=st.sampled_from([timedelta(0), timedelta(hours=7), timedelta(days=40)]),
)
def test_a_row_knows_the_periods_that_had_come_by_then(moments, zone, kind, arrival):
    source = spec.source.model_copy(update={"time_zone": zone})
    late = spec.model_copy(update={"source": source, "partition_by": kind, "arrival": arrival})
    times = pa.chunked_array([pa.array(moments, pa.timestamp("us", "UTC"))])
    found = arrived(late, times)
    assert found.type == times.type
    for moment, until in zip(moments, found.to_pylist(), strict=True):
        period = period_of(kind, (moment - arrival).astimezone(ZoneInfo(zone)).date())
        assert until == datetime.combine(period.start, time(), ZoneInfo(zone)).astimezone(UTC)
        assert until <= moment - arrival
    for moment, until, oldest in zip(moments, drawn(late, times).to_pylist(), found.to_pylist(), strict=True):
        assert oldest <= until <= moment
    assert drawn(late, times).equals(drawn(late, times))


def test_what_trains_has_a_past_of_any_age():
    monthly = spec.model_copy(update={"partition_by": "month", "arrival": timedelta(days=3)})
    last = datetime(2024, 1, 31, 12, tzinfo=UTC)
    times = pa.chunked_array([pa.array([last] * 4000, pa.timestamp("us", "UTC"))])
    ages = [(last - until) / timedelta(days=1) for until in drawn(monthly, times).to_pylist()]
    oldest = (last - arrived(monthly, times)[0].as_py()) / timedelta(days=1)
    assert oldest > 27
    assert [sum(low <= age / oldest < low + 0.25 for age in ages) for low in (0, 0.25, 0.5, 0.75)] == pytest.approx(
        [1000] * 4, abs=120
    )


def test_where_rows_come_from_tick_to_tick_all_that_was_before_a_row_is_its_past():
    times = pa.chunked_array([pa.array([datetime(2024, 1, 3, 12, tzinfo=UTC)], pa.timestamp("us", "UTC"))])
    assert spec.arrival is None
    assert arrived(spec, times) is times
    assert drawn(spec, times) is times


def test_nothing_arrives_before_its_period_is_over():
    with pytest.raises(ValueError, match="arrival"):
        type(spec).model_validate(spec.model_dump() | {"arrival": timedelta(days=-1)})
