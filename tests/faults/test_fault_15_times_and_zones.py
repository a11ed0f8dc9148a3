"""Fault 15: naive, daylight-saving and foreign-zone times. The point-in-time join is right and lets nothing leak."""

import os
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from offline_cases import TTL, ZONE, open_store, past_view, value_at, write_past

# Where the clocks go forward and back: by an hour, by half an hour, or not at all.
ZONES = ["UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu"]
CHANGES = [
    datetime(2022, 3, 13, 7, tzinfo=UTC),
    datetime(2022, 11, 6, 6, tzinfo=UTC),
    datetime(2022, 4, 2, 15, tzinfo=UTC),
]

around = st.builds(
    lambda change, minutes: change + timedelta(minutes=minutes), st.sampled_from(CHANGES), st.integers(-400, 400)
)
features = st.lists(
    st.tuples(st.integers(0, 2), around, st.integers(0, 300), st.integers(0, 99)).map(
        lambda drawn: (drawn[0], drawn[1], drawn[1] + timedelta(minutes=drawn[2]), drawn[3], float(drawn[3]))
    ),
    max_size=20,
    unique_by=lambda row: row[:3],
)
asked = st.lists(st.tuples(st.integers(0, 2), around), min_size=1, max_size=10)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    home = tmp_path_factory.mktemp("zones")
    write_past(home / "past.parquet", [])
    store = open_store(home / "store")
    store.apply([ZONE, past_view("past", home / "past.parquet")])
    return home, store


@pytest.fixture(params=["UTC", "America/New_York"], ids=["machine in UTC", "machine in New York"])
def machine(request):
    """Let the machine's clock be in a zone."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=features, wanted=asked, zone=st.sampled_from([None, *ZONES]))
def test_times_of_any_zone_are_joined_as_the_moments_that_they_mean(place, machine, rows, wanted, zone):
    home, store = place
    write_past(home / "past.parquet", rows)
    times = pd.Series(pd.to_datetime([moment for _, moment in wanted], utc=True))
    # A time without a zone means UTC, whatever the clock on the wall says.
    times = times.dt.tz_localize(None) if zone is None else times.dt.tz_convert(ZoneInfo(zone))
    frame = pd.DataFrame({"zone": [key for key, _ in wanted], "event_timestamp": times})
    found = store.get_historical_features(entity_df=frame, features=["past:trips"]).to_df()
    got = [None if pd.isna(value) else int(value) for value in found["trips"]]
    assert got == [value_at(rows, key, moment, TTL, known=False)[0] for key, moment in wanted]
    moments = found["event_timestamp"]
    moments = moments.dt.tz_localize("UTC") if moments.dt.tz is None else moments.dt.tz_convert("UTC")
    assert list(moments) == [pd.Timestamp(moment) for _, moment in wanted]
