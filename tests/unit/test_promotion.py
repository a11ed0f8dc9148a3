"""Where a rollback leads, and that the ledger lets one transition follow each state."""

from __future__ import annotations

from typing import Any

import pytest

from flows import database, ledger
from flows.errors import ConflictError, RefusedError
from flows.ledger import Promotion
from flows.models.taxi.spec import spec
from flows.settings import Settings
from flows.steps import registry
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


def test_a_version_that_a_person_has_refused_is_promoted_by_its_number_alone(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(number: int, refused: str = "") -> registry.Version:
        return registry.Version(
            model="taxi", version=number, run_id=f"run{number}", folder="/nowhere", digest="0" * 64, refused=refused,
            fingerprint="", reason="", created_at=database.now(),
        )  # fmt: skip

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
