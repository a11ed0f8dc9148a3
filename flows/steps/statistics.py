"""Statistics of a partition's rows, for drift and for people: counts, moments, quantiles, top values, histograms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from flows.steps.event_rows import EVENTS, ROW, is_kind, is_time
from flows.steps.sql import identifier, literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 24
TOP = 10
SAMPLE = 20_000  # of more rows, every n-th makes quantiles and histograms: all would cost as much as all the rest

_SIGNED = frozenset(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"))
_WHOLE = _SIGNED | {"UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}
_NUMBERS = _WHOLE | {"FLOAT", "DOUBLE"}


def describe_rows(connection: DuckDBPyConnection, columns: Mapping[str, str], label: str) -> dict[str, Any]:
    """Return the statistics of the rows of ``events``: ``rows``, ``label`` and ``columns``, name -> figures.

    Every column: type, count, nulls, minimum and maximum. Numbers: mean, standard deviation, quantiles. Numbers and
    times: a histogram of equal bins, of numbers from the 1 % to the 99 % quantile with the rest in the outer bins.
    Whole numbers and texts: distinct values and the most frequent ones. Times are ISO texts, local as they came.
    """
    import duckdb

    try:
        figures = _moments(connection, columns)
    except duckdb.OutOfRangeException:  # squares beyond a double's reach, and infinity, are an error to DuckDB
        figures = _moments(connection, columns, "FILTER (abs({}) < 1e150)")
    rows = figures.pop("")["rows"]
    _add_counted(connection, columns, figures)
    for figure in figures.values():
        figure["nulls"] = rows - figure["count"]
    if rows:
        step = math.ceil(rows / SAMPLE)
        sampled = EVENTS
        if step > 1:
            sampled = "sampled_events"
            number = ROW if is_kind(connection, EVENTS, "VIEW") else "rowid"
            every_nth = f"SELECT * FROM {EVENTS} WHERE {number} % {step} = 0"
            connection.execute(f"CREATE OR REPLACE TEMP TABLE {sampled} AS {every_nth}")
        _add_quantiles(connection, columns, figures, sampled)
        _add_histograms(connection, columns, figures, sampled)
    return {"rows": rows, "label": label, "columns": {name: _json(figures[name]) for name in columns}}


def is_number(kind: str) -> bool:
    """Say whether a DuckDB type is a number."""
    return kind in _NUMBERS or kind.startswith("DECIMAL")


def _moments(connection: DuckDBPyConnection, columns: Mapping[str, str], only: str = "") -> dict[str, dict[str, Any]]:
    """Return what one pass over the rows gives of all that is not counted by value; under "" their number.

    ``only`` says which values have a mean.
    """
    wanted: list[tuple[str, str, str]] = [("", "rows", "count(*)")]
    for name, kind in columns.items():
        if _is_counted(kind):
            continue
        column = identifier(name)
        wanted.append((name, "count", f"count({column})"))
        if is_number(kind) or is_time(kind):
            wanted += [(name, "min", f"min({column})"), (name, "max", f"max({column})")]
        if is_number(kind):
            those = only.format(column)
            wanted += [
                (name, "mean", f"avg({column}) {those}"),
                (name, "std", f"stddev_samp({column}::DOUBLE) {those}"),
            ]
    found = connection.execute(f"SELECT {', '.join(sql for _, _, sql in wanted)} FROM {EVENTS}").fetchone() or ()
    figures: dict[str, dict[str, Any]] = {"": {}, **{name: {"type": kind} for name, kind in columns.items()}}
    for (name, figure, _), value in zip(wanted, found, strict=True):
        figures[name][figure] = value
    return figures


def _is_counted(kind: str) -> bool:
    """Say whether the values of a DuckDB type are counted one by one."""
    return kind in _WHOLE or kind == "VARCHAR"


def _add_quantiles(
    connection: DuckDBPyConnection, columns: Mapping[str, str], figures: dict[str, dict[str, Any]], table: str
) -> None:
    numbers = [name for name, kind in columns.items() if is_number(kind)]
    if not numbers:
        return
    wanted = ", ".join(f"quantile_cont({identifier(name)}::DOUBLE, {list(QUANTILES)})" for name in numbers)
    found = connection.execute(f"SELECT {wanted} FROM {table}").fetchone() or ()
    for name, values in zip(numbers, found, strict=True):
        if values:
            figures[name]["quantiles"] = dict(zip(map(str, QUANTILES), values, strict=True))


def _add_histograms(
    connection: DuckDBPyConnection, columns: Mapping[str, str], figures: dict[str, dict[str, Any]], table: str
) -> None:
    """Count all columns' values by bin in one query."""
    ranges: dict[str, tuple[float, float]] = {}
    parts = []
    for name, kind in columns.items():
        bounds = _range(figures[name], kind)
        if bounds is None:
            continue
        low, high = ranges[name] = bounds
        value = f"epoch({identifier(name)})" if is_time(kind) else f"{identifier(name)}::DOUBLE"
        bin_ = f"CAST(floor(least(greatest(({value} - {low!r}) * {BINS / (high - low)!r}, 0), {BINS - 1})) AS INTEGER)"
        parts.append(
            f"SELECT {literal(name)} AS name, {bin_} AS bin, count(*) AS n FROM {table} "
            f"WHERE {identifier(name)} IS NOT NULL AND isfinite({value}) GROUP BY ALL"
        )
    for name, (low, high) in ranges.items():
        edges = [low + (high - low) * step / BINS for step in range(BINS + 1)]
        figures[name]["histogram"] = {"edges": edges, "counts": [0] * BINS}
    if parts:
        for name, bin_, count in connection.execute(" UNION ALL ".join(parts)).fetchall():
            figures[name]["histogram"]["counts"][bin_] = count


def _range(figure: dict[str, Any], kind: str) -> tuple[float, float] | None:
    """Return where a column's histogram begins and ends."""
    if is_number(kind) and "quantiles" in figure:
        low, high = figure["quantiles"]["0.01"], figure["quantiles"]["0.99"]
        if not low < high:
            low, high = float(figure["min"]), float(figure["max"])
    elif is_time(kind) and figure.get("min") is not None:
        low, high = (_epoch(figure[end]) for end in ("min", "max"))
    else:
        return None
    if not math.isfinite(high - low):
        return None
    half = max(0.5, abs(low) * 1e-6)
    return (low, high) if low < high else (low - half, low + half)


def _epoch(value: date | datetime) -> float:
    """Return a local time as seconds since 1970, as DuckDB's ``epoch`` does."""
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)  # noqa: DTZ001 (local on purpose)
    return (moment.replace(tzinfo=None) - datetime(1970, 1, 1)).total_seconds()  # noqa: DTZ001 (the same)


def _add_counted(
    connection: DuckDBPyConnection, columns: Mapping[str, str], figures: dict[str, dict[str, Any]]
) -> None:
    """Count the values of whole numbers and texts; all their figures come from these few counts."""
    counted = {name: f"counted_{place}" for place, (name, kind) in enumerate(columns.items()) if _is_counted(kind)}
    if not counted:
        return
    tables, wanted = [], []
    for name, table in counted.items():
        column = identifier(name)
        tables.append(
            f"{table} AS MATERIALIZED (SELECT {column} AS value, count(*) AS n FROM {EVENTS} "
            f"WHERE {column} IS NOT NULL GROUP BY ALL)"
        )
        figure, rows = (
            "count: coalesce(sum(n), 0)::BIGINT, min: min(value), max: max(value), 'distinct': count(*)",
            table,
        )
        if is_number(columns[name]):
            figure += ", mean: any_value(mean), std: sqrt(sum(n * (value::DOUBLE - mean) ** 2) / nullif(sum(n) - 1, 0))"
            rows += f", (SELECT sum(n * value::DOUBLE) / sum(n) AS mean FROM {table})"
        top = f"SELECT value, n FROM {table} ORDER BY n DESC, value LIMIT {TOP}"
        wanted.append(f"(SELECT {{{figure}}} FROM {rows})")
        wanted.append(f"(SELECT list({{value: left(value::VARCHAR, 200), count: n}}) FROM ({top}))")
    found = connection.execute(f"WITH {', '.join(tables)} SELECT {', '.join(wanted)}").fetchone() or ()
    for name, figure, top in zip(counted, found[::2], found[1::2], strict=True):
        figures[name] |= figure | {"top": top or []}


def _json(value: Any) -> Any:
    """Return figures as JSON can hold them: times as ISO texts, what is not finite as null."""
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, date | datetime):
        return value.isoformat()
    if value is None or isinstance(value, int | str):
        return value
    return float(value)
