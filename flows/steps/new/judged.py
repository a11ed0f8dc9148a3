"""What the newest part of a table can judge: how long it must be, which slices it can tell of, and whether order is time."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from flows.errors import UsageError
from flows.steps.new.draft import Given
from flows.steps.new.moments import TIMED, Moments, judge_lengths, judged_rows
from flows.steps.new.table import Column, Looked
from flows.steps.new.wanted import Task, span_text
from flows.steps.sql import identifier

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SLICED = 12  # values of a column that the error is reported by
SLICE_ROWS = 100  # at least, of a slice that is judged by itself
FEW = 30  # rows of a class below which verdicts on it are by chance
OF_RAREST = 20  # rows of the rarest class that a slice should hold
DAY = timedelta(days=1)
YEARS = 3 * 365 * DAY  # of a long table that train: the newest ones, if they hold enough
ENOUGH = 1000  # rows from which older ones are left out
SPARSE = 0.5  # share of rows without a past from which it is no feature
CLOSE = 3  # ticks that an entity's rows may lie apart, and windows of ticks still hold some of them
ALIKE = 0.1  # by how much more or less than the middle one a gap may be as long: months and years are not equally long


def lengthen(connection: DuckDBPyConnection, moments: Moments, label: Column, task: Task) -> Moments:
    """Return the moments with a longer judging part where the usual one holds too few rows of the rarest class."""
    for longer in judge_lengths(moments.first, moments.last, moments.tick):
        if task == "regression" or min(_of_classes(connection, moments, label)) >= FEW:
            break
        if longer > moments.judge:
            rows = judged_rows(connection, moments.last, longer)
            moments = moments.model_copy(update={"judge": longer, "judge_rows": rows})
    return moments


def windows_of(
    connection: DuckDBPyConnection, moments: Moments, delay: timedelta, entities: list[str]
) -> tuple[timedelta, timedelta, timedelta]:
    """Return how far an entity's rows lie apart, and how long the shorter and the longer window of its past are.

    Windows have seven and 28 ticks, or as many gaps where rows are rarer; the gaps of the whole table where there is no
    entity. Where labels come late they reach further back, or they would hold rows without labels alone: by the shorter
    window, so that what was a week before is of the same day of the week still.
    """
    tick = moments.tick
    gaps = [_usual_gap(connection, keys) for keys in ([[name] for name in entities] or [[]])]
    usual, gap = min([one for one in gaps if one], default=(tick, tick))
    if usual <= CLOSE * tick:
        usual = gap = tick
    gap = -(-gap // tick) * tick
    short, long = (round(number * usual / tick) * tick for number in (7, 28))
    lead = timedelta(0) if delay <= 2 * gap else -(-delay // short) * short
    return gap, lead + short, lead + long


def _usual_gap(connection: DuckDBPyConnection, keys: list[str]) -> tuple[timedelta, timedelta] | None:
    """Return the mean and the longest of the usual gaps between two moments of one key: those about as long as the middle one."""
    names = "".join(f"{identifier(name)}, " for name in keys)
    by = f"PARTITION BY {names[:-2]}" if keys else ""
    middle, mean, longest = connection.execute(
        f"""
        WITH gaps AS (
            SELECT epoch_us(moment) - lag(epoch_us(moment)) OVER ({by} ORDER BY moment) AS gap
            FROM (SELECT DISTINCT {names}moment FROM {TIMED} WHERE isfinite(moment))
        ), usual AS (SELECT median(gap) AS middle FROM gaps)
        SELECT any_value(middle), avg(gap), max(gap) FROM gaps, usual
        WHERE gap BETWEEN (1 - $alike) * middle AND (1 + $alike) * middle
        """,
        {"alike": ALIKE},
    ).fetchone() or (None, None, None)
    return None if middle is None else (timedelta(microseconds=mean), timedelta(microseconds=longest))


def window_of(connection: DuckDBPyConnection, moments: Moments, long: timedelta) -> tuple[timedelta, int]:
    """Return how far back a training reaches, with room to grow, and how many rows train of this table.

    Of many years the newest ones train, as many at least as the longer window has. Where rows are so rare that those are
    too few, all of them do.
    """
    span, split = moments.last - moments.first, moments.last - moments.judge
    whole = max(round(1.5 * span / DAY) * DAY, 2 * DAY)
    years = max(YEARS, long)
    for length in (years if span >= 365 * DAY else whole, max(whole, years)):
        query = f"SELECT count(*) FROM {TIMED} WHERE moment > $since AND moment <= $split"
        (rows,) = connection.execute(query, {"since": split - length, "split": split}).fetchone() or (0,)
        if rows >= ENOUGH or length >= span:
            break
    return length, int(rows)


def check_past(
    connection: DuckDBPyConnection, moments: Moments, delay: timedelta, window: timedelta, definitions: str
) -> str | None:
    """Return a warning if rows are so far apart that a past of this length knows of none before most of them.

    ``definitions`` is the module in which a past's validity stands.
    """
    rows, known = connection.execute(
        f"""
        WITH times AS (SELECT moment, count(*) AS n FROM {TIMED} GROUP BY moment)
        SELECT sum(a.n), sum(a.n) FILTER (b.moment >= a.moment - $window)
        FROM times a ASOF LEFT JOIN times b ON a.moment - $delay >= b.moment WHERE a.moment >= $since
        """,
        {"window": window, "delay": max(delay, moments.tick), "since": moments.first + max(delay, moments.tick)},
    ).fetchone() or (0, 0)
    if not rows or (known or 0) >= (1 - SPARSE) * rows:
        return None
    beside = definitions.startswith("feature_repo.")  # else they lie in the model's own folder, as the other files
    file = f"{definitions.replace('.', '/')}.py" if beside else "definitions.py"
    return (
        f"{1 - (known or 0) / rows:.0%} of the rows have no row in the {span_text(window)} before them: their past is unknown; "
        f"lengthen SHORT, LONG and NEWEST in features.py, VALID_FOR in {file} and history in spec.py"
    )


def check_delay(moments: Moments, delay: timedelta) -> str | None:
    """Return a warning if no row that trains can have a past, so late are the labels known.

    Raises UsageError if none is known before the part that judges.
    """
    learned = moments.last - moments.first - moments.judge
    late = f"a label is known {span_text(delay)} after its row, and the rows that train span {span_text(learned)}"
    if delay >= learned:
        raise UsageError(f"{late}: no label would train; bring a longer table, or a shorter --delay")
    if 2 * delay >= learned:
        return f"{late}: the past is not known of any that trains, bring a longer table"
    return None


def check_order(connection: DuckDBPyConnection, moments: Moments, label: Column, task: Task) -> str | None:
    """Return a warning if the rows are sorted by their label.

    Raises UsageError for classes one after the other where the order of the rows stands for their time: it is none then,
    and the newest rows are of a class that training knows little of.
    """
    column = identifier(label.name)
    changes, rises, falls = connection.execute(
        f"SELECT count(*) FILTER (label <> before), count(*) FILTER (label > before), count(*) FILTER (label < before) FROM "
        f"(SELECT label, lag(label) OVER (ORDER BY moment, number) AS before FROM (SELECT {column} AS label, moment, "
        f"rowid AS number FROM {TIMED} WHERE {column} IS NOT NULL))"
    ).fetchone() or (0, 0, 0)
    if label.distinct > 2 and task == "regression" and not (rises and falls):
        return f"the rows are sorted by {label.name}: is their order, or their time, that in which they happened?"
    if task == "regression" or changes >= label.distinct:
        return None
    if moments.form in ("order", "ordinal"):
        raise UsageError(
            f"the rows are sorted by {label.name}, one class after the other, so their order is no time: shuffle them "
            "once if they have none, or name the column that says when a row happened with --time"
        )
    return (
        f"{label.name} has one class after the other in time: the newest part judges by one that training hardly knows"
    )


def slice_rows(rows: int, rarest: int, task: Task) -> int:
    """Return how many rows a slice needs: enough to hold some of the rarest class, or its error is a matter of chance."""
    return SLICE_ROWS if task == "regression" else max(SLICE_ROWS, round(OF_RAREST * rows / max(rarest, 1)))


def rarest(connection: DuckDBPyConnection, label: Column) -> int:
    """Return the number of rows of the rarest class."""
    column = identifier(label.name)
    query = f"SELECT min(n) FROM (SELECT count(*) AS n FROM {TIMED} WHERE {column} IS NOT NULL GROUP BY {column})"
    return int((connection.execute(query).fetchone() or (0,))[0])


def slices(
    connection: DuckDBPyConnection, looked: Looked, given: tuple[Given, ...], moments: Moments, least: int
) -> tuple[str, ...]:
    """Return at most two features of few values, of which two at least have twice the rows that a judged slice needs."""
    found: list[tuple[int, int, int, str]] = []
    for one in given:
        column = looked.column(one.raw)
        if not one.feature or not 2 <= column.distinct <= SLICED:
            continue
        name = identifier(column.name)
        (often,) = connection.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM {TIMED} WHERE moment > $since AND {name} IS NOT NULL GROUP BY {name} "
            "HAVING count(*) >= $least)",
            {"since": moments.last - moments.judge, "least": 2 * least},
        ).fetchone() or (0,)
        if often:
            found.append((-min(often, 2), column.distinct, len(found), one.feature))
    return tuple(feature for *_, feature in sorted(found)[:2])


def _of_classes(connection: DuckDBPyConnection, moments: Moments, label: Column) -> list[int]:
    """Return how many rows of each class judge."""
    column = identifier(label.name)
    counts = connection.execute(
        f"SELECT count(*) FILTER (moment > $since) FROM {TIMED} WHERE {column} IS NOT NULL GROUP BY {column}",
        {"since": moments.last - moments.judge},
    ).fetchall()
    return [count for (count,) in counts] or [0]
