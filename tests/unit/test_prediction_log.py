"""The prediction log: what was answered is there, typed, over versions and after a kill."""

import json
import math
import os
import subprocess
import sys
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from serving_parts import home

from flows.errors import ContractError, UnavailableError
from flows.models.taxi.spec import spec
from flows.spec import RequestField
from flows.steps import labels, prediction_log
from flows.steps.prediction_hours import fold, foldable
from flows.steps.prediction_log import SMOKE, Answer, PredictionLog, read_predictions

ROOT = Path(__file__).resolve().parents[2]
AT = datetime(2022, 1, 26, 12, tzinfo=UTC)
ROW = {
    "lpep_pickup_datetime": datetime.fromisoformat("2022-01-25T08:30"),
    "PULocationID": 74,
    "DOLocationID": 42,
    "trip_distance": 2.4,
}


def answer(prediction=7.5, unknown=(), probabilities=None, **features):
    """Return the answer to a row."""
    return Answer(prediction=prediction, probabilities=probabilities, features=features, unknown=list(unknown))


@pytest.fixture
def settings(tmp_path):
    return home(tmp_path)


@pytest.fixture
def log(settings):
    log = PredictionLog(settings, spec)
    yield log
    log.close()


def test_an_answer_comes_back_with_typed_columns(settings, log):
    log.append("r1", AT, 3, [ROW, ROW | {"trip_distance": 1.0}], [answer(hour=8.5), answer(8.0, ["route"], hour=None)])
    table = read_predictions(settings, spec)
    assert table.schema.field("at").type == pa.timestamp("us", "UTC")
    assert table.schema.field("event_timestamp").type == pa.timestamp("us", "UTC")
    first, second = table.to_pylist()
    assert first == ROW | {
        "request_id": "r1", "row": 0, "at": AT, "version": 3, "prediction": 7.5, "probabilities": None, "unknown": [],
        "event_timestamp": datetime(2022, 1, 25, 13, 30, tzinfo=UTC), "hour": 8.5,
    }  # fmt: skip
    assert (second["row"], second["trip_distance"], second["unknown"], second["hour"]) == (1, 1.0, ["route"], None)


def test_an_empty_log_has_the_columns_of_a_full_one(settings, log):
    empty = read_predictions(settings, spec)
    log.append("r1", AT, 1, [ROW], [answer()])
    assert empty.num_rows == 0
    assert empty.schema == read_predictions(settings, spec).schema


def test_features_of_all_versions_are_columns_and_missing_where_a_version_had_none(settings, log):
    log.append("r1", AT, 1, [ROW], [answer(old=1.0, both=1, empty=None)])
    log.append("r2", AT, 2, [ROW], [answer(new="north", both=math.nan)])
    rows = read_predictions(settings, spec).to_pylist()
    assert [(row["old"], row["both"], row["new"], row["empty"]) for row in rows] == [
        (1.0, 1.0, None, None),
        (None, None, "north", None),
    ]


def test_classes_come_back_with_their_probabilities(settings, log):
    log.append("r1", AT, 1, [ROW], [answer("short", probabilities={"short": 0.75, "long": 0.25})])
    classifying = spec.model_copy(update={"task": "multiclass"})
    row = read_predictions(settings, classifying).to_pylist()[0]
    assert row["prediction"] == "short"
    assert dict(row["probabilities"]) == {"short": 0.75, "long": 0.25}


@pytest.mark.parametrize("cut", [2, 30, 200])
def test_a_torn_last_line_is_left_out_and_the_rest_is_there(cut, settings, log):
    log.append("r1", AT, 1, [ROW] * 3, [answer(hour=8.5)] * 3)
    log.close()
    path = next(settings.predictions("taxi").glob("*/*.jsonl"))
    os.truncate(path, path.stat().st_size - cut)
    assert read_predictions(settings, spec)["row"].to_pylist() == [0, 1]


def test_answers_are_found_by_their_time_or_by_that_of_the_event(settings, log):
    for day in (1, 2, 3):
        row = ROW | {"lpep_pickup_datetime": datetime.fromisoformat(f"2021-06-0{day}T12:00")}
        log.append(f"r{day}", AT.replace(day=day, hour=0), 1, [row], [answer()])
    second, third = AT.replace(day=2, hour=0), AT.replace(day=3, hour=0)

    def ids(*span, **by):
        return read_predictions(settings, spec, *span, **by)["request_id"].to_pylist()

    assert ids() == ["r1", "r2", "r3"]
    assert ids(second, third) == ["r2"]
    assert ids(second) == ["r2", "r3"]
    assert ids(None, second) == ["r1"]
    assert ids(datetime(2021, 6, 2, tzinfo=UTC), datetime(2021, 6, 3, tzinfo=UTC), by="event_timestamp") == ["r2"]


def test_the_hour_that_comes_twice_stays_apart(settings, log):
    twice = [
        ROW | {"lpep_pickup_datetime": datetime.fromisoformat("2022-11-06T01:30").replace(fold=fold)} for fold in (0, 1)
    ]
    log.append("r1", AT, 1, twice, [answer()] * 2)
    hours = [moment.hour for moment in read_predictions(settings, spec)["event_timestamp"].to_pylist()]
    assert hours == [5, 6]


def test_names_and_texts_cannot_break_out(settings):
    name = "a\"b'c; DROP TABLE x --, {}$files"
    field = RequestField(name=name, type="string", description="", example="a")
    odd = spec.model_copy(update={"request": (*spec.request, field)})
    log = PredictionLog(settings, odd)
    log.append("r'1", AT, 1, [ROW | {name: "line\nbreak\x00\"'"}], [answer(**{f"feature {name}": 1.0})])
    row = read_predictions(settings, odd).to_pylist()[0]
    assert (row["request_id"], row[name], row[f"feature {name}"]) == ("r'1", "line\nbreak\x00\"'", 1.0)


def test_a_name_that_the_log_itself_uses_is_refused(settings, log):
    field = RequestField(name="version", type="int", description="", example=1)
    with pytest.raises(ContractError, match="version"):
        PredictionLog(settings, spec.model_copy(update={"request": (*spec.request, field)}))
    log.append("r1", AT, 1, [ROW], [answer(trip_distance=1.0)])
    with pytest.raises(ContractError, match="both have trip_distance"):
        read_predictions(settings, spec)


def test_each_request_is_one_write_of_whole_lines_whatever_the_threads_do(settings, log):
    def work(name):
        for number in range(50):
            log.append(f"{name}-{number}", AT, 1, [ROW] * 4, [answer(hour=1.0)] * 4)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (path,) = settings.predictions("taxi").glob("*/*.jsonl")
    ids = [(line["request_id"], line["row"]) for line in map(json.loads, lines_of(path))]
    assert len(ids) == len(set(ids)) == 800
    assert all(ids[start : start + 4] == [(ids[start][0], row) for row in range(4)] for start in range(0, 800, 4))


def test_a_request_that_cannot_be_written_whole_leaves_nothing_and_is_told(settings, log, monkeypatch):
    log.append("r1", AT, 1, [ROW], [answer()])
    path = next(settings.predictions("taxi").glob("*/*.jsonl"))
    before, write = path.read_bytes(), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, place: write(file, data[:40], place))  # what a full disk does
    with pytest.raises(UnavailableError, match="only 40 of"):
        log.append("r2", AT, 1, [ROW] * 1000, [answer()] * 1000)
    assert path.read_bytes() == before
    log.append("fits", AT, 1, [ROW], [answer()])
    monkeypatch.undo()
    log.append("r3", AT, 1, [ROW] * 1000, [answer()] * 1000)
    assert Counter(read_predictions(settings, spec)["request_id"].to_pylist()) == {"r1": 1, "fits": 1, "r3": 1000}


def test_on_a_full_disk_nothing_is_answered_and_the_process_lives(tmp_path):
    program = f"""
import resource
from collections import Counter
from datetime import UTC, datetime, timedelta
from flows.errors import UnavailableError
from flows.models.taxi.spec import spec
from flows.settings import Settings
from flows.steps.prediction_log import SMOKE, Answer, PredictionLog, read_predictions
settings = Settings(home={str(tmp_path)!r})
log = PredictionLog(settings, spec)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
written = 0
try:
    while True:
        log.append(str(written), datetime(2022, 1, 26, 12, tzinfo=UTC), 1, [None], [Answer(1.0, None, {{"hour": 1.0}}, [])])
        written += 1
except UnavailableError as error:
    print(error)
assert written > 500, written
assert read_predictions(settings, spec).num_rows == written
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=False, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stdout


def test_a_log_folder_that_was_taken_away_is_made_again_within_a_second(settings, log):
    log.append("r1", AT, 1, [ROW], [answer()])
    path = next(settings.predictions("taxi").glob("*/*.jsonl"))
    path.unlink()
    path.parent.rmdir()
    log.append("r2", AT + timedelta(seconds=1), 1, [ROW], [answer()])
    assert read_predictions(settings, spec)["request_id"].to_pylist() == ["r2"]


def test_lines_pass_from_one_window_of_the_journal_to_the_next_whole(settings, log, monkeypatch):
    monkeypatch.setattr(prediction_log, "WINDOW_BYTES", 10_000)  # no multiple of a page
    for number in range(200):
        log.append(f"r{number:03}", AT, 1, [ROW] * (number % 7 + 1), [answer(hour=1.0)] * (number % 7 + 1))
    open_still = read_predictions(settings, spec)
    log.close()
    (path,) = journals(settings)
    assert b"\0" not in path.read_bytes()
    closed = read_predictions(settings, spec)
    assert closed.equals(open_still)
    assert Counter(closed["request_id"].to_pylist()) == {f"r{number:03}": number % 7 + 1 for number in range(200)}


def test_a_folder_that_cannot_be_written_is_told(settings, log):
    settings.predictions("taxi").parent.write_text("a file where the folder should be")
    with pytest.raises(UnavailableError, match="cannot be written"):
        log.append("r1", AT, 1, [ROW], [answer()])


def lines_of(path):
    """Return the lines of a journal that is open, whose end is reserved space."""
    return path.read_text().rstrip("\0").splitlines()


def parquet(settings):
    return sorted(settings.predictions("taxi").glob("hours/*/*/*.parquet"))


def journals(settings):
    return sorted(settings.predictions("taxi").glob("journal/*.jsonl"))


def test_hours_that_are_over_become_parquet_and_the_table_stays_the_same(settings, log):
    log.append("r1", AT, 1, [ROW] * 2, [answer(hour=8.5), answer(hour=None)])
    log.append("r2", AT.replace(hour=13), 2, [ROW], [answer(zone="north", probabilities={"a": 1.0})])
    log.append("r3", AT.replace(hour=14), 2, [None], [answer(9.0, ["route"], zone="south", hour=1.0)])
    before = read_predictions(settings, spec)
    assert fold(settings, spec) == 2
    assert [path.parent.name for path in parquet(settings)] == ["12", "13"]
    assert len(journals(settings)) == 1  # of the hour that is still written
    assert read_predictions(settings, spec).to_pylist() == before.to_pylist()
    log.close()
    assert fold(settings, spec) == 1
    assert not journals(settings)
    after = read_predictions(settings, spec)
    assert after.to_pylist() == before.to_pylist()
    assert {*after.schema} == {*before.schema}
    assert read_predictions(settings, spec, AT.replace(hour=13), AT.replace(hour=14)).num_rows == 1


def test_an_hour_that_is_over_is_closed_though_nothing_more_is_asked(settings, log):
    log.append("r1", AT, 1, [ROW], [answer()])
    log.roll(AT.replace(minute=59))
    assert not foldable(settings, "taxi")
    log.roll(AT.replace(hour=13))
    assert foldable(settings, "taxi")


def test_a_journal_that_has_grown_long_is_followed_by_another(settings, log, monkeypatch):
    monkeypatch.setattr(prediction_log, "MAX_JOURNAL_BYTES", 1000)
    for number in range(20):
        log.append(f"r{number:02}", AT, 1, [ROW], [answer(hour=1.0)])
    assert len(journals(settings)) > 3
    assert fold(settings, spec) == len(parquet(settings)) > 2
    assert read_predictions(settings, spec)["request_id"].to_pylist() == [f"r{number:02}" for number in range(20)]


def test_the_journal_of_a_killed_process_is_folded_and_that_of_a_living_one_is_not(settings, log):
    program = f"""
import os, sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from flows.models.taxi.spec import spec
from flows.settings import Settings
from flows.steps import labels, prediction_log
from flows.steps.prediction_hours import fold, foldable
from flows.steps.prediction_log import Answer, PredictionLog
log = PredictionLog(Settings(home={str(settings.home)!r}), spec)
log.append("killed", datetime(2022, 1, 26, 12, tzinfo=UTC), 1, [None], [Answer(1.0, None, {{"hour": 1.0}}, [])])
log.write(b'{{"request_id": "torn', datetime(2022, 1, 26, 12, tzinfo=UTC).timestamp())
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, timeout=60).returncode == -9
    log.append("alive", AT, 1, [ROW], [answer(hour=1.0)])
    assert fold(settings, spec) == 1
    assert [json.loads(line)["request_id"] for line in lines_of(journals(settings)[0])] == ["alive"]
    assert sorted(read_predictions(settings, spec)["request_id"].to_pylist()) == ["alive", "killed"]


def test_killed_between_parquet_and_the_end_of_the_journal_nothing_counts_twice(settings, log, monkeypatch):
    log.append("r1", AT, 1, [ROW], [answer(hour=1.0)])
    log.close()
    with monkeypatch.context() as killed:
        killed.setattr(type(settings.home), "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fold(settings, spec)
    assert parquet(settings)
    assert journals(settings)
    assert read_predictions(settings, spec)["request_id"].to_pylist() == ["r1"]
    assert fold(settings, spec) == 1
    assert read_predictions(settings, spec)["request_id"].to_pylist() == ["r1"]


def test_reading_while_journals_are_folded_never_misses_or_doubles_a_row(settings, log, monkeypatch):
    monkeypatch.setattr(prediction_log, "MAX_JOURNAL_BYTES", 1)
    for number in range(12):
        log.append(f"r{number:02}", AT, 1, [ROW], [answer(hour=1.0)])
    folding = threading.Thread(target=fold, args=(settings, spec))
    folding.start()
    while folding.is_alive():
        assert read_predictions(settings, spec).num_rows == 12
    assert read_predictions(settings, spec).num_rows == 12


def test_rows_that_brought_their_features_have_no_event_time_and_are_not_found_by_it(settings, log):
    log.append("r1", AT, 1, [None], [answer(hour=1.0)])
    log.append("r2", AT, 1, [ROW], [answer(hour=1.0)])
    first, second = read_predictions(settings, spec).to_pylist()
    assert (first["request_id"], first["event_timestamp"], first["PULocationID"]) == ("r1", None, None)
    assert second["event_timestamp"] is not None
    assert read_predictions(settings, spec, by="event_timestamp")["request_id"].to_pylist() == ["r2"]


@pytest.mark.parametrize("timed", [True, False])
def test_of_a_version_that_has_served_for_long_only_the_newest_days_are_read(settings, log, timed, monkeypatch):
    asked = [field for field in spec.request if timed or field.name != spec.source.event_time]
    model = spec.model_copy(update={"request": tuple(asked)})
    for day in range(40):
        moment = datetime(2022, 1, 1, 12) + timedelta(days=day)
        row = {name: value for name, value in ROW.items() if name != spec.source.event_time}
        given = row | {spec.source.event_time: moment} if timed else row
        for version in (1, 2):
            log.append(f"r{day}", moment.replace(tzinfo=UTC) + timedelta(days=40), version, [given], [answer(hour=8.5)])
    since = datetime(2022, 1, 11, tzinfo=UTC)
    all_of_them = read_predictions(settings, model, start=since, by="event_timestamp" if timed else "at")
    whole: list[int] = []

    def reading(*arguments, **keywords):
        found = read_predictions(*arguments, **keywords)
        if not keywords.get("only"):
            whole.append(found.num_rows)
        return found

    monkeypatch.setattr(labels, "read_predictions", reading)
    found = labels.read_newest(settings, model, 1, since, 7)
    assert found == labels.newest(all_of_them, 1, 7)
    assert (found.num_rows, whole) == (7, [7])
    assert found["hour"].to_pylist() == [8.5] * 7
    assert labels.read_newest(settings, model, 3, since, 7).num_rows == 0


@pytest.mark.parametrize("step", ["flock", "rename"])
def test_a_journal_that_could_not_be_opened_whole_is_not_written_to(settings, log, step, monkeypatch):
    def refuse(*_):
        raise BlockingIOError("another one looks whether somebody writes it")

    with monkeypatch.context() as once:
        once.setattr(*((prediction_log.fcntl, step) if step == "flock" else (Path, step)), refuse)
        with pytest.raises(UnavailableError):
            log.append("r1", AT, 1, [ROW], [answer()])
    for number in (2, 3):
        log.append(f"r{number}", AT, 1, [ROW], [answer()])
        assert fold(settings, spec) == 0  # it is written still
    assert read_predictions(settings, spec)["request_id"].to_pylist() == ["r2", "r3"]


def test_a_journal_that_is_about_to_be_locked_is_left_alone(settings, log):
    hidden = settings.predictions("taxi") / "journal" / ".2022-01-26T12.1-now.0.jsonl"
    hidden.parent.mkdir(parents=True)
    hidden.touch()
    assert (foldable(settings, spec.name), fold(settings, spec)) == (False, 0)
    assert hidden.exists()


@pytest.mark.parametrize("folded", [False, True])
def test_no_client_hides_what_it_asks_behind_the_name_of_a_smoke_test(settings, log, folded):
    log.append(f"{SMOKE}1", AT, 1, [ROW, ROW | {"trip_distance": 1.0}], [answer(), answer(8.0)])
    log.append(f"{SMOKE}2", AT, 1, [None], [answer(9.0, hour=8.5)])  # ready features
    if folded:
        log.close()
        fold(settings, spec)
    assert read_predictions(settings, spec)["prediction"].to_pylist() == [8.0, 9.0]
    assert read_predictions(settings, spec, by="event_timestamp")["prediction"].to_pylist() == [8.0]


@pytest.mark.parametrize("folded", [False, True])
def test_what_a_smoke_test_asked_is_found_by_its_id_and_never_read_as_predictions(settings, log, folded):
    smoke = f"{SMOKE}1"
    late = {**ROW, "lpep_pickup_datetime": datetime.fromisoformat("2022-02-20T08:30")}
    log.append("real", AT, 1, [ROW], [answer()])
    log.append(smoke, AT, 1, [late] * 3, [answer()] * 3)
    log.append(smoke, AT, 2, [late], [answer()], role="shadow")
    if folded:
        log.close()
        assert fold(settings, spec) == 1
    for options in ({}, {"by": "event_timestamp"}, {"version": 1}, {"role": None}, {"only": ("at",)}):
        assert read_predictions(settings, spec, **options).num_rows == 1, options
    assert read_predictions(settings, spec, role="shadow").num_rows == 0
    newest = labels.read_newest(settings, spec, 1, None, 7)
    assert newest["request_id"].to_pylist() == ["real"]  # the days that are looked at are those of real requests
    found = read_predictions(settings, spec, role=None, request_id=smoke)
    assert [(one["row"], one["role"]) for one in found.to_pylist()] == [
        (0, "served"), (0, "shadow"), (1, "served"), (2, "served"),
    ]  # fmt: skip
