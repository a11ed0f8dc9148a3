"""What names one row of a new model: its time, its entities, and as few other fields as it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.errors import UsageError
from flows.steps.new.draft import Given
from flows.steps.new.moments import TIMED, Moments
from flows.steps.new.table import Looked
from flows.steps.sql import identifier

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

REPEATED = 0.02  # share of rows that may repeat a key


def find_key(
    connection: DuckDBPyConnection, looked: Looked, moments: Moments, event_time: str, given: tuple[Given, ...],
    entities: list[str], slot: str | None, told: tuple[str, ...],
) -> tuple[tuple[str, ...], int]:  # fmt: skip
    """Return the fields that together name one row, and how many rows repeat another's all the same.

    They are those of the columns that were ``told``, or else as few as it takes, time and entities first. A prediction
    meets its label on them. Raises UsageError if too many rows repeat one, or a column that was told is no such field.
    """
    if told:
        return _as_told(connection, looked, moments, event_time, given, told)
    raw = {one.name: one.raw for one in given}
    key = [*entities]
    # The hour that a clock shows twice is no reason for a longer key.
    told_apart_by = identifier(moments.columns[0]) if moments.form == "instant" else "moment"

    def repeated(names: list[str], table: str, time: str = told_apart_by) -> int:
        query = f"SELECT count(*) - count(DISTINCT ({columns(names, time)})) FROM {table}"
        return int((connection.execute(query).fetchone() or (0,))[0])

    def columns(names: list[str], time: str = told_apart_by) -> str:
        return ", ".join([time, *(identifier(raw[name]) for name in names)])

    bad = repeated(key, TIMED)
    others = [one.name for one in given if one.required and one.name not in key and one.raw != slot]
    # All other rows are told apart already, so only these are counted again.
    together = f"FROM {TIMED} QUALIFY count(*) OVER (PARTITION BY {columns(key)}) > 1"
    connection.execute(f"CREATE OR REPLACE TEMP TABLE repeating AS {together}")
    while bad and others:
        counts = {name: repeated([*key, name], "repeating") for name in others}
        best = min(others, key=lambda name: counts[name])
        if counts[best] >= bad:
            break
        bad, key = counts[best], [*key, best]
        others.remove(best)
    if bad > REPEATED * looked.rows:
        raise UsageError(
            f"{bad} of {looked.rows} rows share their time and all that is given with another row; name what tells them "
            "apart with --entity, or drop the repetitions"
        )
    return (event_time, *key), repeated(key, TIMED, "moment")


def _as_told(
    connection: DuckDBPyConnection, looked: Looked, moments: Moments, event_time: str, given: tuple[Given, ...],
    told: tuple[str, ...],
) -> tuple[tuple[str, ...], int]:  # fmt: skip
    fields = {one.raw: one.name for one in given if one.required}
    names = tuple(dict.fromkeys(event_time if raw in moments.columns else fields.get(raw, "") for raw in told))
    for raw in told:
        if raw not in fields and raw not in moments.columns:
            raise UsageError(
                f"{raw} cannot name a row: it must be a number or a text, and no row without it; name another --key"
            )
    columns = ", ".join("moment" if raw in moments.columns else identifier(raw) for raw in told)
    query = f"SELECT count(*) - count(DISTINCT ({columns})) FROM {TIMED}"
    (repeats,) = connection.execute(query).fetchone() or (0,)
    if repeats > REPEATED * looked.rows:
        raise UsageError(
            f"{repeats} of {looked.rows} rows share {', '.join(told)} with another row; name more columns with --key"
        )
    return names, int(repeats)
