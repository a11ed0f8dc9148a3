"""On a team's servers: S3 refuses, is slow or away while a day is landed and judged; Redis is away, then empty."""

import threading
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from ingest_parts import Place, clean_day, write
from online_parts import TICK, make_online_store
from serving_parts import eventually
from team_parts import stores

from deployments.service.features import OnlineFeatures
from flows import database, ledger
from flows.errors import UnavailableError
from flows.models.taxi.spec import spec
from flows.steps import feature_store, s3, storage
from flows.steps.doctor import examine
from flows.steps.servers_health import online_store


@pytest.fixture(scope="module")
def team(tmp_path_factory, postgres, s3):
    with stores(tmp_path_factory.mktemp("team"), postgres, s3, "away") as team:
        yield team


class Gate(ThreadingHTTPServer):
    """Passes requests on to an S3 server; each answer takes ``slow``.

    For ``shut`` seconds from the first write on, writes are answered by 503.
    """

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.behind, self.shut, self.slow, self.refused = behind, 0.0, 0.0, 0
        self.since: float | None = None

    def is_shut(self) -> bool:
        if self.shut and self.since is None:
            self.since = time.monotonic()
        return self.since is not None and time.monotonic() - self.since < self.shut


class Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(self.server.slow)
        if self.command != "GET" and self.server.is_shut():
            self.server.refused += 1
            self.answer(503, b"<Error><Code>SlowDown</Code><Message>later</Message></Error>", {})
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() != "content-length"}
        found = httpx.request(self.command, self.server.behind + self.path, content=body, headers=headers, timeout=60)
        self.answer(found.status_code, found.content, found.headers)

    def answer(self, status, body, headers) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "content-encoding", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = headers.get("content-length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):  # who asked has gone
            self.wfile.write(b"" if self.command == "HEAD" else body)

    def log_message(self, *arguments) -> None:
        """Say nothing."""


for verb in ("GET", "HEAD", "PUT", "POST", "DELETE"):
    setattr(Passing, f"do_{verb}", Passing.pass_on)


@contextmanager
def gate_before(s3):
    gate = Gate(s3)
    threading.Thread(target=gate.serve_forever, daemon=True).start()
    try:
        yield gate, {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{gate.server_port}"}
    finally:
        gate.shutdown()
        gate.server_close()


@pytest.fixture
def place(team, s3, postgres, tmp_path):
    """A host behind a gate before S3, with a ledger of its own, and a day to land."""
    with gate_before(s3) as (gate, address):
        database_url = {"EVERGREEN_LEDGER_URL": postgres.url(tmp_path.name)}
        with team.host(tmp_path / "home", address | database_url):
            yield Place(tmp_path / "home"), gate, write(clean_day(), tmp_path / "day.parquet")


@pytest.mark.parametrize("seconds", [1, pytest.param(30, marks=pytest.mark.long)])
def test_a_bucket_that_refuses_writes_for_a_while_is_waited_for(place, seconds):
    here, gate, day = place
    gate.shut = seconds
    (partition,) = here.ingest(day)
    assert gate.refused > 0
    assert (partition.status, partition.revision) == ("accepted", 1)
    assert storage.missing([partition.uri, partition.accepted_uri, partition.docs_uri]) == []


def test_a_slow_bucket_is_waited_for(place):
    here, gate, day = place
    gate.slow = 0.1
    assert here.ingest(day)[0].status == "accepted"


def test_a_bucket_that_stays_away_is_a_clean_failure_and_the_next_run_lands_the_day(place, monkeypatch):
    here, gate, day = place
    monkeypatch.setattr(s3, "PATIENCE_SECONDS", 1.0)
    gate.shut = float("inf")
    with pytest.raises(UnavailableError, match=r"cannot be reached .*`evergreen doctor`"):
        here.ingest(day)
    assert ledger.list_partitions(here.engine, "taxi") == []
    assert not [path for path in here.settings.lake("taxi").rglob("*") if path.is_file()]
    gate.shut = 0.0
    (partition,) = here.ingest(day)
    assert (partition.status, partition.revision) == ("accepted", 1)


def test_the_doctor_does_not_wait_for_a_bucket_that_hangs_and_blames_nothing_else(place, monkeypatch):
    here, gate, day = place
    here.ingest(day)
    monkeypatch.setattr(s3, "GLANCE_SECONDS", 1.0)
    gate.slow = 30.0
    began = time.monotonic()
    found = {one.part: one for one in examine(here.settings, spec)}
    assert time.monotonic() - began < 30
    assert [found[part].state for part in ("storage", "ledger", "lake")] == ["bad", "good", "bad"]
    assert found["lake"].mend == "mend the storage first"


def test_a_redis_that_is_away_is_told_and_one_that_was_emptied_is_written_anew(team, tmp_path):
    with team.host(tmp_path / "home") as settings:
        make_online_store(settings)
        names = feature_store.feature_names(feature_store.open_store(settings), spec)
        local = TICK.replace(tzinfo=None) - timedelta(hours=4)  # an hour after midnight in New York
        row = {"lpep_pickup_datetime": local, "PULocationID": 74, "DOLocationID": 42, "trip_distance": 2.0}
        engine = database.connect(settings)
        known = ledger.add_partition(engine, model="taxi", key="k", digest="0" * 64, source="s", uri="s3://x/y", rows=1)
        ledger.decide_partition(engine, known.id, "accepted", first_event=TICK, last_event=TICK)
        ledger.mark_featurized(engine, [known.id], TICK)
        reader = OnlineFeatures(settings, spec)
        before = reader(names, [row])
        assert before.unknown == [["route"]]

        def told():
            (line,) = online_store(settings, spec, engine)
            return line

        team.redis.stop()
        assert reader(names, [row]) == before  # as it was read last
        assert "cannot be read" in reader.away()
        with pytest.raises(UnavailableError, match="online features of taxi cannot be read"):
            OnlineFeatures(settings, spec)(names, [row])  # one that never read it has nothing
        assert "start it" in told()[3]
        span = TICK - timedelta(days=1), TICK + timedelta(seconds=1)
        with pytest.raises(UnavailableError, match="takes no values"):
            feature_store.materialize(settings, spec, *span)
        team.redis.start()
        eventually(lambda: len(reader(names, [row]).unknown[0]) == 3)
        assert "evergreen featurize --again" in told()[3]
        feature_store.materialize(settings, spec, *span)
        assert reader(names, [row]) == before
        assert told()[1] == "good"
