"""Fault 19: an event comes twice, or is lost. Outcome: one training; the ledger keeps the cause until a run answers it."""

import subprocess
import sys
import uuid
from contextlib import contextmanager
from datetime import date, timedelta

import httpx
import pytest
from training_parts import copy_home, featurized, numbers, opened

from flows import causes, database, events, outbox
from flows.lookup import load_model

REASON = "performance: rmse 7 where 4 were expected"


@pytest.fixture(scope="module")
def home(tmp_path_factory, simulated_days, prefect_api):
    source = featurized(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)
    with opened(tmp_path_factory.mktemp("fault19") / "home", prefect_api) as settings:
        copy_home(source, settings)
        # That the days were landed is a cause by itself, but none of these tests.
        causes.settle(database.connect(settings), "taxi", database.now(), "left out")
        yield settings


@contextmanager
def server_away():
    """Let the server be at an address where nobody listens."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.steps.processes import free_port

    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        yield


def told(api: str, cause) -> int:
    """Return how often the server heard of a cause."""
    body = {"filter": {"event": {"name": [cause.event]}}, "limit": 50}
    found = httpx.post(f"{api}/events/filter", json=body, timeout=10).json()["events"]
    return sum(one["payload"].get("cause") == cause.key for one in found)


def test_a_cause_outlives_a_lost_event_and_is_answered_once_however_often_its_event_comes(
    home, prefect_api, monkeypatch
):
    from flows.retrain import retrain

    engine, spec = database.connect(home), load_model("taxi", home)
    before = numbers(home)
    with server_away():
        cause = outbox.raise_cause(engine, "taxi", "performance", events.MODEL_DEGRADED, REASON, {"labelled": 900})
        second = outbox.raise_cause(engine, "taxi", "distribution", events.DATA_DRIFTED, "drift: hour 0.31", {})
        assert outbox.flush(engine, spec) == 0
    assert [one.sent_at for one in causes.waiting(engine, "taxi")] == [None, None]

    # The server is back: whoever sees it first tells of what is kept, and nobody tells of it again at once.
    assert outbox.flush(engine, spec) == 2
    assert outbox.flush(engine, spec) == 0
    # The event was taken and lost all the same: it is told of again.
    monkeypatch.setattr(outbox, "AGAIN", timedelta(0))
    assert outbox.flush(engine, spec) == 2
    heard = [told(prefect_api, one) for one in (cause, second)]
    assert all(number <= 2 for number in heard)

    first = retrain(trigger="performance", reason=REASON, cause=cause.key)
    assert first["reasons"] == [REASON, "drift: hour 0.31"]
    assert first["training"]["version"] == numbers(home)[0]
    assert len(numbers(home)) == len(before) + 1
    for same in (cause, second):
        again = retrain(trigger=same.kind, reason=same.reason, cause=same.key)
        assert (again["training"], again["reasons"]) == (None, [])
        assert "answered before" in again["held"][0]
    assert len(numbers(home)) == len(before) + 1
    assert outbox.flush(engine, spec) == 0
    answers = {one.key: (one.claimed_by, one.outcome) for one in causes.listed(engine, "taxi")}
    assert answers[cause.key] == answers[second.key]
    assert "trained version" in answers[cause.key][1]


def test_an_event_of_another_system_counts_once_by_its_id(home):
    from flows.retrain import retrain

    engine, key = database.connect(home), str(uuid.uuid4())
    for _ in range(2):
        retrain(trigger="distribution", reason="seen elsewhere", cause=key)
    (kept,) = [one for one in causes.listed(engine, "taxi") if one.key == key]
    assert kept.reason == "distribution: seen elsewhere"
    # Without new data there is nothing to learn; the cause has its answer and does not wait for ever.
    assert "nothing new to learn" in kept.outcome


def test_two_runs_at_once_make_one_training(home, tmp_path):
    """Two processes answer the same cause: one trains, the other leaves it or finds it answered."""
    from flows.ingest import ingest
    from flows.models.taxi.simulator import simulate_day

    engine, before = database.connect(home), len(numbers(home))
    simulate_day(date(2024, 1, 9), trips=2000).to_parquet(tmp_path / "day.parquet")
    ingest(str(tmp_path / "day.parquet"), featurize=True)
    cause = causes.record(engine, model="taxi", kind="performance", event=events.MODEL_DEGRADED, reason=REASON)
    code = f"from flows.retrain import retrain; retrain(trigger='performance', reason={REASON!r}, cause={cause.key!r})"
    both = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-3000:]
    assert len(numbers(home)) == before + 1
    (kept,) = [one for one in causes.listed(engine, "taxi") if one.key == cause.key]
    assert "trained version" in kept.outcome
