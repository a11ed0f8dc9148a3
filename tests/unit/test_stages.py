"""The work of a run: what is kept of its stages, when that counts, and how much of it stays."""

import math
import os
import time
from datetime import UTC, datetime

import pytest

from flows.errors import UnavailableError
from flows.settings import Settings
from flows.steps import stages
from flows.steps.lineage import Stage
from flows.steps.stages import Plain, key_of, one_at_a_time, open_work

NOW = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path)


def finish(work, name, result=None, *files):
    work.finish(Stage(name=name, start=NOW, end=NOW, executor="test"), result, dict.fromkeys(files))
    work.behind.append(name)


def test_a_finished_stage_is_found_by_whoever_opens_the_same_work_also_from_another_place(settings, tmp_path):
    work = open_work(settings, "taxi", key_of("data", "code"))
    (work.folder / "rows").write_bytes(b"1")
    finish(work, "fit", {"depth": 3}, work.folder / "rows")
    assert open_work(settings, "taxi", key_of("data", "code")).find("fit").result == {"depth": 3}
    assert open_work(settings, "taxi", key_of("data", "other code")).find("fit") is None
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    assert open_work(Settings(home=moved), "taxi", key_of("data", "code")).find("fit").result == {"depth": 3}


@pytest.mark.parametrize("harm", ["altered", "gone", "record torn"])
def test_a_stage_whose_files_are_not_as_they_were_is_not_finished(settings, harm):
    work = open_work(settings, "taxi", "key")
    file = work.folder / "rows"
    file.write_bytes(b"1")
    finish(work, "fit", None, file)
    if harm == "altered":
        file.write_bytes(b"2")
    elif harm == "gone":
        file.unlink()
    else:
        (work.folder / "fit.json").write_text('{"stage": ')
    assert work.find("fit") is None


def test_once_a_stage_is_made_again_all_after_it_are(settings):
    for name in ("build", "fit", "judge"):
        finish(open_work(settings, "taxi", "key"), name)
    work = open_work(settings, "taxi", "key")
    work.behind.append("build")
    work.start_anew()
    assert [name for name in ("build", "fit", "judge") if work.find(name)] == ["build"]


@pytest.mark.parametrize("value", [{"rate": 0.1 + 0.2, "depth": None}, {"deep": [1, {"x": "é"}]}, {}])
def test_plain_results_come_back_to_the_bit(settings, value):
    work, keep = open_work(settings, "taxi", "key"), Plain(dict)
    saved, files = keep.save(value, work, {})
    finish(work, "tune", saved, *files)
    assert keep.load(work.find("tune").result, work, {}) == value


@pytest.mark.parametrize("value", [{"layers": (10, 10)}, {"rate": math.nan}])
def test_what_would_not_come_back_as_it_was_is_not_kept(settings, value):
    assert Plain(dict).save(value, open_work(settings, "taxi", "key"), {}) is None


def test_of_works_that_broke_off_the_newest_stay_for_a_week(settings):
    for number in range(6):
        folder = open_work(settings, "taxi", f"work {number}").folder
        os.utime(folder, (time.time() - 100 + number,) * 2)
    kept = {path.name for path in settings.stages("taxi").iterdir()}
    assert kept == {f"work {number}" for number in range(2, 6)}  # the one that was opened last, and three more
    old = time.time() - stages.KEPT_SECONDS - 1
    os.utime(settings.stages("taxi") / "work 4", (old, old))
    open_work(settings, "taxi", "work 5")
    assert not (settings.stages("taxi") / "work 4").exists()


def test_one_run_works_at_a_time_and_the_other_is_told(settings):
    told = pytest.raises(UnavailableError, match="taxi is still at work in another run")
    with one_at_a_time(settings, "taxi"), told, one_at_a_time(settings, "taxi", patience=0.05):
        pass
    with one_at_a_time(settings, "taxi", patience=0.05):
        pass
