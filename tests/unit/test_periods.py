"""Periods and local time: keys, nearest period, and UTC as Python's zoneinfo has it."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.errors import ContractError, UsageError
from flows.steps.periods import batch_key, nearest, parse_key, parse_kind, period_of, utc_sql

local = datetime.fromisoformat
ZONES = ("America/New_York", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns", "UTC")


@pytest.mark.parametrize(
    ("kind", "day", "key", "start", "end"),
    [
        ("day", date(2024, 1, 31), "2024-01-31", date(2024, 1, 31), date(2024, 2, 1)),
        ("week", date(2024, 2, 4), "2024-W05", date(2024, 1, 29), date(2024, 2, 5)),
        ("week", date(2021, 1, 3), "2020-W53", date(2020, 12, 28), date(2021, 1, 4)),
        ("month", date(2024, 12, 15), "2024-12", date(2024, 12, 1), date(2025, 1, 1)),
    ],
)
def test_a_period_and_its_key_name_each_other(kind, day, key, start, end):
    period = period_of(kind, day)
    assert (period.key, period.start, period.end) == (key, start, end)
    assert parse_key(key) == period


@pytest.mark.parametrize("key", ["batch-x", "2024-13", "2024-W60", "2024-02-30", "2024-01-01-r2", "../2024-01", "2024"])
def test_what_is_no_period_parses_as_none(key):
    assert parse_key(key) is None


def test_a_kind_that_is_none_is_told_with_those_that_are():
    assert parse_kind("week") == "week"
    with pytest.raises(UsageError, match="day, week, month"):
        parse_kind("hour")


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (date(2009, 1, 1), date(2022, 1, 1)),
        (date(2022, 1, 2), date(2022, 1, 1)),  # as near to the 3rd: the earlier one
        (date(2022, 1, 9), date(2022, 1, 3)),
    ],
)
def test_a_stray_goes_to_the_nearest_period(day, expected):
    assert nearest(day, [date(2022, 1, 1), date(2022, 1, 3)]) == expected


@pytest.mark.parametrize(
    "name", ["../../etc/passwd.parquet", "a'; DROP TABLE x;--.csv", "<b>x</b>.csv.gz", ".parquet", "x" * 300]
)
def test_the_key_of_a_batch_is_safe_as_a_file_name(name):
    key = batch_key(name)
    assert key.startswith("batch-")
    assert len(key) <= 80
    assert not set(key) & set("/\\.<>'\" ;")


@pytest.fixture(scope="module")
def connection():
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(ZONES),
    st.lists(st.datetimes(local("1990-01-01"), local("2035-01-01")), min_size=1, max_size=20),
)
def test_local_times_become_utc_as_in_zoneinfo(connection, zone, times):
    """Also those that occur twice or never: as with fold=0."""
    query = f"SELECT {utc_sql('time', zone, (min(times), max(times)))} FROM (SELECT unnest($times) AS time)"
    found = [row[0] for row in connection.execute(query, {"times": times}).fetchall()]
    assert found == [time.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) for time in times]


def test_the_clock_changes_of_new_york_are_read_as_documented(connection):
    twice, never = local("2024-11-03T01:30"), local("2024-03-10T02:30")
    sql = utc_sql("time", "America/New_York", (never, twice), timedelta(hours=1))
    query = f"SELECT {sql} FROM (VALUES (TIMESTAMP '{never}'), (TIMESTAMP '{twice}'), (NULL)) AS t(time)"
    found = [row[0] for row in connection.execute(query).fetchall()]
    assert found == [datetime(2024, 3, 10, 8, 30, tzinfo=UTC), datetime(2024, 11, 3, 6, 30, tzinfo=UTC), None]


def test_a_zone_that_is_none_is_told():
    with pytest.raises(ContractError, match="Mars/Olympus"):
        utc_sql("time", "Mars/Olympus", (local("2024-01-01"),))
