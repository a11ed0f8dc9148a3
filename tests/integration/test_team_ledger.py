"""The ledger on a real Postgres: migrated from its first schema with data in it, locks across hosts, a restart."""

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from alembic import command

from flows import causes, database, ledger, run_records, trials
from flows.engines import make_engine
from flows.errors import UnavailableError
from flows.locks import locked
from flows.settings import Settings

ROW = {
    "model": "taxi", "key": "2024-01-01", "digest": "a" * 64, "source": "file", "uri": "s3://lake/one.parquet", "rows": 5,
}  # fmt: skip


@pytest.fixture
def host(postgres, tmp_path, request):
    return Settings(home=tmp_path / "host", ledger_url=postgres.url(request.node.name[:60]))


def test_a_first_schema_with_data_in_it_is_migrated_and_loses_nothing(host):
    engine = make_engine(host.ledger)
    config = database._alembic()
    with engine.connect() as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    first = sa.Table(
        "partitions", sa.MetaData(), autoload_with=engine
    )  # as it was, without the columns of later schemas
    told = {"revision": 1, "status": "landed", "landed_at": database.now(), "accepted_rows": 0, "rejected_rows": 0}
    with engine.begin() as connection:
        connection.execute(first.insert().values(ROW | told | {"reasons": [], "statistics": {}, "validation": {}}))
        partition = ledger.Partition.model_validate(dict(connection.execute(sa.select(first)).mappings().one()))
    run_records.start(engine, run_id="first", model="taxi", flow="ingest", reason="", executor="me")
    made = ledger.promote(
        engine, model="taxi", expected=None, kind="promote", version=1, run_id="r", model_uri="s3://lake/m", digest="0" * 64,
        who="me", why="first", evidence={"error": 1.5},
    )  # fmt: skip
    with pytest.raises(sa.exc.ProgrammingError):
        causes.listed(engine, "taxi")

    engine = database.connect(host)
    assert ledger.list_partitions(engine, "taxi") == [partition]
    assert ledger.champion(engine, "taxi") == made
    assert [run.id for run in run_records.under_way(engine, "taxi")] == ["first"]
    assert causes.listed(engine, "taxi") == trials.listed(engine, "taxi") == []
    assert database.revisions(engine)[0] == database.revisions(engine)[1]


def test_what_is_written_reads_back_in_utc_and_the_same_bytes_again_are_one_partition(host):
    engine = database.connect(host)
    first, again = (ledger.add_partition(engine, **ROW) for _ in range(2))
    assert first == again
    event = datetime(2024, 1, 1, 12, tzinfo=UTC)
    done = ledger.decide_partition(engine, first.id, "accepted", first_event=event, last_event=event)
    assert (done.first_event, done.first_event.utcoffset().total_seconds()) == (event, 0)
    assert abs((done.decided_at - datetime.now(UTC)).total_seconds()) < 60


def test_many_writers_of_one_row_take_turns_and_none_is_lost(host):
    engine = database.connect(host)
    errors, turns = [], 8

    def work(number):
        try:
            for turn in range(turns):
                ledger.add_partition(engine, **{**ROW, "digest": f"{number}-{turn}"})
                causes.record(engine, model="taxi", kind="schedule", event="e", reason="r")
        except Exception as error:  # noqa: BLE001 (shown below)
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert [one.revision for one in ledger.list_partitions(engine, "taxi")] == list(range(1, 8 * turns + 1))
    assert len(causes.listed(engine, "taxi")) == 1  # a state that lasts is one cause


HOLDER = """
import sys
from pathlib import Path
from flows.locks import locked
from flows.settings import Settings
with locked(Settings(home=Path(sys.argv[1])), "work", 30):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_held_across_hosts_and_freed_by_the_death_of_its_holder(host, tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "other")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"EVERGREEN_LEDGER_URL": host.ledger_url},
    )  # fmt: skip
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UnavailableError, match="still at work on another machine"), locked(host, "work", 1):
            pass
        with locked(host, "other work", 1):
            pass
    finally:
        other.kill()
        other.wait()
    with locked(host, "work", 30):
        pass


def test_a_restart_of_postgres_is_waited_for(host, postgres):
    engine = database.connect(host)
    partition = ledger.add_partition(engine, **ROW)
    postgres.stop()
    found = []
    reader = threading.Thread(target=lambda: found.append(ledger.list_partitions(engine, "taxi")))
    try:
        reader.start()
    finally:
        postgres.start()
    reader.join(60)
    assert found == [[partition]]
    with locked(host, "work", 30):  # a lock whose session is ended under it
        postgres.stop()
        postgres.start()
    ledger.decide_partition(engine, partition.id, "accepted")
    assert ledger.list_partitions(engine, "taxi", "accepted")


def test_a_wrong_password_is_said_at_once_and_not_repeated_in_the_message(host):
    wrong = sa.make_url(host.ledger).set(password="Wrong-word-99").render_as_string(hide_password=False)
    with pytest.raises(UnavailableError) as refused:
        database.connect(Settings(home=host.home, ledger_url=wrong))
    assert "password authentication failed" in str(refused.value)
    assert "evergreen doctor" in str(refused.value)
    assert "Wrong-word-99" not in str(refused.value)


def test_whoever_has_no_patience_is_told_at_once_of_a_ledger_that_is_away(tmp_path, monkeypatch):
    def slept(seconds):
        raise AssertionError("it waits")

    monkeypatch.setattr("flows.engines.time.sleep", slept)
    with pytest.raises(UnavailableError):
        database.connect(Settings(home=tmp_path, ledger_url="postgresql+psycopg://e@127.0.0.1:1/e"), patience=0)
    assert not list(tmp_path.iterdir())


def test_a_run_whose_figures_are_no_numbers_is_recorded(host):
    engine = database.connect(host)
    run_records.start(engine, run_id="r", model="taxi", flow="train", reason="", executor="me")
    run_records.end(engine, "r", "completed", {"error": float("inf"), "more": [float("nan"), {"x": 1.5}]})
    (run,) = run_records.newest(engine, "taxi")
    assert (run.state, run.summary) == ("completed", {"error": None, "more": [None, {"x": 1.5}]})
