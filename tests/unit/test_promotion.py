"""Where a rollback leads, and that the ledger lets one transition follow each state."""

from __future__ import annotations

from typing import Any

import pytest

from flows import database, ledger
from flows.errors import ConflictError, RefusedError
from flows.ledger import Promotion
from flows.models.taxi.spec import spec
from flows.settings import Settings
from flows.steps import promotion, registry
from flows.steps.promotion import choose, rollback_target


def add(engine: Any, expected: Promotion | None, version: int, kind: str = "promote") -> Promotion:
    return ledger.promote(
        engine, model="taxi", expected=expected, kind=kind, version=version, run_id=f"run{version}", model_uri="/nowhere",
        digest="0" * 64, who="test", why="test", evidence={},
    )  # fmt: skip


def write(engine: Any, steps: list[tuple[str, int]]) -> list[Promotion]:
    last = None
    for kind, version in steps:
        last = add(engine, last, version, kind)
    return ledger.list_promotions(engine, "taxi")


@pytest.mark.parametrize(
    ("steps", "target"),
    [
        ([], None),
        ([("promote", 1)], None),
        ([("promote", 1), ("promote", 2)], 1),
        ([("promote", 1), ("promote", 2), ("promote", 3)], 2),
        ([("promote", 1), ("promote", 2), ("promote", 3), ("rollback", 2)], 1),
        ([("promote", 1), ("promote", 2), ("promote", 3), ("rollback", 2), ("rollback", 1)], None),
        ([("promote", 1), ("promote", 2), ("rollback", 1), ("promote", 2)], 1),
        ([("promote", 1), ("promote", 2), ("rollback", 1), ("promote", 3)], 1),
    ],
)
def test_a_rollback_takes_back_the_newest_promotion_that_stands(
    home: Settings, steps: list[tuple[str, int]], target: int | None
) -> None:
    found = rollback_target(write(database.connect(home), steps))
    assert (found.version if found else None) == target


def test_a_promotion_against_a_state_that_has_passed_is_refused_and_changes_nothing(home: Settings) -> None:
    engine = database.connect(home)
    first = add(engine, None, 1)
    add(engine, first, 2)
    with pytest.raises(ConflictError, match="changed while version 3"):
        add(engine, first, 3)
    with pytest.raises(ConflictError):
        add(engine, None, 3)
    history = ledger.list_promotions(engine, "taxi")
    assert [(row.sequence, row.version, row.previous_version) for row in history] == [(2, 2, 1), (1, 1, None)]


def version(number: int, refused: str = "") -> registry.Version:
    return registry.Version(
        model="taxi", version=number, run_id=f"run{number}", folder="/nowhere", digest="0" * 64, refused=refused,
        fingerprint="", reason="", created_at=database.now(),
    )  # fmt: skip


def test_what_waits_is_newer_than_all_that_ever_served(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = database.connect(home)
    known = {number: version(number) for number in (4, 3, 2, 1)}
    monkeypatch.setattr(registry, "versions", lambda *_: list(known.values()))
    monkeypatch.setattr(registry, "get_version", lambda _, __, number: known[number])
    assert choose(home, spec, engine, None).version == 4
    del known[4], known[3], known[2]
    assert choose(home, spec, engine, None).version == 1
    known |= {2: version(2), 3: version(3)}
    write(engine, [("promote", 1), ("promote", 3), ("rollback", 1)])
    with pytest.raises(RefusedError, match="no challenger waits"):
        choose(home, spec, engine, None)  # neither 2, which another overtook, nor 3, which was taken back


PASSED = {
    "gates": [{"gate": "baseline", "passed": True}, {"gate": "latency", "passed": True}],
    "failed": [],
    "champion": 1,
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"gates": None}, "no record of its gates"),
        ({"gates": []}, "no record of its gates"),
        ({"gates": {"gate": "baseline", "passed": True}}, "no record of its gates"),
        ({"failed": None}, "no record of its gates"),
        ({"failed": ["api"]}, "failed its gates: api;"),
        (
            {"gates": [{"gate": "baseline", "passed": True}, {"gate": "latency", "passed": False}]},
            "failed its gates: latency;",
        ),
        ({"gates": [{"gate": "latency", "passed": "yes"}]}, "failed its gates: latency;"),
        ({"gates": [{"gate": "latency"}], "failed": ["api"]}, "failed its gates: api, latency;"),
    ],
)
def test_evidence_lets_a_version_serve_only_if_each_gate_is_said_to_have_passed(
    home: Settings, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str | None
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(registry, "read_evidence", lambda _: PASSED | change)
    monkeypatch.setattr(promotion, "_open", lambda *given: opened.append(given[-1]))
    if said is None:
        assert promotion.check(home, version(2)) == PASSED
        assert opened == ["0" * 64]  # its files, too, are those that were judged
        return
    with pytest.raises(RefusedError, match=said):
        promotion.check(home, version(2))
    assert opened == []


def test_a_version_that_was_judged_beside_another_champion_is_stale(home: Settings) -> None:
    engine = database.connect(home)
    first = add(engine, None, 1)
    promotion.refuse_stale(version(2), PASSED, first)
    promotion.refuse_stale(version(1), {"champion": None}, None)
    for evidence, champion in (({"champion": 2}, first), ({"champion": None}, first), (PASSED, None)):
        with pytest.raises(ConflictError, match="was judged against version"):
            promotion.refuse_stale(version(3), evidence, champion)


def test_the_champion_is_not_promoted_again_and_any_other_version_is(home: Settings) -> None:
    engine = database.connect(home)
    first = promotion.promote(spec, engine, version(1), PASSED, None, "Ada", "first")
    with pytest.raises(RefusedError, match="version 1 is the champion already"):
        promotion.promote(spec, engine, version(1), PASSED, first, "Ada", "again")
    second = promotion.promote(spec, engine, version(2), PASSED, first, "Ada", "better")
    assert (second.sequence, second.version, second.previous_version, second.evidence) == (2, 2, 1, PASSED)
    assert promotion.rollback_goal(engine, spec) == (first, second)


def test_where_nothing_served_before_there_is_nothing_to_go_back_to(home: Settings) -> None:
    engine = database.connect(home)
    add(engine, None, 1)
    with pytest.raises(RefusedError, match="nothing to roll back to"):
        promotion.rollback_goal(engine, spec)


def test_a_version_that_a_person_has_refused_is_promoted_by_its_number_alone(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = database.connect(home)
    write(engine, [("promote", 1)])
    known = {3: version(3, "Ada: worse on the airport"), 2: version(2), 1: version(1)}
    monkeypatch.setattr(registry, "versions", lambda *_: list(known.values()))
    monkeypatch.setattr(registry, "get_version", lambda _, __, number: known[number])
    assert choose(home, spec, engine, None).version == 2
    assert choose(home, spec, engine, 3).version == 3
    known[2] = version(2, "Ada: too slow")
    with pytest.raises(RefusedError, match="no challenger waits"):
        choose(home, spec, engine, None)
