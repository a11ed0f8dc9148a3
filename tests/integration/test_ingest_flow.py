"""The ingest flow on a real Prefect server: summaries, events, the run's record, and how it fails."""

import time
from datetime import timedelta
from uuid import UUID

import httpx
import pytest
from ingest_parts import DAY, clean_day, write

from flows import database, events, ledger, run_records
from flows.errors import BrokenCheckError, UsageError
from flows.models.taxi.simulator import break_rows, rename_column
from flows.models.taxi.source import trips
from flows.models.taxi.spec import spec


def emitted(api_url, names, since, count):
    """Return the events of these names since a moment, waiting until there are as many, at most 30 s."""
    deadline = time.monotonic() + 30
    while True:
        body = {"filter": {"event": {"name": names}, "occurred": {"since": since}}, "limit": 50}
        found = httpx.post(f"{api_url}/events/filter", json=body, timeout=10).raise_for_status().json()["events"]
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.3)


def test_the_flow_decides_says_so_and_keeps_its_record(flow_home, prefect_api, tmp_path):
    from flows.ingest import ingest

    start = database.now().isoformat()
    frames = [
        clean_day(),
        break_rows(clean_day(DAY + timedelta(days=1))),
        rename_column(clean_day(DAY + timedelta(days=2))),
    ]
    for number, frame in enumerate(frames):
        write(frame, tmp_path / "in" / f"{number}.parquet")
    found = ingest(source=str(tmp_path / "in"))
    assert [(one["key"], one["status"]) for one in found] == [
        ("2024-01-10", "accepted"), ("2024-01-11", "accepted"), ("2024-01-12", "quarantined"),
    ]  # fmt: skip
    assert set(found[0]) == {"key", "revision", "status", "rows", "accepted_rows", "rejected_rows", "reasons"}
    assert found[1]["rejected_rows"] == round(0.005 * len(frames[1]))
    assert (flow_home.docs / "taxi" / "index.html").is_file()

    (run,) = run_records.newest(database.connect(flow_home), "taxi")
    assert (run.flow, run.state) == ("ingest", "completed")
    assert run.summary["accepted"] == 2
    assert run.summary["quarantined"] == 1
    assert [stage["name"] for stage in run.summary["stages"]] == ["land", *["decide"] * 3, "write-index"]
    assert UUID(run.id)

    names = [events.PARTITION_ACCEPTED, events.PARTITION_QUARANTINED]
    told = {event["payload"]["partition"]: event for event in emitted(prefect_api, names, start, 3)}
    assert {key: event["event"] for key, event in told.items()} == {
        "2024-01-10": names[0], "2024-01-11": names[0], "2024-01-12": names[1],
    }  # fmt: skip
    refused = told["2024-01-12"]
    assert refused["resource"]["prefect.resource.id"] == "evergreen.model.taxi"
    assert (refused["payload"]["revision"], refused["payload"]["rows"]) == (1, len(frames[2]))
    assert "renamed?" in refused["payload"]["reasons"][0]

    assert ingest(source=str(tmp_path / "in")) == found  # again: nothing new, and nothing is said twice
    assert len(emitted(prefect_api, names, start, 3)) == 3


def stamps(raw):
    rows = trips(raw)
    return rows.mutate(start=rows.started.cast("timestamp"))


def test_a_file_that_fails_keeps_no_other_out(flow_home, tmp_path, monkeypatch):
    from flows import ingest as module

    columns = {**spec.source.columns, "started": "VARCHAR"}
    source = spec.source.model_copy(update={"columns": columns, "event_time": "start"})
    model = spec.model_copy(update={"source": source, "rows": f"{__name__}:stamps"})
    monkeypatch.setattr(module, "load_model", lambda *_: model)
    frame = clean_day()
    started = frame.lpep_pickup_datetime.astype(str)
    write(frame.assign(started="soon"), flow_home.landing("taxi") / "a.parquet")
    write(frame.assign(started=started), flow_home.landing("taxi") / "b.parquet")
    with pytest.raises(BrokenCheckError, match=r"a\.parquet could not be landed \(.*soon.*1 partitions are accepted"):
        module.ingest()
    engine = database.connect(flow_home)
    assert [(one.key, one.status) for one in ledger.list_partitions(engine, "taxi")] == [("2024-01-10", "accepted")]

    def fails(*_):
        raise KeyError("anything")

    monkeypatch.setattr(module, "land", fails)
    with pytest.raises(BrokenCheckError, match=r"a\.parquet could not be taken \(unforeseen KeyError: 'anything'\)"):
        module.ingest()  # the other one was taken before


def test_a_wrong_call_is_told_and_changes_nothing(flow_home, tmp_path):
    from flows.ingest import ingest

    with pytest.raises(UsageError, match="does not exist"):
        ingest(source=str(tmp_path / "none.parquet"))
    with pytest.raises(UsageError, match="day, week, month"):
        ingest(source=str(tmp_path), partition_by="hour")
    with pytest.raises(UsageError, match="no model"):
        ingest(source=str(tmp_path), model="trains")
    assert ledger.list_partitions(database.connect(flow_home), "taxi") == []
