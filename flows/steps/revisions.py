"""What a revision of a partition replaces: a further part is none, and one that tells of much less says so."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Engine

from flows import ledger
from flows.ledger import BY, Partition
from flows.secret import shown
from flows.steps.periods import parse_key

LEFT_OUT = 0.1  # share of a partition's time, rows and labels which a revision may leave out without a word


def uncovered(before: Partition, first: datetime, last: datetime) -> tuple[str, ...]:
    """Return what is wrong with a revision that tells of none of the time of the one that it would replace: a further part."""
    assert before.first_event
    assert before.last_event
    if first <= before.last_event and last >= before.first_event:
        return ()
    period = parse_key(before.key)
    shorter = "" if period and period.kind == "day" else ", or land by shorter periods"
    return (
        f"{_span(first, last)} alone, and revision {before.revision} holds {_span(before.first_event, before.last_event)}: "
        f"a file replaces its whole period; bring all of it in one file{shorter}; if revision {before.revision} is wrong, "
        "ingest this one with --again",
    )


def left_out(
    before: Partition, first: datetime, last: datetime, rows: int, statistics: dict[str, Any]
) -> tuple[str, ...]:
    """Return a note if a revision tells of much less than the one that it replaces: it may be a part of the period.

    ``rows`` are those that came, as ``before.rows`` are. One of fewer labels may be older than what it replaces.
    """
    assert before.first_event
    assert before.last_event
    part = "a part"
    out = max(first - before.first_event, timedelta(0)) + max(before.last_event - last, timedelta(0))
    if out > LEFT_OUT * (before.last_event - before.first_event):
        less, whole = _span(first, last), _span(before.first_event, before.last_event)
    elif rows < (1 - LEFT_OUT) * before.rows:  # some shops, or some machines, of the whole time
        less, whole = f"{rows:,} rows", f"{before.rows:,} rows"
    elif (known := _labels(statistics)) < (1 - LEFT_OUT) * (labels := _labels(before.statistics)):
        less, whole, part = f"{known:,} labels", f"{labels:,} labels", "older"
    else:
        return ()
    return (
        f"it tells of {less} alone and replaces revision {before.revision} of {whole} whole; if it is {part}, take that "
        f"one back: `{brought_by(before, again=True)}`",
    )


def taken_back(engine: Engine, partition: Partition, before: Partition) -> tuple[str, ...]:
    """Return a note if rows that were replaced come back: with the period that was meant, all others of their source do."""
    replaced = ledger.list_partitions(engine, partition.model, "replaced")
    same = [p.revision for p in replaced if (p.key, p.digest) == (partition.key, partition.digest)]
    if not same:
        return ()
    return (
        f"the rows of revision {max(same)} once more, in place of revision {before.revision}; if that one is to stay, take it "
        f"back: `{brought_by(before, again=True)}`",
    )


def brought_by(partition: Partition, again: bool = False) -> str:
    """Return the command that brings the rows of a partition once more; ``again`` if others have replaced them by then."""
    # Rows and labels that came apart are together in the landed file alone.
    source = partition.uri if partition.validation.get(BY) == "label" else shown(partition.source)
    return f"evergreen ingest {source}{' --again' if again else ''}"


def _labels(statistics: dict[str, Any]) -> int:
    """Return how many rows have a label."""
    return int(statistics.get("columns", {}).get(statistics.get("label"), {}).get("count", 0))


def _span(low: datetime, high: datetime) -> str:
    return f"{low:%Y-%m-%d %H:%M} to {high:%Y-%m-%d %H:%M} UTC"
