"""Causes: recorded once, claimed by one run, never lost between runs that end badly."""

from datetime import timedelta

import pytest

from flows import causes, database, run_records


@pytest.fixture
def engine(home):
    return database.connect(home)


def raised(engine, kind="performance", key=None, reason="worse"):
    return causes.record(engine, model="taxi", kind=kind, event="evergreen.x", reason=reason, key=key)


def ids(found):
    return [one.id for one in found]


def test_the_same_key_is_the_same_cause_even_after_it_was_answered(engine):
    first = raised(engine, key="k")
    assert raised(engine, key="k", reason="other") == first
    causes.claim(engine, [first.id], "run")
    causes.answer(engine, "run", "trained")
    assert raised(engine, key="k").outcome == "trained"
    assert causes.waiting(engine, "taxi") == []


def test_a_state_that_lasts_is_one_cause_brought_up_to_date_and_told_again(engine):
    first = raised(engine)
    causes.mark_sent(engine, first.id)
    again = raised(engine, reason="much worse")
    assert (again.id, again.key, again.reason, again.sent_at) == (first.id, first.key, "much worse", None)
    assert raised(engine, kind="distribution").id != first.id
    causes.claim(engine, [first.id], "run")
    assert raised(engine).id not in (first.id, None)


def test_a_cause_is_claimed_by_one_run_only(engine):
    one, two = raised(engine), raised(engine, kind="distribution")
    assert ids(causes.claim(engine, [one.id], "a")) == [one.id]
    assert ids(causes.claim(engine, [one.id, two.id], "b")) == [two.id]
    assert causes.waiting(engine, "taxi") == []
    assert ids(causes.claimed(engine, "a")) == [one.id]


def test_causes_are_kept_by_model(engine):
    raised(engine)
    assert causes.waiting(engine, "other") == []
    causes.settle(engine, "other", database.now(), "trained")
    assert len(causes.waiting(engine, "taxi")) == 1


def test_what_a_run_left_unanswered_waits_again_once_the_run_has_ended(engine):
    cause = raised(engine)
    run_records.start(engine, run_id="a", model="taxi", flow="retrain", reason="", executor="")
    causes.claim(engine, [cause.id], "a")
    assert causes.waiting(engine, "taxi") == []
    run_records.end(engine, "a", "failed", {})
    assert ids(causes.waiting(engine, "taxi")) == [cause.id]


def test_a_claim_of_a_run_that_nobody_knows_is_forgotten_in_time(engine, monkeypatch):
    cause = raised(engine)
    causes.claim(engine, [cause.id], "unknown")
    assert causes.waiting(engine, "taxi") == []
    monkeypatch.setattr(causes, "FORGOTTEN", timedelta(0))
    assert ids(causes.waiting(engine, "taxi")) == [cause.id]


def test_released_causes_wait_again_and_answered_ones_do_not(engine):
    one, two = raised(engine), raised(engine, kind="distribution")
    causes.claim(engine, [one.id], "a")
    causes.claim(engine, [two.id], "b")
    causes.release(engine, "a")
    causes.answer(engine, "b", "trained")
    assert ids(causes.waiting(engine, "taxi")) == [one.id]


def test_a_training_answers_the_causes_that_were_raised_before_it(engine):
    before = raised(engine)
    run_records.start(engine, run_id="t", model="taxi", flow="train", reason="by hand", executor="")
    after = raised(engine, kind="distribution")
    assert ids(causes.waiting(engine, "taxi")) == [before.id, after.id]
    run_records.end(engine, "t", "completed", {})
    assert ids(causes.waiting(engine, "taxi")) == [after.id]
    (outcome,) = [one.outcome for one in causes.listed(engine, "taxi") if one.id == before.id]
    assert outcome.startswith("answered by the training of ")


def test_of_several_trainings_the_last_one_that_came_to_its_end_answers(engine):
    causes_of = {}
    for name, state in (("a", "completed"), ("b", "completed"), ("c", "failed")):
        causes_of[name] = raised(engine, key=name)
        run_records.start(engine, run_id=name, model="taxi", flow="train", reason="", executor="")
        run_records.end(engine, name, state, {})
    run_records.start(engine, run_id="d", model="other", flow="train", reason="", executor="")
    run_records.end(engine, "d", "completed", {})
    run_records.start(engine, run_id="e", model="taxi", flow="monitor", reason="", executor="")
    run_records.end(engine, "e", "completed", {})
    assert causes.waiting(engine, "taxi") == [causes_of["c"]]


def test_what_was_sent_is_told_of_one_cause_and_taken_back_for_all_that_wait(engine):
    one, two, three = (raised(engine, key=key) for key in ("a", "b", "c"))
    other = causes.record(engine, model="other", kind="performance", event="e", reason="r", key="d")

    def sent():
        return [
            cause.sent_at is not None for model in ("taxi", "other") for cause in causes.listed(engine, model)[::-1]
        ]

    for cause in (one, two, other):
        causes.mark_sent(engine, cause.id)
    assert sent() == [True, True, False, True]
    causes.claim(engine, [one.id], "run")
    causes.mark_unsent(engine, "taxi")
    assert sent() == [True, False, False, True]  # what is claimed need not be told again, nor another model's
    assert three.sent_at is None


def test_a_training_that_a_wrong_clock_put_into_the_future_answers_nothing(engine, monkeypatch):
    with monkeypatch.context() as wrong:
        wrong.setattr(run_records, "now", lambda: database.now() + timedelta(days=9000))
        run_records.start(engine, run_id="t", model="taxi", flow="train", reason="by hand", executor="")
        run_records.end(engine, "t", "completed", {})
    cause = raised(engine)
    assert ids(causes.waiting(engine, "taxi")) == [cause.id]
