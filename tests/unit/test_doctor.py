"""What the doctor says of files that are not where the ledger names them."""

import shutil
import sqlite3
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from types import SimpleNamespace

import pytest

from flows import database, ledger
from flows.lookup import load_model
from flows.settings import Settings
from flows.steps import online_file, serving
from flows.steps.doctor import examine


@pytest.mark.parametrize(("moved", "word"), [(True, "moved?"), (False, "ingest their source again")])
def test_files_that_are_gone_and_a_home_that_was_moved_are_told_apart(tmp_path, moved, word):
    first = Settings(home=tmp_path / "home")
    first.home.mkdir()
    engine = database.connect(first)
    landed = ledger.add_partition(
        engine, model="taxi", key="2024-01-01", digest="d", source="s", uri=str(first.home / "lake" / "gone.parquet"), rows=1
    )  # fmt: skip
    ledger.decide_partition(engine, landed.id, "accepted", accepted_uri=None, accepted_rows=1, rejected_rows=0)
    engine.dispose()
    settings = Settings(home=first.home.rename(tmp_path / "moved")) if moved else first
    (found,) = (one for one in examine(settings, load_model("taxi", settings)) if one.part == "lake")
    assert str(first.home / "lake") in found.found
    assert word in found.mend


@pytest.mark.parametrize(("free", "word"), [(0, "is full: free some space"), (2**40, "restore a backup")])
def test_a_database_that_cannot_be_read_is_laid_to_a_full_disk_where_it_is_one(tmp_path, monkeypatch, free, word):
    settings = Settings(home=tmp_path)
    (tmp_path / "ledger.db").write_bytes(b"no database " * 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    (found,) = (one for one in examine(settings, load_model("taxi", settings)) if one.part == "ledger")
    assert found.state == "bad"
    assert word in found.mend


def test_an_online_store_that_cannot_be_looked_at_is_not_taken_for_damaged_and_stays(tmp_path, monkeypatch):
    settings = Settings(home=tmp_path)
    path = online_file.path_of(settings)
    path.parent.mkdir()
    path.write_bytes(b"no database " * 1000)

    def full(*_args, **_options):
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as away:
        away.setattr(sqlite3, "connect", full)
        with pytest.raises(sqlite3.OperationalError):
            online_file.remove_damaged(settings)
    assert path.exists()
    online_file.remove_damaged(settings)
    assert not path.exists()


def test_a_ledger_that_was_lost_is_not_taken_for_a_new_one(tmp_path):
    settings = Settings(home=tmp_path)
    database.connect(settings).dispose()
    raw = settings.lake("taxi") / "raw"
    raw.mkdir(parents=True)
    (found,) = (one for one in examine(settings, load_model("taxi", settings)) if one.part == "lake")
    assert found.state == "good"
    (raw / "2024-01-01-0123456789abcdef.parquet").write_bytes(b"PAR1")
    (found,) = (one for one in examine(settings, load_model("taxi", settings)) if one.part == "lake")
    assert found.state == "bad"
    assert "1 files of partitions" in found.found
    assert "Restore a backup" in found.mend


def test_an_mlflow_server_that_hangs_is_not_waited_for(tmp_path):
    ended = threading.Event()

    class Hanging(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/version":  # which needs no database
                ended.wait(60)
            with suppress(OSError):  # who asked has gone
                self.send_response(200)
                self.end_headers()
                self.wfile.write(version("mlflow").encode())

        do_POST = do_GET  # noqa: N815 (http.server calls it so)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hanging)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = Settings(home=tmp_path, mlflow_tracking_uri=f"http://127.0.0.1:{server.server_port}")
    begun = time.monotonic()
    try:
        (found,) = (one for one in examine(settings, load_model("taxi", settings)) if one.part == "MLflow")
    finally:
        ended.set()
        server.shutdown()
    assert found.state == "bad"
    assert time.monotonic() - begun < 30


def test_a_ledger_that_is_away_is_not_laid_to_a_redis_that_answers(tmp_path, monkeypatch):
    answers = {"server": {"redis_version": "7"}, "memory": {"maxmemory_policy": "noeviction"}}
    redis = SimpleNamespace(info=answers.get, dbsize=lambda: 9, scan_iter=lambda **_: iter([b"1"]), close=lambda: None)
    monkeypatch.setattr("redis.Redis.from_url", lambda *_, **__: redis)
    settings = Settings(
        home=tmp_path,
        ledger_url="postgresql+psycopg://u:p@127.0.0.1:1/ledger",
        online_store_url="redis://127.0.0.1:1/1",
    )
    found = {one.part: one.state for one in examine(settings, load_model("taxi", settings))}
    assert (found["ledger"], found["online store"]) == ("bad", "good")


def test_a_service_that_waits_for_a_first_champion_is_not_broken(tmp_path, monkeypatch):
    home = Settings(home=tmp_path)
    asked = {"url": "http://127.0.0.1:8000", "ready": False, "version": None}
    monkeypatch.setattr(serving, "find", lambda *_: asked)

    def told():
        found = examine(home, load_model("taxi", home))
        return [(one.state, one.found) for one in found if one.part == "service"]

    waits = [("warning", "http://127.0.0.1:8000 waits for a champion, none is there yet")]
    assert told() == waits
    engine = database.connect(home)
    assert told() == waits
    ledger.promote(
        engine, model="taxi", expected=None, kind="promote", version=1, run_id="r", model_uri="u", digest="d", who="me",
        why="", evidence={},
    )  # fmt: skip
    assert told() == [("bad", "http://127.0.0.1:8000 is not ready")]
