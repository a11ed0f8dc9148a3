"""Fault 5: two processes promote at the same moment, a hundred times, on SQLite and on Postgres from two homes."""

import multiprocessing

import pytest

from flows import database, ledger
from flows.errors import ConflictError
from flows.settings import Settings

ROUNDS = 100
PATIENCE_SECONDS = 60


def promote_in_every_round(settings, number, barrier, outcomes):
    """Promote version ``100 * round + number`` against the champion of the moment, in step with the other process."""
    engine = database.connect(settings)
    for turn in range(1, ROUNDS + 1):
        barrier.wait(PATIENCE_SECONDS)
        expected = ledger.champion(engine, "taxi")
        barrier.wait(PATIENCE_SECONDS)  # both have seen the same champion
        version = 100 * turn + number
        try:
            made = ledger.promote(
                engine, model="taxi", expected=expected, kind="promote", version=version, run_id=f"run{version}",
                model_uri="/nowhere", digest="0" * 64, who=f"process {number}", why="test", evidence={},
            )  # fmt: skip
            outcomes.put((turn, version, f"promotion {made.sequence}"))
        except ConflictError as error:
            outcomes.put((turn, version, str(error)))


@pytest.fixture
def postgres_ledger(postgres):
    return postgres.url("promoters")


@pytest.mark.parametrize("ledger_url", ["", "postgres_ledger"], ids=["sqlite", "postgres"])
def test_in_each_round_one_wins_the_other_is_told_and_each_transition_fits_the_one_before(
    tmp_path, request, ledger_url
):
    url = request.getfixturevalue(ledger_url) if ledger_url else ""
    hosts = [Settings(home=tmp_path / (f"host{number}" if url else "home"), ledger_url=url) for number in (1, 2)]
    context = multiprocessing.get_context("spawn")
    barrier, outcomes = context.Barrier(2), context.Queue()
    promoters = [
        context.Process(target=promote_in_every_round, args=(hosts[number - 1], number, barrier, outcomes), daemon=True)
        for number in (1, 2)
    ]
    for process in promoters:
        process.start()
    found = [outcomes.get(timeout=PATIENCE_SECONDS) for _ in range(2 * ROUNDS)]
    for process in promoters:
        process.join(PATIENCE_SECONDS)
    assert [process.exitcode for process in promoters] == [0, 0]

    winners = {}
    for turn in range(1, ROUNDS + 1):
        won = [version for at, version, text in found if at == turn and text == f"promotion {turn}"]
        told = [version for at, version, text in found if at == turn and "try again" in text]
        assert (len(won), len(told)) == (1, 1)
        winners[turn] = won[0]
    rows = ledger.list_promotions(database.connect(hosts[0]), "taxi")[::-1]
    assert [row.sequence for row in rows] == list(range(1, ROUNDS + 1))
    assert [row.version for row in rows] == list(winners.values())
    assert [row.previous_version for row in rows] == [None, *list(winners.values())[:-1]]
