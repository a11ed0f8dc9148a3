"""Feature values computed by DuckDB here: rows are summed by what ticks tell apart, and sorted once for all ticks.

A join of rows and ticks holds each row once for every tick that looks back on it. Sums need no such join: rows between
the same two limits of windows count alike, so they are summed first. Quantiles need the values, but not sorted anew
for each tick: of rows in the order of their values, those that a tick sees are in order too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.steps.files import scratch
from flows.steps.sql import identifier, identifiers, literal
from flows.steps.window_parts import EVENT, LABEL, ROWS, Parts, apart, count_of, sum_of, whole
from flows.steps.windows import TICK

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pyarrow as pa

    from flows.steps.windows import Computed, Expression

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SLICE = 4_000_000  # rows that are sorted at once, of some keys; some 100 bytes each
FINEST = 900_000_000  # microseconds that limits of windows lie apart, or a multiple of it; other ticks are joined
ZONED = "timestamp('UTC', 6)"
_MICRO = timedelta(microseconds=1)


@contextmanager
def computing(
    home: Path, connection: Any, rows: ir.Table, ticks: ir.Table, moments: Sequence[datetime]
) -> Iterator[Computed]:
    """Yield a function that returns the SQL of a view's rows, for the DuckDB ``connection`` of ibis.

    ``ticks`` holds ``moments``. What the SQL reads is there until the next view, or until the block ends; rows that are
    too many to be sorted at once lie in the home meanwhile.
    """
    import ibis

    made: list[str] = []

    def compute(_: str, expression: Expression) -> str:
        _drop(connection.con, made)
        table = expression(rows, ticks)
        parts = apart(table)
        limits = _limits(parts, moments) if parts else None
        if parts and limits:
            table = _from_parts(home, connection, parts, ticks, moments, limits, made)
        return str(ibis.to_sql(table, dialect="duckdb"))

    try:
        yield compute
    finally:
        _drop(connection.con, made)


def in_parts(table: ir.Table, moments: Sequence[datetime]) -> bool:
    """Tell whether a table is computed from parts at these moments or at some of them, so that each row is held once."""
    parts = apart(table)
    return parts is not None and _limits(parts, moments) is not None


def quantiles(
    values: np.ndarray, seen: np.ndarray, ends: np.ndarray, wanted: Sequence[float]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return which groups have a value that is seen, and their quantiles, one array for each that is wanted.

    ``values`` are float64, group by group and sorted within each; group i ends before ``ends[i]``. ``seen`` tells which
    of them count. A quantile between two values lies between them by its distance, to the bit as in DuckDB.
    """
    at = np.flatnonzero(seen)
    limits = np.searchsorted(at, np.concatenate([[0], ends]))
    groups = np.flatnonzero(np.diff(limits))
    first, last = limits[:-1][groups], limits[1:][groups] - 1
    found = []
    for share in wanted:
        place = (last - first) * share
        low = np.floor(place)
        weight = place - low
        lower = values[at[first + low.astype(np.int64)]]
        upper = values[at[first + np.ceil(place).astype(np.int64)]]
        with np.errstate(invalid="ignore"):  # infinity times nothing; not taken
            between = lower * (1.0 - weight) + upper * weight
        found.append(np.where(weight == 0.0, lower, between))
    return groups, found


def _from_parts(
    home: Path, connection: Any, parts: Parts, ticks: ir.Table, moments: Sequence[datetime], limits: list[int],
    made: list[str],
) -> ir.Table:  # fmt: skip
    """Make the tables that a rolling table is put together from, their names in ``made``, and return it over them."""
    import ibis

    placed = _placed(parts, moments, limits)
    made.append("sums")
    connection.con.execute(f"CREATE TEMP TABLE sums AS {_sums(parts, placed, limits)}")
    # Sums have 128 bits; ibis is told of floats, so that it divides them as they are. Counts are floats: they take less.
    columns = [ROWS, *map(sum_of, parts.summed), *map(count_of, parts.names.values())]
    keys = {name: parts.rows.schema()[name] for name in parts.by}
    sums = keys | {EVENT: ZONED, LABEL: ZONED} | dict.fromkeys(columns, "float64")
    ranks = []
    with scratch(home, "features") as folder:
        sources = _slices(connection.con, parts, placed, folder) if parts.ranked else {}
        for value, wanted in parts.ranked.items():
            name = f"ranks{value}"
            made.append(name)
            connection.con.register("found", _ranked(connection.con, parts, sources, value, moments, limits))
            connection.con.execute(f"CREATE TEMP TABLE {name} AS FROM found")
            connection.con.unregister("found")
            ranks.append(ibis.table(keys | {TICK: ZONED} | dict.fromkeys(wanted.values(), "float64"), name=name))
    return whole(parts, ibis.table(sums, name="sums"), ranks, ticks)


def _limits(parts: Parts, moments: Sequence[datetime]) -> list[int] | None:
    """Return all moments at which a row begins or ends to count, in microseconds; None if they are no grid."""
    ends = [_microseconds(tick) for tick in moments]
    found = sorted({end - reach // _MICRO for end in ends for reach in parts.reaches} | set(ends))
    return found if _step(found) % FINEST == 0 else None


def _step(limits: Sequence[int]) -> int:
    return math.gcd(*(one - limits[0] for one in limits)) or 1


def _placed(parts: Parts, moments: Sequence[datetime], limits: list[int]) -> str:
    """Return SQL of the rows that some tick sees, each with where its event and its label lie among the limits.

    ``_since`` is how many limits are not after the event, ``_known`` how many are before the label was known.
    """
    import ibis

    step, first = _step(limits), limits[0]
    cells = np.searchsorted(limits, np.arange(first, limits[-1] + 1, step), side="right")
    kind = "USMALLINT" if len(limits) < 2**16 else "UINTEGER"
    places = f"([{', '.join(map(str, cells))}]::{kind}[])"

    def place(moment: str) -> str:
        return f"{places}[least(greatest(({moment} - {first}) // {step}, 0), {len(cells) - 1}) + 1]"

    low, high = _seen_from(parts, moments[0], limits), _seen_until(moments[-1], limits)
    return (
        f"(SELECT *, {place(f'epoch_us({EVENT})')} AS _since, {place(f'epoch_us({LABEL}) - 1')} AS _known "
        f"FROM ({ibis.to_sql(parts.rows, dialect='duckdb')}) WHERE {EVENT} >= make_timestamptz({first}) "
        # greatest() passes over a missing label.
        f"AND {LABEL} IS NOT NULL AND _since > {low} AND _since <= {high} AND _known <= {high})"
    )


def _sums(parts: Parts, placed: str, limits: list[int]) -> str:
    """Return SQL of counts and sums by keys and by limits; the times are limits that stand for those of the rows."""
    stamps = f"([{', '.join(f'make_timestamptz({one})' for one in limits)}])"
    keys = "".join(f"{identifier(name)}, " for name in parts.by)
    columns = [f"count(*)::DOUBLE AS {ROWS}"]
    columns += [f"count({name})::DOUBLE AS {count_of(name)}" for name in parts.names.values()]
    columns += [f"sum({name}) AS {sum_of(name)}" for name in parts.summed]
    inside = f"SELECT {keys}_since, _known, {', '.join(columns)} FROM {placed} GROUP BY {keys}_since, _known"
    return (
        f"SELECT * EXCLUDE (_since, _known), {stamps}[_since] AS {EVENT}, {stamps}[_known + 1] AS {LABEL} FROM ({inside})"
        # So that few threads have groups in common, each of which would hold them.
        f"{keys and ' ORDER BY ' + identifiers(parts.by)}"
    )


def _slices(connection: Any, parts: Parts, placed: str, folder: Path) -> dict[str, str]:
    """Return SQL of the rows by the condition on keys that they fulfil, each of some ``SLICE`` rows.

    They are written to a folder if there are several: each would have all rows read and placed again.
    """
    keys = identifiers(parts.by)
    count = int(connection.execute(f"SELECT coalesce(sum({ROWS}), 0) FROM sums").fetchone()[0])
    number = -(-count // SLICE)
    if number < 2 or not keys:
        return {"true": placed}
    connection.execute(
        f"COPY (SELECT {keys}, {identifiers(parts.ranked)}, _since, _known, hash({keys}) % {number} AS _slice FROM {placed}) "
        f"TO {literal(folder)} (FORMAT parquet, PARTITION_BY (_slice), OVERWRITE_OR_IGNORE)"
    )
    found = {}
    for one in sorted(folder.iterdir()):
        files = ", ".join(map(literal, sorted(one.iterdir())))
        condition = f"hash({keys}) % {number} = {one.name.partition('=')[2]}"
        found[condition] = f"read_parquet([{files}], hive_partitioning = false)"
    return found


def _ranked(
    connection: Any, parts: Parts, sources: dict[str, str], value: str, moments: Sequence[datetime], limits: list[int]
) -> pa.Table:
    """Return keys, tick and the quantiles of a value at each tick, from rows by conditions on keys."""
    import pyarrow as pa

    keys = identifiers(parts.by)
    found: list[pa.Table] = []
    for mine, source in sources.items():
        groups = connection.execute(
            f"SELECT {keys and keys + ', '}sum({count_of(value)})::BIGINT AS _size FROM sums WHERE {mine} "
            f"GROUP BY ALL {keys and 'ORDER BY ' + keys}"
        ).to_arrow_table()
        rows = connection.execute(
            f"SELECT {value}::DOUBLE AS _value, _since, _known FROM {source} WHERE {value} IS NOT NULL "
            f"ORDER BY {keys and keys + ', '}_value"
        ).to_arrow_table()
        values, since, known = (rows.column(name).to_numpy() for name in ("_value", "_since", "_known"))
        del rows
        ends = np.cumsum(groups.column("_size").fill_null(0).to_numpy())
        names = parts.ranked[value]
        for tick in moments:
            low, high = _seen_from(parts, tick, limits), _seen_until(tick, limits)
            seen = (since > low) & (since <= high) & (known <= high)
            those, at = quantiles(values, seen, ends, list(names))
            one = groups.select(parts.by).take(pa.array(those))
            stamp = pa.array(np.full(len(those), _microseconds(tick)), pa.timestamp("us", "UTC"))
            columns = [*one.columns, stamp, *map(pa.array, at)]
            found.append(pa.table(columns, names=[*parts.by, TICK, *names.values()]))
    return pa.concat_tables(found)


def _seen_from(parts: Parts, tick: datetime, limits: list[int]) -> int:
    """Return the place of the limit where a tick's window begins."""
    return limits.index(_microseconds(tick) - parts.reaches[0] // _MICRO)


def _seen_until(tick: datetime, limits: list[int]) -> int:
    return limits.index(_microseconds(tick))


def _microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // _MICRO


def _drop(connection: Any, tables: list[str]) -> None:
    for name in tables:
        connection.execute(f"DROP TABLE IF EXISTS temp.{name}")
    tables.clear()
