"""The stores of a team: features read from Redis without Feast, files from the bucket, and what the doctor says of them."""

import random
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from online_parts import make_online_store
from team_parts import SECRETS, client, stores

from deployments.service.features import OnlineFeatures
from flows import database, ledger
from flows.engines import make_engine
from flows.errors import UnavailableError, UsageError
from flows.models.taxi.spec import spec
from flows.settings import Settings
from flows.steps import feature_store, storage
from flows.steps.backup import backup, restore
from flows.steps.doctor import examine
from flows.steps.online_plan import plan_path, read_plan
from flows.steps.servers_health import bucket, online_store

NOW = datetime(2022, 1, 25, 1)  # local, an hour after TICK


@pytest.fixture(scope="module")
def team(tmp_path_factory, postgres, s3):
    with stores(tmp_path_factory.mktemp("team"), postgres, s3, "stores") as team:
        yield team


@pytest.fixture(scope="module")
def place(team, tmp_path_factory):
    """A host whose features are registered and materialized."""
    with team.host(tmp_path_factory.mktemp("host")) as settings:
        make_online_store(settings)
        yield settings


def requests(count):
    rng = random.Random(5)
    zones = [74, 42, 1, 9]
    return [
        {
            "lpep_pickup_datetime": NOW + timedelta(hours=rng.choice([-2, 0, 5, 24 * 8, 24 * 40])),
            "PULocationID": rng.choice(zones), "DOLocationID": rng.choice(zones), "trip_distance": 2.5,
        }
        for _ in range(count)
    ]  # fmt: skip


def changed(settings, **more):
    return Settings(**(settings.model_dump() | more))


def found(settings, part):
    return next(one for one in examine(settings, spec) if one.part == part)


def test_the_direct_read_of_redis_is_feasts_own_one_by_one_and_together(place):
    store = feature_store.open_store(place)
    names, rows = feature_store.feature_names(store, spec), requests(200)
    reader = OnlineFeatures(place, spec)
    together = reader(names, rows)
    assert together == feature_store.read_online(store, spec, names, rows)
    assert any(not views for views in together.unknown) or any(len(views) < 3 for views in together.unknown)
    assert reader._store is None  # Feast was not asked
    assert not reader.is_quick  # it is a call over the network
    for index, row in enumerate(rows[:20]):
        one = reader(names, [row])
        assert [one.columns[name][0] for name in names] == [together.columns[name][index] for name in names]
        assert one.unknown == [together.unknown[index]]


def test_a_host_that_applied_nothing_reads_by_the_plan_of_the_bucket_and_learns_of_a_new_one(team, place, tmp_path):
    names = feature_store.feature_names(feature_store.open_store(place), spec)
    with team.host(tmp_path / "other") as other:
        reader = OnlineFeatures(other, spec)
        assert reader(names, requests(3)) == OnlineFeatures(place, spec)(names, requests(3))
        assert reader._store is None
        text = plan_path(other, spec).read_text()
        assert not [name for name, word in SECRETS.items() if word in text]
        plan = read_plan(other, spec)
        newer = plan.model_copy(update={"stored": plan.stored[:1]}).model_dump_json()
        key = f"stores/feast/online-{spec.name}.json"
        kept = client(team.environment["AWS_ENDPOINT_URL"])
        kept.put_object(Bucket="evergreen", Key=key, Body=newer.encode())
        try:
            OnlineFeatures(other, spec).refresh()
            assert read_plan(other, spec) == plan.model_copy(update={"stored": plan.stored[:1]})
        finally:
            kept.put_object(Bucket="evergreen", Key=key, Body=text.encode())


def test_a_file_is_in_the_bucket_before_it_is_here_and_is_fetched_where_it_is_not(team, place, tmp_path):
    path = place.lake("taxi") / "raw" / "one.bin"
    with storage.writing(place, path) as temporary:
        temporary.write_bytes(b"one" * 1000)
    uri = storage.address(place, path)
    with team.host(tmp_path / "other") as other:
        assert storage.missing([uri, f"{uri}.gone"]) == [f"{uri}.gone"]
        assert Path(storage.local(other, uri)).read_bytes() == b"one" * 1000
        with pytest.raises(UnavailableError, match=r"one\.bin\.gone is not there"):
            storage.local(other, f"{uri}.gone")
    broken = path.with_name("two.bin")
    with suppress(RuntimeError), storage.writing(place, broken) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert storage.missing([storage.address(place, broken)])
    assert not broken.exists()


@pytest.mark.parametrize("uri", ["s3://evergreen/stores/../../../../etc/x", "s3://other/../../../x"])
def test_an_address_that_leads_out_of_the_home_is_refused(place, uri):
    with pytest.raises(UnavailableError, match="is no name of a file"):
        storage.local(place, uri)


def test_the_doctor_names_each_server_without_its_password(place):
    database.connect(place)
    findings = examine(place, spec)
    assert {one.part for one in findings} >= {"storage", "ledger", "MLflow", "feature store", "online store"}
    assert {one.state for one in findings if one.part not in ("home", "Prefect", "service")} == {"good"}
    text = " ".join(f"{one.found} {one.mend}" for one in findings)
    assert "postgresql 1" in text
    assert not [name for name, word in SECRETS.items() if word in text]


def test_a_redis_that_nothing_was_written_to_yet_is_no_fault_before_there_is_a_ledger(place, tmp_path):
    fresh = changed(place, online_store_url=place.online_store_url.removesuffix("/0") + "/5")
    engine = make_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    assert [state for _, state, *_ in online_store(fresh, spec, engine)] == ["good"]
    engine.dispose()


def test_an_emptied_redis_is_told_though_prefect_keeps_keys_of_its_own_in_it(place, monkeypatch):
    from redis import Redis

    monkeypatch.setattr(ledger, "newest_featurized", lambda *_: NOW)
    emptied, engine = (
        changed(place, online_store_url=place.online_store_url.removesuffix("/0") + "/6"),
        database.connect(place),
    )
    with Redis.from_url(emptied.online_store_url) as client:
        client.set("prefect:message:1", "x")
    ((_, state, told, mend),) = online_store(emptied, spec, engine)
    assert (state, "holds no features" in told) == ("bad", True)
    assert "featurize --again" in mend
    assert [one.state for one in online_store(place, spec, engine)] == ["good"]


def test_the_doctor_says_how_to_mend_a_server_that_is_wrong(place, monkeypatch):
    elsewhere = changed(place, storage_url="s3://no-such-bucket")
    assert "make the bucket" in "".join(*bucket(elsewhere))
    closed = changed(place, ledger_url="postgresql+psycopg://evergreen@127.0.0.1:1/evergreen")
    assert "EVERGREEN_LEDGER_URL" in found(closed, "ledger").mend
    address = place.online_store_url.replace(SECRETS["redis"], "another")
    assert "mend the password" in "".join(*online_store(changed(place, online_store_url=address), spec, None))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert "AWS_ENDPOINT_URL" in "".join(*bucket(place))


def test_backup_and_restore_of_a_team_name_what_keeps_each_part(place, tmp_path):
    for call in (backup, restore):
        with pytest.raises(UsageError, match=r"pg_dump.*bucket.*featurize --again") as refused:
            call(place, tmp_path / "backup.tar")
        assert not [name for name, word in SECRETS.items() if word in str(refused.value)]
    assert not (tmp_path / "backup.tar").exists()
