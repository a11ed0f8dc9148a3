"""Online features, end to end: what training sees and what serving sees are the same, and none knows the future."""

import random
import shutil
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from training_parts import copy_home, featurized, opened

from deployments.service.features import OnlineFeatures
from flows import database, ledger, run_records
from flows.errors import RefusedError
from flows.models.taxi.simulator import simulate_day
from flows.models.taxi.spec import spec
from flows.steps import arrival, doctor, feature_plan, feature_store, training_set

ZONE = ZoneInfo(spec.source.time_zone)
NEWEST = datetime(2024, 1, 9)  # the newest tick, local: the midnight after the eighth simulated day
VIEWS = list(spec.entities)


@pytest.fixture(scope="module")
def place(tmp_path_factory, simulated_days, prefect_api):
    """A home that no test changes, but by materializing what is there already."""
    source = featurized(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)
    with opened(tmp_path_factory.mktemp("online") / "home", prefect_api) as settings:
        copy_home(source, settings)
        yield settings


@pytest.fixture
def copy(place, tmp_path, prefect_api):
    """A home that takes other data."""
    with opened(tmp_path / "home", prefect_api) as settings:
        copy_home(place.home, settings)
        yield settings


@pytest.fixture(scope="module")
def busy(place):
    """The route on which most trips were made; its zones are busy as well."""
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT PULocationID, DOLocationID FROM read_parquet($files) WHERE DOLocationID < 264 "
            "GROUP BY ALL ORDER BY count(*) DESC, PULocationID, DOLocationID LIMIT 1",
            {"files": uris(place)},
        ).fetchone()
    return dict(zip(("PULocationID", "DOLocationID"), found, strict=True))


def uris(home) -> list[str]:
    return [one.accepted_uri for one in ledger.list_partitions(database.connect(home), "taxi", "accepted")]


def request(zones: dict[str, int], at: datetime, miles: float = 2.5) -> dict:
    return {"lpep_pickup_datetime": at, **zones, "trip_distance": miles}


def read(home, *rows: dict) -> feature_store.OnlineRows:
    store = feature_store.open_store(home)
    return feature_store.read_online(store, spec, feature_store.feature_names(store, spec), rows)


def stored(found: feature_store.OnlineRows, row: int = 0) -> dict:
    """Return the values that came from the online store, without those computed from the request."""
    prefixes = ("pickup_", "dropoff_", "route_")
    return {name: values[row] for name, values in found.columns.items() if name.startswith(prefixes)}


def test_a_value_holds_for_its_time_after_the_tick_as_seen_from_the_request_and_is_missing_from_then_on(place, busy):
    week = timedelta(days=7)
    moments = [
        NEWEST,
        NEWEST + timedelta(hours=9),
        NEWEST + week,
        NEWEST + week + timedelta(seconds=1),
        NEWEST + timedelta(days=8),
    ]
    found = read(place, *(request(busy, moment) for moment in moments))
    assert found.unknown == [[], [], [], VIEWS, VIEWS]
    for row in range(3):
        assert None not in stored(found, row).values()
        assert stored(found, row) == stored(found)
    for row in (3, 4):
        assert set(stored(found, row).values()) == {None}
    assert found.columns["hour"] == [0, 9, 0, pytest.approx(0, abs=1), 0]


def test_a_value_that_is_newer_than_the_request_is_missing(place, busy):
    found = read(
        place,
        request(busy, NEWEST - timedelta(seconds=1)),
        request(busy, NEWEST - timedelta(days=3)),
        request(busy, NEWEST),
    )
    assert found.unknown == [VIEWS, VIEWS, []]
    assert set(stored(found).values()) == set(stored(found, 1).values()) == {None}


def test_a_zone_that_nobody_knows_is_flagged_in_the_views_that_need_it(place, busy):
    at = NEWEST + timedelta(hours=1)
    found = read(
        place, request(busy | {"PULocationID": 9999}, at), request(busy | {"DOLocationID": 265}, at),
        request({"PULocationID": 9999, "DOLocationID": 265}, at), request(busy, at),
    )  # fmt: skip
    assert found.unknown == [["pickup_zone", "route"], ["dropoff_zone", "route"], VIEWS, []]
    for row, views in enumerate(found.unknown):
        for name, value in stored(found, row).items():
            flagged = any(name.startswith(view.removesuffix("_zone")) for view in views)
            assert (value is None) == flagged, (row, name)


def revise(folder, simulated_days, day: int, change) -> str:
    """Write a day's file again, with other durations, and return its path; ``change`` takes the day, in minutes."""
    name = f"{date(2024, 1, day)}.parquet"
    frame = pd.read_parquet(simulated_days / name)
    minutes = (frame["lpep_dropoff_datetime"] - frame["lpep_pickup_datetime"]).dt.total_seconds() / 60
    seconds = (change(frame["lpep_pickup_datetime"], minutes) * 60).round()
    frame["lpep_dropoff_datetime"] = frame["lpep_pickup_datetime"] + pd.to_timedelta(seconds, unit="s").astype(
        "timedelta64[us]"
    )
    frame.to_parquet(folder / name)
    return str(folder / name)


def means(home, zones: dict[str, int]) -> dict[str, float]:
    """Return the mean duration over the accepted rows that were known at the newest tick, by plain SQL."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.execute(
            """
            SELECT avg(minutes) FILTER (PULocationID = $pickup), avg(minutes) FILTER (DOLocationID = $dropoff),
                   avg(minutes) FILTER (PULocationID = $pickup AND DOLocationID = $dropoff)
            FROM read_parquet($files) WHERE event_timestamp < $tick AND label_timestamp <= $tick
            """,
            {
                "files": uris(home), "pickup": zones["PULocationID"], "dropoff": zones["DOLocationID"],
                "tick": NEWEST.replace(tzinfo=ZONE),
            },
        ).fetchone()  # fmt: skip
    return dict(zip([f"{name}_minutes_mean_28d" for name in ("pickup", "dropoff", "route")], found, strict=True))


def test_a_correction_of_old_data_arrives_online(copy, busy, simulated_days, tmp_path):
    from flows.featurize import featurize
    from flows.ingest import ingest

    asked = request(busy, NEWEST + timedelta(hours=1))
    before, wrong = stored(read(copy, asked)), means(copy, busy)
    assert {name: before[name] for name in wrong} == pytest.approx(wrong)

    (decided,) = ingest(revise(tmp_path, simulated_days, 3, lambda _, minutes: minutes * 1.5))
    assert (decided["status"], decided["revision"]) == ("accepted", 2)
    assert stored(read(copy, asked)) == before
    assert featurize()["partitions"] == 1
    after, right = stored(read(copy, asked)), means(copy, busy)
    assert {name: after[name] for name in right} == pytest.approx(right)
    assert all(right[name] > wrong[name] for name in right)
    for name in ("pickup", "dropoff", "route"):
        assert after[f"{name}_trips_28d"] == before[f"{name}_trips_28d"]


def test_an_older_window_materialized_again_changes_nothing(place, busy):
    asked = request(busy, NEWEST + timedelta(hours=1))
    before = read(place, asked)
    first = datetime(2024, 1, 2, tzinfo=ZONE).astimezone(UTC)
    feature_store.materialize(place, spec, first, first + timedelta(days=3))
    assert read(place, asked) == before


def test_materializing_into_the_future_is_refused_and_changes_nothing(place, busy):
    asked = request(busy, NEWEST + timedelta(hours=1))
    before, intervals = read(place, asked), materialized(place)
    with pytest.raises(RefusedError, match="in the future"):
        feature_store.materialize(place, spec, NEWEST.replace(tzinfo=ZONE), datetime.now(UTC) + timedelta(hours=1))
    assert (read(place, asked), materialized(place)) == (before, intervals)


def materialized(home) -> dict[str, list]:
    store = feature_store.open_store(home)
    return {name: store.get_feature_view(name).materialization_intervals for name in VIEWS}


def test_online_and_offline_are_the_same_value_by_value_for_random_requests(place):
    rng = random.Random(7)
    trips = simulate_day(date(2024, 1, 9), trips=2000)
    trips = trips[trips["lpep_pickup_datetime"] >= pd.Timestamp(NEWEST)]
    routes = trips[["PULocationID", "DOLocationID"]].sample(200, random_state=0).to_dict("records")
    routes += [{"PULocationID": rng.randint(1, 270), "DOLocationID": rng.randint(1, 270)} for _ in range(100)]
    seconds = 9 * 24 * 3600  # beyond what a value holds for
    rows = [
        request(route, NEWEST + timedelta(seconds=rng.randrange(seconds)), round(rng.uniform(0, 30), 2))
        for route in routes
    ]
    rng.shuffle(rows)
    found = read(place, *rows)

    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["lpep_pickup_datetime"] = pa.array(columns["lpep_pickup_datetime"], pa.timestamp("us"))
    moments = [row["lpep_pickup_datetime"].replace(tzinfo=ZONE) for row in rows]
    asked = pa.table({**columns, "event_timestamp": pa.array(moments, pa.timestamp("us", "UTC"))})
    offline = feature_store.historical(feature_store.open_store(place), spec, asked)

    names = feature_store.feature_names(feature_store.open_store(place), spec)
    assert len(names) == 28
    for name in names:
        expected = [None if value != value else value for value in offline[name].to_pylist()]
        assert found.columns[name] == expected, name
    for row, views in enumerate(found.unknown):
        assert views == [
            view for view in VIEWS if offline[f"{view.removesuffix('_zone')}_trips_28d"][row].as_py() is None
        ]
    # Of each kind there are many, so that the comparison means something.
    flagged = [len(views) for views in found.unknown]
    assert min(flagged.count(0), flagged.count(1), flagged.count(3)) >= 20


def test_rows_of_weekly_files_have_the_past_that_was_there_and_their_own_moment(place):
    """As if each week's file came a day after it: up to Tuesday what there is ends with the week before the last."""
    weekly = spec.model_copy(update={"partition_by": "week", "arrival": timedelta(days=1)})
    trips = pd.concat([simulate_day(date(2024, 1, day), trips=60) for day in (6, 8, 9)], ignore_index=True)
    local = trips["lpep_pickup_datetime"].dt.tz_localize(ZONE, ambiguous=True)
    there = [datetime(2024, 1, 8 if time.day == 9 else 1, tzinfo=ZONE) for time in local]
    fields = [*(field.name for field in spec.request)]
    asked = pa.Table.from_pandas(trips[fields], preserve_index=False)
    moments = pa.array(local.dt.tz_convert("UTC"), pa.timestamp("us", "UTC"))
    store, asked = feature_store.open_store(place), asked.append_column("event_timestamp", moments)
    found = feature_store.historical(store, weekly, asked, arrival.arrived(weekly, asked["event_timestamp"]))
    fresh = feature_store.historical(store, weekly, asked)
    at = asked.column_names.index("event_timestamp")
    then = feature_store.historical(
        store, spec, asked.set_column(at, "event_timestamp", pa.array(there, pa.timestamp("us", "UTC")))
    )
    names = feature_store.feature_names(store, spec)
    assert found.select(names).equals(then.select(names))
    assert found["event_timestamp"].equals(fresh["event_timestamp"])
    assert found["hour"].equals(fresh["hour"])
    assert found["pickup_trips_28d"].null_count > fresh["pickup_trips_28d"].null_count
    of_tuesday = [place for place, time in enumerate(local) if time.day == 9]
    assert found["pickup_trips_28d"].take(of_tuesday).null_count < len(of_tuesday)


def test_a_past_that_came_late_is_too_old_for_a_row_when_it_is_for_its_request(place):
    """Up to the 16th there is the past of Monday the 8th, which holds for seven days; online as well it has ended by then."""
    weekly = spec.model_copy(update={"partition_by": "week", "arrival": timedelta(days=2)})
    zones = {"PULocationID": 74, "DOLocationID": 42}
    end = datetime(2024, 1, 15, tzinfo=ZONE)
    moments = [end - timedelta(days=1), end, end + timedelta(seconds=1), end + timedelta(days=1)]
    rows = [request(zones, moment.replace(tzinfo=None), 2.0) for moment in moments]
    asked = pa.Table.from_pylist(rows).append_column("event_timestamp", pa.array(moments, pa.timestamp("us", "UTC")))
    asked = asked.set_column(0, asked.column_names[0], asked[0].cast(pa.timestamp("us")))
    there = arrival.arrived(weekly, asked["event_timestamp"])
    assert {moment.astimezone(ZONE).date() for moment in there.to_pylist()} == {date(2024, 1, 8)}
    found = feature_store.historical(feature_store.open_store(place), weekly, asked, there)
    assert [value is None for value in found["pickup_trips_28d"].to_pylist()] == [False, False, True, True]
    online = read(place, *(request(zones, moment.replace(tzinfo=None) + timedelta(days=1), 2.0) for moment in moments))
    # Online is the past of the 9th, which holds a day longer.
    assert [value is None for value in online.columns["pickup_trips_28d"]] == [False, False, True, True]


def joined(home) -> pd.DataFrame:
    """Return the training set of all days, the last one judging, as the training flow joins it."""
    accepted = ledger.list_partitions(database.connect(home), "taxi", "accepted")
    window = training_set.choose_window(spec, accepted, timedelta(days=1))
    files = [one.accepted_uri for one in accepted if one.id in window.partition_ids]
    rows = training_set.select_rows(spec, files, window)
    return feature_store.historical(feature_store.open_store(home), spec, rows).to_pandas()


def test_durations_that_became_known_later_change_no_training_row_before_that(place, copy, simulated_days, tmp_path):
    """Altered: all of 6 January, and of the 5th the trips that had not ended, or not been told of, at midnight."""
    from flows.featurize import featurize
    from flows.ingest import ingest

    late = pd.Timestamp(2024, 1, 5, 23, 15)
    # A label that leaves or enters the range of 1 to 60 minutes would change which rows there are.
    shorter = lambda times, minutes: minutes.where((times < late) | ~minutes.between(1.2, 60), minutes * 0.9)  # noqa: E731 (fits a line)
    for day in (5, 6):
        (decided,) = ingest(revise(tmp_path, simulated_days, day, shorter))
        assert (decided["status"], decided["revision"]) == ("accepted", 2)
    featurize()

    before, after = joined(place), joined(copy)
    times = before["lpep_pickup_datetime"]
    keys = [*spec.key, "event_timestamp"]
    pd.testing.assert_frame_equal(before[keys], after[keys])
    untouched = times < late
    assert untouched.sum() > 8000
    pd.testing.assert_frame_equal(before[untouched], after[untouched], check_exact=True)

    # The altered trips have other labels, and still the same features: none knew how it, or a trip beside it, would end.
    features = feature_store.feature_names(feature_store.open_store(place), spec)
    ignorant = times < pd.Timestamp(2024, 1, 7)
    altered = before.loc[ignorant & ~untouched, "label"] > after.loc[ignorant & ~untouched, "label"]
    assert altered.mean() > 0.95
    pd.testing.assert_frame_equal(before.loc[ignorant, features], after.loc[ignorant, features], check_exact=True)

    # From the next midnight on they are known: had nothing changed here, the test above would prove nothing.
    knowing = ~ignorant
    pd.testing.assert_series_equal(before.loc[knowing, "label"], after.loc[knowing, "label"], check_exact=True)
    changed = before.loc[knowing, "pickup_minutes_mean_28d"] > after.loc[knowing, "pickup_minutes_mean_28d"]
    assert changed.mean() > 0.9


def test_an_online_store_that_is_gone_is_written_anew_from_the_feature_tables(copy, busy):
    from flows.featurize import featurize

    asked = request(busy, NEWEST)
    before = read(copy, asked)
    assert before.unknown == [[]]
    for file in (copy.home / "feast").glob("online.db*"):
        file.unlink()
    assert featurize()["partitions"] == 0
    names = feature_store.feature_names(feature_store.open_store(copy), spec)
    assert OnlineFeatures(copy, spec)(names, [asked]).unknown == [
        VIEWS
    ]  # as the service reads, before anything was written
    assert read(copy, asked).unknown == [VIEWS]
    featurize(again=True)
    assert read(copy, asked) == before


def wrong(home) -> dict[str, str]:
    return {one.part: one.mend for one in doctor.examine(home, spec) if one.state == "bad"}


def test_what_is_damaged_is_named_and_made_anew(copy, busy):
    from flows.featurize import featurize

    asked = request(busy, NEWEST)
    before = stored(read(copy, asked))
    assert wrong(copy) == {}
    table = next((copy.features("taxi") / "route").glob("*.parquet"))
    table.write_bytes(table.read_bytes()[:-200])
    database_file = copy.home / "feast" / "online.db"
    for file in (copy.home / "feast").glob("online.db-*"):
        file.unlink()
    database_file.write_bytes(b"\0" * 65536 + database_file.read_bytes()[65536:])
    again = "`evergreen featurize --again --model taxi`"
    assert {part: mend.startswith(again) for part, mend in wrong(copy).items()} == {
        "feature tables": True, "online store": True,
    }  # fmt: skip
    featurize(again=True)
    assert wrong(copy) == {}
    assert stored(read(copy, asked)) == pytest.approx(before)
    shutil.rmtree(copy.features("taxi") / "route")
    featurize(again=True)
    assert stored(read(copy, asked)) == pytest.approx(before)


def test_an_expression_that_was_changed_is_computed_anew_for_all_ticks(copy, busy, monkeypatch):
    from flows.featurize import featurize
    from flows.models.taxi.features import TABLES

    asked = request(busy, NEWEST)
    before = stored(read(copy, asked))
    assert featurize()["ticks"] == 0
    known = TABLES["pickup_zone"]
    monkeypatch.setitem(
        TABLES, "pickup_zone", lambda rows, ticks: known(rows.mutate(minutes=rows.minutes * 2.0), ticks)
    )
    (change,) = feature_plan.recomputed(spec, run_records.since_completed(database.connect(copy), "taxi", "featurize"))
    assert change.what == "expressions of view pickup_zone"
    assert featurize()["ticks"] >= 7
    after = stored(read(copy, asked))
    assert after["pickup_minutes_mean_28d"] == pytest.approx(2.0 * before["pickup_minutes_mean_28d"])
    assert after["dropoff_minutes_mean_28d"] == pytest.approx(before["dropoff_minutes_mean_28d"])
    assert featurize()["ticks"] == 0


def test_a_change_of_an_expression_that_broke_off_and_was_taken_back_leaves_no_value(copy, busy, monkeypatch):
    from flows.featurize import featurize
    from flows.models.taxi.features import TABLES

    asked = request(busy, NEWEST)
    before = stored(read(copy, asked))
    assert featurize()["ticks"] == 0
    known = TABLES["pickup_zone"]
    with monkeypatch.context() as changed:
        changed.setitem(
            TABLES, "pickup_zone", lambda rows, ticks: known(rows.mutate(minutes=rows.minutes * 2.0), ticks)
        )
        changed.setattr(feature_store, "_told_of_redis", lambda _: (_ for _ in ()).throw(RefusedError("away")))
        with pytest.raises(RefusedError, match="away"):
            featurize()
    assert featurize()["ticks"] >= 7
    assert stored(read(copy, asked)) == pytest.approx(before)
    rows = pa.table(
        {**{name: [value] for name, value in asked.items()}, "event_timestamp": [NEWEST.replace(tzinfo=ZONE)]}
    )
    offline = feature_store.historical(feature_store.open_store(copy), spec, rows)
    assert offline["pickup_minutes_mean_28d"][0].as_py() == pytest.approx(before["pickup_minutes_mean_28d"])
    assert featurize()["ticks"] == 0
