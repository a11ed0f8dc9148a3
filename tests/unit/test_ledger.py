"""Partitions in the ledger: the same rows are one landing, one revision of a period is in force, features follow it."""

from datetime import UTC, datetime, timedelta

import pytest

from flows import database, ledger
from flows.ledger import FEATURED, LABELLED_UNTIL, Partition

FIRST, LAST = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)
LATER = datetime(2024, 1, 3, tzinfo=UTC)


@pytest.fixture
def engine(home):
    return database.connect(home)


def land(engine, digest, key="2024-01-01", model="taxi", **values):
    return ledger.add_partition(
        engine, model=model, key=key, digest=digest, source="s", uri=f"/{digest}", rows=9, **values
    )


def accept(engine, one, sha="1", first=FIRST, last=LAST, **values):
    return ledger.decide_partition(
        engine, one.id, "accepted", accepted_uri=f"/accepted/{one.id}", accepted_sha256=sha, accepted_rows=9,
        first_event=first, last_event=last, **values,
    )  # fmt: skip


def states(engine, model="taxi"):
    return [(one.key, one.revision, one.status) for one in ledger.list_partitions(engine, model)]


def test_other_rows_are_the_next_revision_of_their_own_key_and_the_same_rows_none(engine):
    one = land(engine, "a")
    assert (one.revision, one.status, one.uri) == (1, "landed", "/a")
    assert land(engine, "a", reasons=["late"]) == one
    assert [land(engine, digest).revision for digest in ("b", "c")] == [2, 3]
    assert land(engine, "a", key="2024-01-02").revision == land(engine, "a", model="other").revision == 1
    assert land(engine, "a") == one  # whatever came since
    assert ledger.find_partition(engine, "taxi", "2024-01-01", "b").revision == 2
    assert ledger.find_partition(engine, "taxi", "2024-01-01", "z") is None
    assert ledger.find_partition(engine, "other", "2024-01-01", "b") is None


def test_rows_that_were_replaced_come_back_as_a_revision_of_their_own_if_asked_alone(engine):
    one = accept(engine, land(engine, "a"))
    assert land(engine, "a", again=True) == one  # in force still
    accept(engine, land(engine, "b"))
    assert land(engine, "a").revision == 1
    back = land(engine, "a", again=True)
    assert (back.revision, back.status) == (3, "landed")
    assert ledger.find_partition(engine, "taxi", "2024-01-01", "a") == back  # the newest of the same rows
    assert land(engine, "a", again=True) == back  # it waits to be judged


def test_one_revision_of_a_key_is_in_force_and_one_that_is_decided_late_does_not_come_back(engine):
    one, two, other = land(engine, "a"), land(engine, "b"), land(engine, "c", key="2024-01-02")
    foreign = accept(engine, land(engine, "a", model="other"))
    accept(engine, other)
    assert accept(engine, two).status == "accepted"
    assert accept(engine, one).status == "replaced"
    three = land(engine, "d")
    assert ledger.decide_partition(engine, three.id, "quarantined", reasons=["bad"]).status == "quarantined"
    assert states(engine) == [
        ("2024-01-01", 1, "replaced"), ("2024-01-01", 2, "accepted"), ("2024-01-01", 3, "quarantined"),
        ("2024-01-02", 1, "accepted"),
    ]  # fmt: skip
    assert accept(engine, land(engine, "e")).status == "accepted"
    assert [one.revision for one in ledger.list_partitions(engine, "taxi", "accepted")] == [4, 1]
    assert ledger.list_partitions(engine, "other") == [foreign]
    # The one in force may be judged once more.
    assert accept(engine, ledger.list_partitions(engine, "taxi", "accepted")[0]).status == "accepted"


def test_features_know_a_partition_until_its_rows_are_made_otherwise_or_refused(engine):
    one = accept(engine, land(engine, "a"), sha="1")
    assert (one.featurized_at, one.featured) == (None, None)
    ledger.mark_featurized(engine, [one.id], LATER, {one.id: "1"})
    again = accept(engine, one, sha="1")
    assert (again.featurized_at, again.featured) == (LATER, (FIRST, LAST))

    # Other rows of the same partition: features know the old ones, and which they were is kept until they know the new ones.
    moved = FIRST + timedelta(hours=1)
    other = accept(engine, one, sha="2", first=moved, validation={"checks": []})
    assert (other.featurized_at, other.featured, other.first_event) == (None, (FIRST, LAST), moved)
    assert other.validation == {"checks": [], FEATURED: [FIRST.isoformat(), LAST.isoformat()]}
    third = accept(engine, one, sha="3", first=moved)
    assert third.featured == (FIRST, LAST)  # also after another change
    ledger.mark_featurized(engine, [one.id], LATER, {one.id: "2"})  # a featurization that had begun before
    (found,) = ledger.list_partitions(engine, "taxi")
    assert found.featurized_at is None
    ledger.mark_featurized(engine, [one.id], LATER, {one.id: "3"})
    (found,) = ledger.list_partitions(engine, "taxi")
    assert (found.featurized_at, found.featured) == (LATER, (moved, LAST))

    refused = ledger.decide_partition(
        engine, one.id, "quarantined", accepted_sha256=None, first_event=None, last_event=None
    )
    assert (refused.featurized_at, refused.featured) == (None, (moved, LAST))


def test_the_newest_event_that_features_know_is_of_the_model_and_of_what_was_featurized(engine):
    assert ledger.newest_featurized(engine, "taxi") is None
    days = [
        accept(engine, land(engine, "a", key=f"2024-01-0{day}"), last=LAST + timedelta(days=day)) for day in (1, 2, 3)
    ]
    other = accept(engine, land(engine, "a", model="other"), last=LAST + timedelta(days=9))
    assert ledger.newest_featurized(engine, "taxi") is None
    ledger.mark_featurized(engine, [days[0].id, days[1].id, other.id], LATER)
    assert ledger.newest_featurized(engine, "taxi") == LAST + timedelta(days=2)
    assert [one.featurized_at for one in ledger.list_partitions(engine, "taxi")] == [LATER, LATER, None]


@pytest.mark.parametrize(
    ("statistics", "until"),
    [
        ({}, LAST),
        ({LABELLED_UNTIL: None}, None),
        ({LABELLED_UNTIL: FIRST.isoformat()}, FIRST),
        ({LABELLED_UNTIL: LATER.isoformat()}, LAST),
    ],
)
def test_labels_reach_as_far_as_was_recorded_and_never_beyond_the_events(engine, statistics, until):
    assert accept(engine, land(engine, "a"), statistics=statistics).labelled_until == until
    assert land(engine, "b").labelled_until is None


def test_a_partition_without_events_is_not_in_the_features(engine):
    one = land(engine, "a")
    timeless = Partition(**one.model_dump() | {"featurized_at": LATER, "first_event": None, "last_event": None})
    assert timeless.featured is None


def promoted(engine, expected, version, model="taxi"):
    return ledger.promote(
        engine, model=model, expected=expected, kind="promote", version=version, run_id="r", model_uri="m", digest="d",
        who="w", why="y", evidence={},
    )  # fmt: skip


def test_the_champion_and_the_highest_version_are_those_of_the_model(engine):
    from flows import trials
    from flows.spec import Rollout

    assert (ledger.champion(engine, "taxi"), ledger.highest_version(engine, "taxi")) == (None, 0)
    two = promoted(engine, promoted(engine, None, 5), 3)
    promoted(engine, None, 9, "other")
    assert (ledger.champion(engine, "taxi"), ledger.champion(engine, "taxi").previous_version) == (two, 5)
    assert (ledger.highest_version(engine, "taxi"), ledger.highest_version(engine, "other")) == (5, 9)
    trials.begin(
        engine,
        kind="canary",
        champion=two,
        version=7,
        run_id="r",
        model_uri="m",
        digest="d",
        rollout=Rollout(),
        who="w",
        why="y",
    )
    assert (ledger.highest_version(engine, "taxi"), ledger.highest_version(engine, "other")) == (7, 9)
    assert [one.sequence for one in ledger.list_promotions(engine, "taxi")] == [2, 1]
    assert ledger.list_promotions(engine, "taxi", limit=1) == [two]
