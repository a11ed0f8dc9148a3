"""What a worker does beside answering: the journals of hours that are over become parquet, also those of killed processes."""

from datetime import UTC, datetime, timedelta
from threading import Event

from serving_parts import eventually, home

from deployments.service import housekeeping
from flows.models.taxi.spec import spec
from flows.steps.prediction_log import Answer, PredictionLog, read_predictions


def test_closed_journals_are_folded_by_a_process_of_its_own_and_a_failure_of_one_beat_does_not_end_it(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(housekeeping, "BEAT_SECONDS", 0.05)
    settings = home(tmp_path / "home")
    left, mine = PredictionLog(settings, spec), PredictionLog(settings, spec)
    before = datetime.now(UTC) - timedelta(hours=2)
    left.append("left", before, 1, [None], [Answer(1.0, None, {"hour": 1.0}, [])])
    left.close()
    mine.append("mine", before, 1, [None], [Answer(2.0, None, {"hour": 2.0}, [])])
    beats = []

    def tell():
        beats.append(1)
        if len(beats) == 1:
            raise OSError("no space left")

    keeping = housekeeping.Housekeeping(settings, spec, mine, tell)
    keeping.start()
    try:
        eventually(lambda: len(list(settings.predictions("taxi").glob("hours/*/*/*.parquet"))) == 2, 60)
    finally:
        keeping.stop()
        mine.close()
    assert len(beats) > 1
    assert not list(settings.predictions("taxi").glob("journal/*.jsonl"))
    assert sorted(read_predictions(settings, spec)["request_id"].to_pylist()) == ["left", "mine"]


def test_a_fold_that_takes_long_keeps_no_worker_from_telling_its_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(housekeeping, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(housekeeping, "FOLD_SECONDS", 0.0)
    beats, folds, done = [], [], Event()

    def fold(_):
        folds.append(len(beats))
        done.wait(30)

    monkeypatch.setattr(housekeeping.Housekeeping, "fold", fold)
    settings = home(tmp_path / "home")
    keeping = housekeeping.Housekeeping(settings, spec, PredictionLog(settings, spec), lambda: beats.append(1))
    keeping.start()
    try:
        eventually(lambda: folds)
        eventually(lambda: len(beats) > folds[0] + 5, 5)
        assert len(folds) == 1
        done.set()
        eventually(lambda: len(folds) > 1)
    finally:
        done.set()
        keeping.stop()
