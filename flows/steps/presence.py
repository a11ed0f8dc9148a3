"""The contract on values: an event time within the period, no empty and no infinite columns, keys that name one row.

Great Expectations passes an empty frame and an all-NaN column, and has no word for an infinite value.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from flows.spec import ModelSpec
from flows.steps.contract import LABELS_TO_COME, count_problem
from flows.steps.event_rows import EVENTS, FLOATS, ROW, compiled, delete_events, local_sql
from flows.steps.periods import Period
from flows.steps.sql import identifier, identifiers, literal
from flows.steps.validation import REJECTS, Check, Judgement, Verdict, reason_of, rows_text

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

OUTSIDE = "event time outside the batch's periods"
UNKNOWN = "event time is missing"
TO_COME = "has a label, and its event time is still to come"


def check_rows(
    connection: DuckDBPyConnection, spec: ModelSpec, period: Period | None, rows: int, usual: list[int]
) -> Judgement:
    """Judge the table ``events`` and add bad rows to ``rejects``; strays count against nobody.

    ``usual`` are the row counts of the accepted partitions before.
    """
    checks: list[Check] = []
    problem = count_problem(spec.source, rows, usual)
    checks.append(_hard("number of rows as usual", problem, f"{rows:,}"))
    if not rows:
        return _judgement([_hard("at least one row", "no rows", "")])
    unknown, outside = _strays(connection, spec, period)
    checks.append(_tolerated(spec, f"{spec.source.event_time}: event time is known", UNKNOWN, unknown, rows))
    if outside:
        checks.append(
            Check(
                source="contract",
                rule="event time within the period",
                observed=f"{rows_text(outside)} outside",
                verdict="rows rejected",
            )
        )
    to_come = _to_come(connection, spec, period)
    if to_come:
        checks.append(_tolerated(spec, "a label is of what has been", TO_COME, to_come, rows))
    if period is None:
        kind = f"no {spec.partition_by} has {spec.source.min_rows} rows or more"
        checks.append(_hard("rows fall into periods", kind, ""))
    checks += _columns(connection, spec, rows)
    checks.append(_keys(connection, spec, rows))
    return _judgement(checks)


def _judgement(checks: list[Check]) -> Judgement:
    failed = (check for check in checks if check.verdict == "failed")
    return Judgement(checks=tuple(checks), reasons=tuple(reason_of(check) for check in failed))


def _hard(rule: str, problem: str | None, observed: str) -> Check:
    return Check(source="contract", rule=rule, observed=problem or observed, verdict="failed" if problem else "passed")


def _tolerated(spec: ModelSpec, rule: str, reason: str, bad: int, rows: int) -> Check:
    """Return a check of a row rule: up to the tolerated share of bad rows it costs only those."""
    limit = spec.source.tolerated
    verdict: Verdict = "passed" if not bad else "failed" if bad > limit * rows else "rows rejected"
    observed = f"{rows_text(bad)} ({bad / rows:.2%}): {reason}" if bad else "every row"
    return Check(source="contract", rule=rule, tolerated=limit, observed=observed, verdict=verdict)


def _insert(connection: DuckDBPyConnection, reason: str, where: str) -> int:
    query = f"INSERT INTO {REJECTS} SELECT {ROW}, {literal(reason)} FROM {EVENTS} WHERE {where}"
    return int((connection.execute(query).fetchone() or (0,))[0])


def _strays(connection: DuckDBPyConnection, spec: ModelSpec, period: Period | None) -> tuple[int, int]:
    """Reject rows without an event time, and those of another period; return how many there are of each."""
    time = local_sql(spec, spec.source.event_time, compiled(spec)[1][spec.source.event_time])
    # Compared with constants alone, so that whole blocks without such rows are passed over.
    endless = f"{time} = TIMESTAMP 'infinity' OR {time} = TIMESTAMP '-infinity'"
    unknown = _insert(connection, UNKNOWN, f"{time} IS NULL OR {endless}")
    outside = 0
    if period:
        elsewhere = f"({time} < TIMESTAMP '{period.start}' OR {time} >= TIMESTAMP '{period.end}')"
        outside = _insert(connection, OUTSIDE, f"{elsewhere} AND NOT ({endless})")
    if unknown or outside:
        # They are no rows of this period: no rule is asked of them.
        delete_events(connection, REJECTS)
    return unknown, outside


def latest(zone: str) -> datetime:
    """Return the local time in a zone until which rows may have labels: now, and a day for clocks that go wrong."""
    return datetime.now(ZoneInfo(zone)).replace(tzinfo=None) + timedelta(days=1)


def _to_come(connection: DuckDBPyConnection, spec: ModelSpec, period: Period | None) -> int:
    """Reject rows with a label of a time to come, and return how many there are.

    They would be the newest of all from then on: what is judged and trained on is counted back from them. Where the order
    of the rows stands for their time, it may run ahead of the clock.
    """
    limit = latest(spec.source.time_zone)
    if spec.source.numbered or (period and period.end <= limit.date()):
        return 0
    kinds, label = compiled(spec)[1], identifier(spec.label.name)
    time = local_sql(spec, spec.source.event_time, kinds[spec.source.event_time])
    known = f"isfinite({label})" if kinds[spec.label.name] in FLOATS else f"{label} IS NOT NULL"
    return _insert(connection, TO_COME, f"{time} > TIMESTAMP '{limit}' AND {known}")


def _columns(connection: DuckDBPyConnection, spec: ModelSpec, rows: int) -> list[Check]:
    """Check that each column of the contract holds values, and finite ones."""
    counts = ", ".join(f"count({identifier(name)})" for name in spec.source.columns)
    found = connection.execute(f"SELECT {counts} FROM {EVENTS}").fetchone() or ()
    empty = [name for name, count in zip(spec.source.columns, found, strict=True) if not count]
    problem = ", ".join(map(repr, empty)) + " all missing" if empty else None
    if spec.label.name in empty:
        problem = f"{problem}; {LABELS_TO_COME}"
    checks = [_hard("each column holds values", problem, "all do")]
    for name, kind in spec.source.columns.items():
        if kind in FLOATS:
            reason, column = f"{name} is infinite", identifier(name)
            bad = _insert(connection, reason, f"{column} = '-inf'::{kind} OR {column} = 'inf'::{kind}")
            checks.append(_tolerated(spec, f"{name}: values are finite", reason, bad, rows))
    return checks


def _keys(connection: DuckDBPyConnection, spec: ModelSpec, rows: int) -> Check:
    """Check that the key names one row; of rows that share one, the first stays."""
    import numpy as np

    names = identifiers(spec.key)
    # Sorting short hashes finds the few keys to look at exactly, in a fifth of the time that grouping by the key takes.
    short = f"(hash({names}) >> 32)::UINTEGER"
    hashes = connection.execute(f"SELECT {short} AS h FROM {EVENTS}").to_arrow_table()["h"].to_numpy()
    hashes = np.sort(hashes)
    again = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    bad = 0
    if len(again):
        reason = literal("repeats the key " + ", ".join(spec.key))
        query = f"""INSERT INTO {REJECTS} SELECT {ROW}, {reason} FROM (
                SELECT {ROW}, row_number() OVER (PARTITION BY {names} ORDER BY {ROW}) AS place FROM {EVENTS}
                WHERE {short} IN (SELECT unnest($again::UINTEGER[]))
            ) WHERE place > 1"""
        bad = int((connection.execute(query, {"again": again.tolist()}).fetchone() or (0,))[0])
    return _tolerated(spec, f"{', '.join(spec.key)}: names one row", "the key was there before", bad, rows)
