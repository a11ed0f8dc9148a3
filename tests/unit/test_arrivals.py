"""The landing folder: each file is taken once as it was, and again when it has changed; the watcher tells once it is whole."""

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from deployments import deploy, watch
from flows import arrivals, database, events, outbox


@pytest.fixture
def engine(home):
    return database.connect(home)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "landing"
    made.mkdir()
    return made


def names(found):
    return [Path(one.path).name for one in found]


def test_a_file_is_new_until_it_was_taken_and_again_when_it_changed(engine, folder):
    (folder / "b.csv").write_text("1")
    (folder / "sub").mkdir()
    (folder / "sub" / "a.csv").write_text("1")
    (folder / ".slow.csv").write_text("1")
    found = arrivals.untaken(engine, "taxi", folder)
    assert names(found) == ["b.csv", "a.csv"]
    for one in found:
        arrivals.take(engine, "taxi", one)
    assert arrivals.untaken(engine, "taxi", folder) == []
    assert names(arrivals.untaken(engine, "other", folder)) == ["b.csv", "a.csv"]
    (folder / "b.csv").write_text("12")
    (changed,) = arrivals.untaken(engine, "taxi", folder)
    arrivals.take(engine, "taxi", changed)
    assert arrivals.untaken(engine, "taxi", folder) == []


def test_files_that_are_no_data_are_left_alone_and_named(engine, folder):
    for name in ("a.csv", "b.CSV.GZ", "_SUCCESS", "_tmp.parquet", "note.xlsx", "c.parquet.part", ".hidden.xlsx"):
        (folder / name).write_text("1")
    assert names(arrivals.untaken(engine, "taxi", folder)) == ["a.csv", "b.CSV.GZ"]
    assert arrivals.foreign(folder) == ["c.parquet.part", "note.xlsx"]
    assert arrivals.foreign(folder / "none") == []


def test_a_file_that_changes_while_it_is_taken_stays_new(engine, folder):
    (folder / "a.csv").write_text("1")
    (looked_at,) = arrivals.untaken(engine, "taxi", folder)
    (folder / "a.csv").write_text("1,2")
    arrivals.take(engine, "taxi", looked_at)
    assert names(arrivals.untaken(engine, "taxi", folder)) == ["a.csv"]


def test_a_folder_that_is_not_there_holds_nothing(engine, folder):
    assert arrivals.untaken(engine, "taxi", folder / "none") == []


def test_the_watcher_tells_of_whole_files_once_and_again_if_nobody_takes_them(engine, folder):
    told, answers = [], [True]
    watcher = watch.Watcher(engine, "taxi", folder, lambda found: told.append(names(found)) or answers[0])
    assert not watcher.look(0)
    (folder / "a.csv").write_text("1")
    assert not watcher.look(1)  # it may grow still
    (folder / "a.csv").write_text("12")
    assert not watcher.look(2)
    assert watcher.look(3)
    assert not watcher.look(4)
    assert watcher.look(4 + watch.AGAIN_SECONDS)
    assert told == [["a.csv"], ["a.csv"]]
    answers[0] = False  # the server is away: it is told at each look until it hears
    (folder / "b.csv").write_text("1")
    assert [watcher.look(1000 + n) for n in range(3)] == [False, False, False]
    answers[0] = True
    assert watcher.look(1003)
    for one in arrivals.untaken(engine, "taxi", folder):
        arrivals.take(engine, "taxi", one)
    assert not watcher.look(1003 + watch.AGAIN_SECONDS)


def test_a_file_that_grows_for_long_keeps_no_other_waiting(engine, folder):
    told = []
    watcher = watch.Watcher(engine, "taxi", folder, lambda found: told.append(names(found)) or True)
    (folder / "done.csv").write_text("1")
    for size in range(1, 6):
        (folder / "grows.csv").write_text("1" * size)
        watcher.look(size)
    assert told == [["done.csv"]]
    watcher.look(6)
    assert told[1:] == [["done.csv", "grows.csv"]]


def test_a_file_that_is_being_written_is_left_for_the_next_run(engine, folder, monkeypatch):
    for name in ("a.csv", "b.csv", "c.csv"):
        (folder / name).write_text("1")
    os.utime(folder / "c.csv", (0, 0))
    found = arrivals.untaken(engine, "taxi", folder)
    waited = []
    monkeypatch.setattr(arrivals.time, "sleep", lambda _: waited.append((folder / "a.csv").write_text("12")))
    assert names(arrivals.whole(found)) == ["b.csv", "c.csv"]
    assert names(arrivals.whole(found[2:])) == ["c.csv"]
    assert len(waited) == 1  # what has not changed lately is not waited for


def test_a_name_that_is_no_text_is_left_alone_and_named(engine, folder):
    (folder / "a.csv").write_text("1")
    (folder / os.fsdecode(b"b\xff.csv")).write_text("1")
    assert names(arrivals.untaken(engine, "taxi", folder)) == ["a.csv"]
    assert arrivals.unnamed(folder) == [f"{folder}/b\udcff.csv"]


def test_a_file_that_may_not_be_looked_at_keeps_no_other_out(engine, folder, monkeypatch):
    for name in ("a.csv", "b.csv", "c.xlsx"):
        (folder / name).write_text("1")
    look = Path.is_file

    def refuse(path):
        if path.name != "a.csv":
            raise PermissionError(13, "Permission denied")
        return look(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    assert names(arrivals.untaken(engine, "taxi", folder)) == ["a.csv"]
    assert arrivals.foreign(folder) == []


def test_the_watcher_outlives_a_look_that_fails(monkeypatch, capsys):
    ended = threading.Event()
    looks = []

    class Failing:
        def look(self, now):
            looks.append(now)
            if len(looks) < 3:
                raise sqlite3.OperationalError("no such table: arrivals")
            if len(looks) == 4:
                ended.set()

    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.0)
    watch.follow(Failing(), ended)
    assert len(looks) == 4
    assert capsys.readouterr().out.splitlines() == [
        "it could not be looked for new files (OperationalError: no such table: arrivals); it is tried again",
        "it is looked for new files again",
    ]


def test_a_deployment_tells_of_the_files_that_came_before_there_was_a_trigger(home, monkeypatch):
    sent = []
    monkeypatch.setattr(outbox, "send", lambda event, model, payload: sent.append((event, model, payload)) or True)
    deploy.watch(home, ["taxi"])
    assert [event for event, *_ in sent] == [events.MODEL_WATCHED]
    folder = home.landing("taxi")
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text("1")
    deploy.watch(home, ["taxi"])
    assert sent[-1] == (events.LANDING_CHANGED, "taxi", {"files": ["a.csv"]})
    (arrival,) = arrivals.untaken(database.connect(home), "taxi", folder)
    arrivals.take(database.connect(home), "taxi", arrival)
    sent.clear()
    deploy.watch(home, ["taxi"])
    assert [event for event, *_ in sent] == [events.MODEL_WATCHED]
