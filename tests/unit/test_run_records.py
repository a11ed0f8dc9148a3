"""The runs in the ledger: which is under way, which came to its end last, and what has been since."""

from datetime import timedelta

import pytest

from flows import database, run_records


@pytest.fixture
def engine(home):
    return database.connect(home)


@pytest.fixture
def begin(engine, monkeypatch):
    """Return a function that begins a run, each an hour after the one before, and ends it if a state is named."""
    clock = [database.now()]

    def begin(run_id, state=None, flow="train", model="taxi"):
        clock[0] += timedelta(hours=1)
        monkeypatch.setattr(run_records, "now", lambda: clock[0])
        run_records.start(engine, run_id=run_id, model=model, flow=flow, reason="r", executor="e")
        if state:
            run_records.end(engine, run_id, state, {"state": state})

    return begin


def ids(found):
    return [one.id for one in found]


def test_a_run_that_is_tried_again_begins_again_and_is_one_run(engine, begin):
    begin("a", "failed")
    (first,) = run_records.newest(engine, "taxi")
    assert (first.state, first.summary, first.ended_at) == ("failed", {"state": "failed"}, first.started_at)
    begin("b")
    begin("a")
    again, other = run_records.newest(engine, "taxi")
    assert (again.id, again.state, again.summary, again.ended_at) == ("a", "running", {"state": "failed"}, None)
    assert again.started_at == first.started_at + timedelta(hours=2)
    run_records.note(engine, "a", {"partitions": 3})
    assert [one.summary for one in run_records.newest(engine, "taxi")] == [{"partitions": 3}, {}]
    run_records.end(engine, "a", "completed", {})
    assert (
        [one.state for one in run_records.newest(engine, "taxi")]
        == ["completed", other.state]
        == ["completed", "running"]
    )


def test_runs_are_told_apart_by_model_flow_and_state(engine, begin):
    assert run_records.last_completed(engine, "taxi", "train") is None
    begin("failed", "failed")
    assert run_records.last_completed(engine, "taxi", "train") is None
    assert ids(run_records.since_completed(engine, "taxi", "train")) == ["failed"]
    for name in ("one", "two"):
        begin(name, "completed")
    begin("crashed", "crashed")
    begin("now")
    begin("ingest", "completed", flow="ingest")
    begin("other", "completed", model="other")
    begin("other now", model="other")
    begin("also now", flow="ingest")
    assert run_records.last_completed(engine, "taxi", "train").id == "two"
    assert ids(run_records.since_completed(engine, "taxi", "train")) == ["now", "crashed", "two"]
    assert ids(run_records.under_way(engine, "taxi")) == ["now", "also now"]
    assert ids(run_records.newest(engine, "taxi", 3)) == ["also now", "ingest", "now"]
    assert ids(run_records.newest(engine, "taxi", None, "ingest")) == ["also now", "ingest"]
    assert len(run_records.newest(engine, "taxi", None)) == 7
