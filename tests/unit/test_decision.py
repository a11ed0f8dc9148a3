"""The decision: every cause is named, data problems alone never retrain, and nothing retrains in circles."""

from datetime import UTC, datetime, timedelta

import pytest

from flows.causes import Cause
from flows.ledger import Partition, Promotion
from flows.run_records import Run
from flows.spec import Triggers
from flows.steps.decision import Facts, decide, enough_data, findings, gather, standing
from flows.steps.drift import FeatureDrift
from flows.steps.performance import Performance

NOW = datetime(2024, 3, 1, tzinfo=UTC)
TRIGGERS = Triggers(min_labels=100, cool_down=timedelta(hours=6))


def performance(degraded):
    nothing = float("nan")
    return Performance(
        metric="rmse", first_event=NOW, last_event=NOW, predictions=900, labelled=800, waiting=100, outside=0,
        error=7.0, interval=(6.5, 7.5), reference_error=3.4, expected=3.5, ratio=2.0,
        ratio_interval=(1.8, 2.2) if degraded else (nothing, nothing), days=(), slices=(), degraded=degraded,
    )  # fmt: skip


def drifts(*names, missing=0.0, watched=True):
    return tuple(
        FeatureDrift(
            feature=name, distance=0.31, limit=0.1, missing=missing, missing_reference=0.0, samples=900,
            watched=watched, drifted=watched,
        )
        for name in names
    )  # fmt: skip


def facts(**values):
    return Facts(**{"since_training": timedelta(days=3), "new_partitions": 2, **values})


def test_without_a_cause_nothing_is_retrained():
    decision = decide(facts(performance=performance(False)), TRIGGERS)
    assert (decision.retrain, decision.reasons, decision.held) == (False, (), ())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"performance": performance(True)}, ["performance", "rmse 7", "800", "2.00 times (1.80 to 2.20)", "3.5"]),
        ({"drift": drifts("distance_miles", "label")}, ["drift", "distance_miles 0.31 (limit 0.10)", "label"]),
        ({"age": timedelta(days=40)}, ["staleness", "40 days", "30 days"]),
    ],
)
def test_each_cause_retrains_and_says_why(values, words):
    decision = decide(facts(**values), TRIGGERS.model_copy(update={"max_age": timedelta(days=30)}))
    assert decision.retrain
    assert len(decision.reasons) == 1
    assert all(word in decision.reasons[0] for word in words)


def test_several_causes_are_one_decision_that_names_them_all():
    decision = decide(facts(performance=performance(True), drift=drifts("hour")), TRIGGERS)
    assert decision.retrain
    assert [reason.split(":")[0] for reason in decision.reasons] == ["performance", "drift"]


def test_fewer_drifted_columns_than_asked_for_do_not_retrain():
    two = TRIGGERS.model_copy(update={"drift_features": 2})
    assert not decide(facts(drift=drifts("hour")), two).reasons
    assert decide(facts(drift=drifts("hour", "label")), two).retrain


def test_what_stayed_within_its_limit_is_no_drift_however_many_columns_are_looked_at():
    calm = tuple(one.model_copy(update={"drifted": False}) for one in drifts("hour", "label", "distance_miles"))
    assert findings(facts(drift=calm), TRIGGERS) == {}
    found = findings(facts(drift=(*calm[:2], *drifts("zone"))), TRIGGERS)
    assert found == {"distribution": "drift: zone 0.31 (limit 0.10)"}


@pytest.mark.parametrize(("policy", "kind"), [("performance", "performance"), ("drift", "distribution")])
def test_a_policy_that_watches_one_thing_is_deaf_to_the_others(policy, kind):
    limits = TRIGGERS.model_copy(update={"policy": policy, "max_champion_age": timedelta(days=1)})
    all_of = facts(performance=performance(True), drift=drifts("hour"), champion_age=timedelta(days=9))
    assert list(findings(all_of, limits)) == [kind]


def test_a_data_problem_is_told_but_never_retrains_by_itself():
    decision = decide(facts(data_problems=("partition 2024-02-01 is quarantined: schema",)), TRIGGERS)
    assert not decision.retrain
    assert not decision.reasons
    assert decision.notes == ("partition 2024-02-01 is quarantined: schema",)


def test_a_data_problem_beside_a_cause_does_not_stop_the_retraining():
    decision = decide(facts(drift=drifts("hour"), data_problems=("bad",)), TRIGGERS)
    assert (decision.retrain, decision.notes) == (True, ("bad",))


def test_the_cool_down_holds_back_and_says_so():
    decision = decide(facts(drift=drifts("hour"), since_training=timedelta(hours=5)), TRIGGERS)
    assert not decision.retrain
    assert decision.reasons
    assert "5 hours ago" in decision.held[0]
    assert decide(facts(drift=drifts("hour"), since_training=timedelta(hours=6)), TRIGGERS).retrain


def test_without_new_data_the_same_cause_does_not_retrain_again():
    decision = decide(facts(drift=drifts("hour"), new_partitions=0), TRIGGERS)
    assert not decision.retrain
    assert "nothing new" in decision.held[0]


def partition(key, status, decided, last_event=NOW, reasons=()):
    return Partition(
        id=1, model="taxi", key=key, revision=1, digest="d", source="s", status=status, uri="u", accepted_uri="a",
        rejected_uri=None, docs_uri=None, rows=1, accepted_rows=1, rejected_rows=0, reasons=list(reasons),
        statistics={}, validation={}, first_event=NOW, last_event=last_event, landed_at=decided, decided_at=decided,
        featurized_at=None,
    )  # fmt: skip


def run(flow, state, started):
    return Run(
        id=f"{flow}{started}", model="taxi", flow=flow, reason="", state=state, executor="", summary={},
        started_at=started, ended_at=None,
    )  # fmt: skip


def days(number):
    return NOW + timedelta(days=number)


CHAMPION = Promotion(
    id=1, model="taxi", sequence=1, kind="promote", version=1, previous_version=None, run_id="r", model_uri="m",
    digest="d", who="w", why="y", evidence={}, at=NOW,
)  # fmt: skip


def collected(partitions=(), runs=(), drift=()):
    return gather(TRIGGERS, performance(False), drift, CHAMPION, days(-2), partitions, runs, days(10))


def test_what_was_accepted_after_the_last_training_is_new():
    accepted = [partition("a", "accepted", days(1)), partition("b", "accepted", days(5))]
    parts = [*accepted, partition("c", "replaced", days(6))]
    assert collected(parts).new_partitions == 2
    assert collected(parts, [run("train", "completed", days(3))]).new_partitions == 1
    assert collected(parts, [run("ingest", "completed", days(9))]).new_partitions == 2


def test_of_several_trainings_the_last_one_counts_whatever_their_order():
    parts = [partition("a", "accepted", days(1)), partition("b", "accepted", days(5))]
    earlier, later = run("train", "completed", days(3)), run("train", "completed", days(6))
    for runs in ([earlier, later], [later, earlier]):
        found = collected(parts, runs)
        assert (found.new_partitions, found.since_training) == (0, timedelta(days=4))


def test_the_keys_of_what_is_new_are_told_from_first_to_last():
    found = collected([partition(key, "accepted", days(1)) for key in ("b", "c", "a")])
    assert found.new_keys == ("a", "b", "c")
    assert enough_data(found, TRIGGERS.model_copy(update={"new_partitions": 3})).startswith(
        "new data: 3 partitions (a to c)"
    )


def test_a_failed_training_learned_nothing_but_counts_for_the_cool_down():
    found = collected([partition("a", "accepted", days(1))], [run("train", "failed", days(9.9))])
    assert found.new_partitions == 1
    assert found.since_training < TRIGGERS.cool_down


def test_without_a_recorded_training_the_promotion_is_the_last_one():
    assert collected().since_training == timedelta(days=10)


def test_the_champion_grows_old_by_the_wall_clock_whatever_was_trained_since():
    runs = [run("train", "failed", days(9))]
    assert standing(CHAMPION, [], runs, days(31)).champion_age == timedelta(days=31)
    limits = TRIGGERS.model_copy(update={"max_champion_age": timedelta(days=30)})
    assert list(findings(standing(CHAMPION, [], runs, days(31)), limits)) == ["staleness"]
    assert findings(standing(CHAMPION, [], runs, days(30)), limits) == {}


def test_quarantined_partitions_are_problems_until_the_key_is_accepted():
    bad = partition("2024-03-02", "quarantined", days(1), reasons=["column trip_distance is missing"])
    assert collected([bad]).data_problems == ("partition 2024-03-02 is quarantined: column trip_distance is missing",)
    assert collected([bad, partition("2024-03-02", "accepted", days(2))]).data_problems == ()
    assert collected([bad], [run("train", "completed", days(2))]).data_problems == ()
    assert len(standing(None, [bad], [], days(2)).data_problems) == 1
    waiting = partition("2024-03-03", "landed", days(2)).model_copy(update={"decided_at": None})
    assert standing(None, [waiting], [run("train", "completed", days(2))], days(3)).data_problems == ()


def test_features_that_went_missing_are_a_problem_of_the_data():
    found = collected(drift=drifts("route_trips_28d", missing=0.9, watched=False))
    assert "route_trips_28d" in found.data_problems[0]
    assert not decide(found, TRIGGERS).retrain


def test_the_age_is_counted_on_the_clock_of_the_data():
    parts = [partition(key, "accepted", days(1), last_event=days(at)) for key, at in (("a", 3), ("b", 4), ("c", 2))]
    assert collected(parts).age == timedelta(days=6)
    unsaid = [
        partition("d", "accepted", days(1), last_event=None),
        partition("e", "quarantined", days(1), last_event=days(9)),
    ]
    assert collected([*parts, *unsaid]).age == timedelta(days=6)
    assert collected(unsaid).age is None
    assert gather(TRIGGERS, performance(False), (), CHAMPION, None, parts, [], days(10)).age is None


def cause(kind, reason):
    return Cause(
        id=1, key=reason, model="taxi", kind=kind, event="e", reason=reason, payload={}, at=NOW, sent_at=None,
        claimed_by=None, claimed_at=None, answered_at=None, outcome=None,
    )  # fmt: skip


def test_causes_that_wait_and_what_is_found_now_are_named_together_each_once():
    waiting = (cause("new data", "new data: 7 partitions"), cause("schedule", "schedule: weekly"))
    stale = TRIGGERS.model_copy(update={"max_champion_age": timedelta(days=30)})
    decision = decide(facts(causes=(*waiting, waiting[0]), champion_age=timedelta(days=31)), stale)
    assert decision.retrain
    assert [reason.split(":")[0] for reason in decision.reasons] == ["new data", "schedule", "staleness"]


@pytest.mark.parametrize("kind", ["schedule", "new data", "performance", "distribution", "staleness"])
def test_no_cause_but_a_person_overrules_the_cool_down_and_the_want_of_new_data(kind):
    held = facts(causes=(cause(kind, f"{kind}: x"),), new_partitions=0, since_training=timedelta(minutes=1))
    assert len(decide(held, TRIGGERS).held) == 2
    asked = held.model_copy(update={"causes": (*held.causes, cause("on demand", "on demand: me"))})
    decision = decide(asked, TRIGGERS)
    assert (decision.retrain, decision.held) == (True, ())
    assert decision.reasons == (f"{kind}: x", "on demand: me")


def test_silence_and_an_old_champion_are_stale_by_the_wall_clock():
    limits = TRIGGERS.model_copy(update={"expected_every": timedelta(days=2), "max_champion_age": timedelta(days=30)})
    within = facts(since_accepted=timedelta(days=2), champion_age=timedelta(days=30))
    assert findings(within, limits) == {}
    found = findings(facts(since_accepted=timedelta(days=3), champion_age=timedelta(days=31)), limits)
    assert found == {
        "staleness": "staleness: no partition was accepted for 3 days, one is expected every 2 days; "
        "staleness: the champion has served for 31 days, more than 30 days"
    }


@pytest.mark.parametrize(
    ("partitions", "rows", "enough"),
    [(3, None, False), (2, None, True), (None, 300, False), (None, 200, True), (3, 200, True), (None, None, False)],
)
def test_enough_new_data_is_so_many_partitions_or_so_many_rows(partitions, rows, enough):
    triggers = TRIGGERS.model_copy(update={"new_partitions": partitions, "new_rows": rows})
    found = enough_data(facts(new_rows=200, new_keys=("2024-03-01", "2024-03-02")), triggers)
    assert bool(found) is enough
    if enough:
        assert found == "new data: 2 partitions (2024-03-01 to 2024-03-02) with 200 rows"


def test_data_that_a_training_under_way_reads_is_not_new():
    parts = [partition("a", "accepted", days(1)), partition("b", "accepted", days(5))]
    found = standing(None, parts, [run("train", "running", days(3))], days(10), [cause("schedule", "schedule")])
    assert (found.new_keys, found.new_rows, found.since_accepted) == (("b",), 1, timedelta(days=5))
    assert [one.kind for one in found.causes] == ["schedule"]


def test_a_training_that_a_wrong_clock_put_into_the_future_holds_nothing_back():
    parts = [partition("a", "accepted", days(1)), partition("b", "accepted", days(5))]
    runs = [run("train", "completed", days(9000)), run("train", "completed", days(3))]
    found = standing(CHAMPION.model_copy(update={"at": days(9000)}), parts, runs, days(10))
    assert (found.new_keys, found.since_training) == (("b",), timedelta(days=7))
    ahead = run("train", "completed", days(10) + timedelta(minutes=2))  # another host's clock
    assert standing(None, parts, [ahead], days(10)).new_partitions == 0
    alone = standing(CHAMPION.model_copy(update={"at": days(9000)}), parts, [], days(10))
    assert (alone.new_partitions, alone.since_training) == (2, None)


def test_before_the_first_training_all_accepted_data_is_new_and_nothing_cools_down():
    found = standing(None, [partition("a", "accepted", days(1))], [], days(2))
    assert (found.new_partitions, found.since_training, found.champion_age) == (1, None, None)
    assert decide(found.model_copy(update={"causes": (cause("new data", "new data: 1"),)}), TRIGGERS).retrain
