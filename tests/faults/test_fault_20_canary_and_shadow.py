"""Fault 20: a canary with errors, answers that are no numbers, slowness; a shadow that hangs.

The trial ends by itself with its evidence in the ledger. Every request is answered, by the champion if need be.
"""

import math
import sqlite3

import pytest
from serving_parts import ROW, eventually, fitted, home, make_bundle, promote, serving, training_set, version_of
from team.moody import Moody

from deployments.service import trial as trial_module
from flows import database, ledger, trials
from flows.models.taxi.spec import spec
from flows.spec import Rollout
from flows.steps.bundling import save_bundle
from flows.steps.prediction_log import read_predictions

TERMS = {"share": 0.5, "deadline_ms": 200.0}
FAR = {"trip_distance": 50.0}


@pytest.fixture(scope="module")
def champion(tmp_path_factory):
    """Folder and digest of a good version."""
    folder = tmp_path_factory.mktemp("champion")
    return folder, make_bundle(folder)


@pytest.fixture
def place(tmp_path, champion):
    """A home in which the good version serves; its ledger."""
    settings = home(tmp_path / "home", follow_seconds=0.02, trusted_types=("team.moody.Moody",))
    engine = database.connect(settings)
    promote(engine, *champion, 1)
    yield settings, engine
    engine.dispose()


def begin(engine, folder, kind="canary", mood="raises", seconds=0.0, digest=None, **terms):
    """Put a moody version 2 on trial."""
    data = training_set(folder / "data")
    made = save_bundle(spec, fitted(Moody(mood, seconds), data), data, folder / "moody")
    return trials.begin(
        engine, kind=kind, champion=ledger.champion(engine, "taxi"), version=2, run_id="run-2",
        model_uri=str(folder / "moody"), digest=digest or made, rollout=Rollout(**{**TERMS, **terms}), who="tests", why="try",
    )  # fmt: skip


def on_trial(client):
    return client.get("/readyz").json()["trial"]


def ask(client, number, **values):
    """Ask for a trip of its own, see that it is answered with a number, and return the version and its request id."""
    minute = f"2022-01-25T{number // 60 % 24:02d}:{number % 60:02d}:00"
    answer = client.post("/predict", json=ROW | {"lpep_pickup_datetime": minute} | values)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert math.isfinite(found["predictions"][0]["prediction"])
    return found["version"], found["request_id"]


def ended(engine):
    """Return the trial once it has ended."""
    return eventually(lambda: found if (found := trials.listed(engine, "taxi")[0]).state != "running" else None)


def see_failed(settings, engine, answered):
    """See that the trial has failed for good, the champion is as it was, and the log holds what was answered."""
    found = ended(engine)
    assert found.state == "failed"
    assert found.outcome
    assert [one.version for one in ledger.list_promotions(engine, "taxi")] == [1]
    assert trials.running(engine, "taxi") is None
    assert trials.has_tried(engine, "taxi", 2)
    log = read_predictions(settings, spec).to_pylist()
    assert [(row["version"], row["request_id"]) for row in log] == answered
    return found


@pytest.mark.parametrize("mood", ["raises", "not a number", "too few", "sleeps"])
def test_a_canary_that_fails_or_is_late_is_ended_and_nobody_notices(place, tmp_path, mood):
    settings, engine = place
    begin(engine, tmp_path, mood=mood, seconds=1.0)
    with serving(settings) as client:
        eventually(lambda: on_trial(client))
        answered = [ask(client, number) for number in range(30)]
        assert {version for version, _ in answered} == {1, 2}
        far = [ask(client, number, **FAR) for number in range(30)]
        assert {version for version, _ in far} == {1}
        found = see_failed(settings, engine, answered + far)
        eventually(lambda: on_trial(client) is None)
        assert version_of(client) == 1
        assert client.get("/readyz").json()["requests"]["failed"] == 0
    tally = found.evidence["tally"]
    assert (tally["failed"], tally["late"]) == ((0, 3) if mood == "sleeps" else (3, 0))  # the third is one too many
    assert found.tallies
    assert "of" in found.outcome


def test_a_canary_that_is_slower_than_it_may_be_is_ended_though_none_of_its_answers_fails(place, tmp_path):
    settings, engine = place
    begin(engine, tmp_path, mood="sleeps", seconds=0.06, deadline_ms=20_000.0)
    with serving(settings) as client:
        eventually(lambda: on_trial(client))
        answered = []
        while (state := on_trial(client)) and not state["stopped"]:
            answered.append(ask(client, len(answered), **FAR))
            assert len(answered) < 300
        found = see_failed(settings, engine, answered)
    assert "its median is" in found.outcome
    tally = found.evidence["tally"]
    assert (tally["failed"], tally["late"]) == (0, 0)
    assert tally["seconds"] > 3 * tally["champion_seconds"]


def test_a_shadow_that_hangs_is_ended_and_holds_nobody_up(place, tmp_path, monkeypatch):
    settings, engine = place
    monkeypatch.setattr(trial_module, "HANGING_SECONDS", 2.0)
    monkeypatch.setattr(trial_module, "COPIES", 4)
    begin(engine, tmp_path, "shadow", mood="sleeps", seconds=3600.0)
    with serving(settings) as client:
        eventually(lambda: on_trial(client))
        answered = [ask(client, number, **FAR) for number in range(20)]
        assert {version for version, _ in answered} == {1}
        found = see_failed(settings, engine, answered)
        assert "hangs" in found.outcome
        assert found.evidence["tally"]["dropped"] > 0
        assert read_predictions(settings, spec, role="shadow").num_rows == 0
        assert ask(client, 99)[0] == 1


def test_a_shadow_that_fails_is_ended(place, tmp_path):
    settings, engine = place
    begin(engine, tmp_path, "shadow", mood="raises")
    with serving(settings) as client:
        eventually(lambda: on_trial(client))
        answered = [ask(client, number, **FAR) for number in range(10)]
        found = see_failed(settings, engine, answered)
        assert "no road is so long" in found.outcome


def test_with_the_ledger_out_of_reach_the_canary_is_stopped_here_at_once_and_ended_there_later(place, tmp_path):
    settings, engine = place
    begin(engine, tmp_path, mood="raises")
    with serving(settings) as client:
        eventually(lambda: on_trial(client))
        other = sqlite3.connect(settings.home / "ledger.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            answered = [ask(client, number, **FAR) for number in range(30)]
            state = on_trial(client)
            assert state["stopped"]
            assert state["counts"]["failed"] == 3  # it was asked no more
            assert trials.running(engine, "taxi") is not None
        finally:
            other.execute("ROLLBACK")
            other.close()
        see_failed(settings, engine, answered)


def test_a_challenger_that_cannot_be_loaded_never_answers(place, tmp_path):
    settings, engine = place
    begin(engine, tmp_path, digest="0" * 64)
    with serving(settings) as client:
        eventually(lambda: version_of(client) == 1)
        found = ended(engine)
        assert found.state == "failed"
        assert found.outcome.startswith("it cannot be served: ")
        assert on_trial(client) is None
        assert {ask(client, number)[0] for number in range(20)} == {1}
