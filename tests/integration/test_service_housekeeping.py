"""What a worker does beside answering: the journals of hours that are over become parquet, also those of killed processes."""

from datetime import UTC, datetime, timedelta

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
