"""Online features equal offline features, value by value, for 10,000 random requests of the real taxi month."""

import random
import sqlite3
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pytest
from serving_parts import eventually
from training_parts import opened

from deployments.service.features import OnlineFeatures
from flows.errors import UnavailableError
from flows.models.taxi.spec import spec
from flows.steps import feature_store, online_last
from flows.steps.online_plan import plan_path, read_plan
from flows.steps.online_read import OnlineReader

ZONE = ZoneInfo(spec.source.time_zone)
REQUESTS = 10_000
NEWEST = datetime(2022, 2, 1)  # the newest tick, local: the midnight after the month


@pytest.fixture(scope="module")
def place(tmp_path_factory, taxi_month: Path, prefect_api):
    """A home with the month ingested and featurized."""
    from flows.featurize import featurize
    from flows.ingest import ingest

    with opened(tmp_path_factory.mktemp("month") / "home", prefect_api, '["flows.models"]') as settings:
        ingest(str(taxi_month), partition_by="month")
        featurize()
        yield settings


@pytest.fixture(scope="module")
def store(place):
    return feature_store.open_store(place)


@pytest.fixture(scope="module")
def names(store):
    return feature_store.feature_names(store, spec)


@pytest.fixture(scope="module")
def requests(taxi_month):
    """Trips of the month, shuffled, asked for at random moments while the newest values hold and after, to the second on
    both ends; some with zones that nobody knows. The store holds the newest values alone: of moments before them it says
    nothing, where training has the values of that time."""
    rng = random.Random(11)
    with duckdb.connect() as connection:
        trips = connection.execute(
            "SELECT PULocationID::BIGINT, DOLocationID::BIGINT, trip_distance FROM read_parquet($file) "
            "WHERE trip_distance BETWEEN 0 AND 100 ORDER BY hash(lpep_pickup_datetime, PULocationID, trip_distance) "
            f"LIMIT {REQUESTS}",
            {"file": str(taxi_month)},
        ).fetchall()
    rows = []
    for pickup, dropoff, miles in trips:
        chance = rng.random()
        at = NEWEST + timedelta(seconds=rng.randrange(9 * 86400), microseconds=rng.randrange(10**6))
        if chance < 0.02:
            at = NEWEST + timedelta(seconds=rng.choice([0, 1, 7 * 86400 - 1, 7 * 86400, 7 * 86400 + 1]))
        if chance > 0.95:
            pickup = rng.randint(266, 9999)
        rows.append(
            {"lpep_pickup_datetime": at, "PULocationID": pickup, "DOLocationID": dropoff, "trip_distance": miles}
        )
    return rows


def offline(store, rows):
    """Return what training would have seen at the moments of some requests."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["lpep_pickup_datetime"] = pa.array(columns["lpep_pickup_datetime"], pa.timestamp("us"))
    moments = [row["lpep_pickup_datetime"].replace(tzinfo=ZONE) for row in rows]
    asked = pa.table({**columns, "event_timestamp": pa.array(moments, pa.timestamp("us", "UTC"))})
    return feature_store.historical(store, spec, asked)


def nothing(value):
    """Return None for what is missing: NaN equals NaN, and is the same as null."""
    return None if value is None or value != value else value


def test_ten_thousand_requests_see_online_what_training_would_have_seen(place, store, names, requests):
    found = OnlineFeatures(place, spec)(names, requests)
    expected = offline(store, requests)
    assert len(requests) == REQUESTS
    assert len(names) == 28
    for name in names:
        online, training = map(nothing, found.columns[name]), map(nothing, expected[name].to_pylist())
        different = [
            (row, one, other) for row, (one, other) in enumerate(zip(online, training, strict=True)) if one != other
        ]
        assert not different, (name, len(different), different[:3])
    flagged = [len(views) for views in found.unknown]
    assert min(flagged.count(0), flagged.count(2), flagged.count(3)) >= 100  # of each kind there are many


def test_the_direct_read_is_feasts_own_one_by_one_and_together(place, store, names, requests):
    reader = OnlineReader(read_plan(place, spec), spec)
    some = requests[:1000]
    expected = feature_store.read_online(store, spec, names, some)
    assert reader(names, some) == expected
    for index, row in enumerate(some[:300]):
        one = reader(names, [row])
        assert {name: values[0] for name, values in one.columns.items()} == {
            name: values[index] for name, values in expected.columns.items()
        }
        assert one.unknown == [expected.unknown[index]]


def test_only_what_is_asked_for_is_returned(place, requests):
    found = OnlineFeatures(place, spec)(["hour", "route_trips_28d", "no such feature"], requests[:2])
    assert list(found.columns) == ["hour", "route_trips_28d"]


def test_a_plan_that_is_gone_is_made_again_from_the_registry(place, names, requests):
    path = plan_path(place, spec)
    kept = path.read_bytes()
    before = OnlineFeatures(place, spec)(names, requests[:5])
    path.unlink()
    reader = OnlineFeatures(place, spec)
    assert not reader.is_quick
    assert reader(names, requests[:5]) == before
    assert reader.is_quick
    assert path.read_bytes() == kept


def test_a_function_that_is_not_the_registered_one_is_refused(place, names, requests):
    path = plan_path(place, spec)
    kept = path.read_text()
    plan = read_plan(place, spec)
    other = plan.computed[0].model_copy(update={"text_sha256": "0" * 64})
    path.write_text(plan.model_copy(update={"computed": (other,)}).model_dump_json())
    try:
        with pytest.raises(UnavailableError, match="is not as it was when feature view trip_moment was registered"):
            OnlineFeatures(place, spec)(names, requests[:1])
    finally:
        path.write_text(kept)


@contextmanager
def damaged(database):
    """Put a file that is no database in its place, then itself again."""
    kept = database.parent / "kept"
    kept.mkdir()
    for path in database.parent.glob(f"{database.name}*"):  # with what SQLite lays beside it
        path.rename(kept / path.name)
    database.write_bytes(b"no database" * 1000)
    try:
        yield
    finally:
        for path in database.parent.glob(f"{database.name}*"):
            path.unlink()
        for path in kept.iterdir():
            path.rename(database.parent / path.name)


def test_a_store_that_fails_is_answered_by_what_was_read_last_and_told(place, names, requests, monkeypatch):
    reader, rows = OnlineFeatures(place, spec), requests[:50]
    before = reader(names, rows)
    other = next(row for row in requests if row["PULocationID"] not in {one["PULocationID"] for one in rows})
    with damaged(Path(read_plan(place, spec).database)):
        assert reader(names, rows) == before
        assert reader(names, rows[:1]).columns == {name: values[:1] for name, values in before.columns.items()}
        assert "cannot be read" in reader.away()
        unseen = reader(names, [other])
        assert {*unseen.unknown[0]} == {*spec.entities}
        assert unseen.columns["hour"] != [None]  # computed of the request
    monkeypatch.setattr(online_last, "AGAIN_SECONDS", 0.0)
    eventually(lambda: reader(names, rows) == before and reader.away() is None)


def test_a_store_that_is_away_is_read_on_and_one_put_in_its_place_is_opened(place, names, requests, tmp_path):
    import shutil

    database = tmp_path / "online.db"
    shutil.copy(read_plan(place, spec).database, database)
    reader = OnlineReader(read_plan(place, spec).model_copy(update={"database": str(database)}), spec)
    before = reader(names, requests[:3])
    database.rename(tmp_path / "away.db")
    assert reader(names, requests[:3]) == before
    shutil.copy(tmp_path / "away.db", database)

    with sqlite3.connect(database) as connection:
        connection.execute('DELETE FROM "evergreen_route"')
    assert all("route" in views for views in reader(names, requests[:3]).unknown)
