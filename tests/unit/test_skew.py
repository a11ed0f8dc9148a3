"""Training-serving skew: what serving could not know is explained, what it should have served and did not is named."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from flows.models.taxi.spec import spec as taxi
from flows.settings import Settings
from flows.steps import skew
from flows.steps.files import write_parquet

TICK = datetime(2024, 1, 9, 5, tzinfo=UTC)  # a midnight in New York
NOW = datetime(2026, 1, 1, tzinfo=UTC)  # when the answer was given, by the wall clock
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
FIELDS = ["pickup_minutes_mean_28d", "pickup_trips_28d"]


def moments(*times):
    return pa.array(times, pa.timestamp("us", "UTC"))


@pytest.fixture
def kinds(tmp_path):
    """Return what could have been served of zone 74 to one request, for the stored rows (time, created, value)."""

    def find(*stored, event=TICK + DAY / 2, ttl=7 * DAY):
        settings = Settings(home=tmp_path)
        table = {
            "PULocationID": [74] * len(stored), "event_timestamp": moments(*(row[0] for row in stored)),
            "created_timestamp": moments(*(row[1] for row in stored)),
            FIELDS[0]: [row[2] for row in stored], FIELDS[1]: [9] * len(stored),
        }  # fmt: skip
        write_parquet(pa.table(table), settings.features("taxi") / "pickup_zone" / "0.parquet")
        rows = pa.table({"PULocationID": [74], "at": moments(NOW), "event_timestamp": moments(event)})
        found = skew._servable(settings, taxi, "pickup_zone", FIELDS, ttl, rows, [0])[0]
        return [(values[FIELDS[0]], kind) for values, kind in found]

    return find


def test_what_was_known_when_the_answer_was_given_could_be_served_and_what_came_later_could_not(kinds):
    assert kinds((TICK - DAY, NOW - DAY, 1.0), (TICK, NOW + MINUTE, 2.0)) == [(1.0, "late")]


def test_a_value_that_was_there_for_long_is_the_only_one_that_may_be_served(kinds):
    assert kinds((TICK - DAY, NOW - 9 * DAY, 1.0), (TICK, NOW - DAY, 2.0)) == [(2.0, "late")]


def test_a_value_that_was_just_being_materialized_may_or_may_not_have_been_served(kinds):
    assert kinds((TICK - DAY, NOW - DAY, 1.0), (TICK, NOW - MINUTE, 2.0)) == [(2.0, "late"), (1.0, "late")]
    assert kinds((TICK, NOW - MINUTE, 2.0)) == [(2.0, "late"), (None, "late")]


def test_a_correction_counts_from_its_creation(kinds):
    assert kinds((TICK, NOW - 9 * DAY, 1.0), (TICK, NOW - DAY, 2.0), (TICK, NOW + DAY, 3.0)) == [(2.0, "late")]


def test_a_request_about_the_past_finds_nothing_in_an_online_store(kinds):
    stored = ((TICK - DAY, NOW - 9 * DAY, 1.0), (TICK, NOW - DAY, 2.0))
    assert kinds(*stored, event=TICK - MINUTE) == [(None, "past")]


def test_a_value_past_its_ttl_is_served_as_missing(kinds):
    stored = (TICK, NOW - DAY, 1.0)
    assert kinds(stored, event=TICK + 7 * DAY) == [(1.0, "late")]
    assert kinds(stored, event=TICK + 7 * DAY + MINUTE) == [(None, "late")]
    assert kinds(stored, event=TICK + 70 * DAY, ttl=None) == [(1.0, "late")]


def test_a_key_that_was_never_computed_is_served_as_missing(kinds):
    assert kinds((TICK, NOW + DAY, 1.0)) == [(None, "late")]


def test_the_sample_is_bounded_the_same_each_time_and_of_rows_that_were_served_from_the_store():
    log = pa.table({"n": range(1000), "lpep_pickup_datetime": pa.array([None, TICK] * 500, pa.timestamp("us"))})
    spec = taxi.model_copy(update={"skew_sample": 50})
    found = skew.sample(spec, log)["n"].to_pylist()
    assert len(set(found)) == 50
    assert all(number % 2 for number in found)
    assert found == sorted(found) == skew.sample(spec, log)["n"].to_pylist()
    assert skew.sample(taxi.model_copy(update={"skew_sample": 500}), log).num_rows == 500
    untimed = taxi.model_copy(update={"request": taxi.request[1:]})
    assert skew.sample(untimed, log).num_rows == 0


def test_missing_values_are_one_whatever_they_are_written_as():
    assert [skew._value(value) for value in (None, float("nan"), 3, True, "a")] == [None, None, 3.0, 1.0, "a"]
