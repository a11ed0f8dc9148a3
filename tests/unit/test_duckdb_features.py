"""Rolling tables computed from parts hold what the join of rows and ticks holds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import ibis
import numpy as np
import pyarrow as pa
import pytest
from ibis import _

from flows.models.bike.features import TABLES as BIKE
from flows.models.taxi.features import TABLES as TAXI
from flows.steps import duckdb_features
from flows.steps.duckdb_features import ZONED
from flows.steps.window_parts import apart
from flows.steps.windows import mean, recent, rolling, seen_at

START = datetime(2024, 2, 20, 5, tzinfo=UTC)
DAY = timedelta(days=1)
# Midnights of New York: its summer begins on March 10.
TICKS = [START + DAY * n - timedelta(hours=n >= 20) for n in range(1, 40)]
MONTH, WEEK = timedelta(days=28), timedelta(days=7)
ROWS = ibis.schema(
    {
        "event_timestamp": ZONED, "label_timestamp": ZONED, "PULocationID": "int64", "DOLocationID": "int64",
        "hr": "int64", "cnt": "int64", "trip_distance": "float64", "minutes": "float64",
    }
)  # fmt: skip


def trips(count: int = 6000) -> pa.Table:
    """Return rows of 40 days: some at a tick itself, labels known at once to three days later, some values missing."""
    rng = np.random.default_rng(7)
    first = int(START.timestamp() * 1e6)
    event = first + rng.integers(-5 * 86_400_000_000, 40 * 86_400_000_000, count)
    event[:200] = [int(one.timestamp() * 1e6) for one in rng.choice(np.array(TICKS), 200)]
    label = event + (rng.exponential(0.4, count) * 86_400_000_000).astype("int64")
    label[:100] = event[:100]
    minutes = rng.integers(1, 4000, count) / 60
    columns = {
        "event_timestamp": pa.array(event, pa.timestamp("us", "UTC")),
        "label_timestamp": pa.array(label, pa.timestamp("us", "UTC"), mask=rng.random(count) < 0.01),
        "PULocationID": pa.array(rng.integers(1, 9, count), mask=rng.random(count) < 0.02),
        "DOLocationID": pa.array(rng.choice([1, 2, 3, 264], count)),
        "hr": pa.array(rng.integers(0, 24, count)),
        "cnt": pa.array(rng.integers(0, 900, count)),
        "trip_distance": pa.array(rng.lognormal(0, 1, count), mask=rng.random(count) < 0.05),
        "minutes": pa.array(np.where(rng.random(count) < 0.01, 0.0, minutes), mask=rng.random(count) < 0.05),
    }
    return pa.table(columns)


def both(expression: Callable[[Any, Any], Any], home: Path) -> tuple[pa.Table, pa.Table]:
    """Return the table of an expression joined, and from its parts, both in the order of their keys and ticks."""
    connection = ibis.duckdb.connect()
    connection.raw_sql("SET TimeZone = 'UTC'")
    rows = connection.create_table("rows", ibis.memtable(trips()))
    ticks = connection.create_table("ticks", ibis.memtable({"tick": TICKS}, schema={"tick": ZONED}))
    joined = str(ibis.to_sql(expression(rows, ticks), dialect="duckdb"))
    with duckdb_features.computing(home, connection, rows, ticks, TICKS) as computed:
        parted = computed("view", expression)
        assert "sums" in parted
        first, second = (
            connection.con.execute(f"FROM ({sql}) ORDER BY ALL").to_arrow_table() for sql in (joined, parted)
        )
    return first, second


def odd(rows: Any, ticks: Any) -> Any:
    """Return statistics that no model of ours has: counts of values, a quantile of whole numbers, and one of two."""
    return rolling(
        rows, ticks, ("PULocationID",), MONTH,
        known=_.minutes.count(), late=_.minutes.count(where=recent(WEEK)), few=_.count(where=recent(DAY)),
        low=_.cnt.quantile(0.03), spread=_.minutes.quantile(0.9) - _.minutes.median(),
        older=mean(_.cnt, where=~recent(WEEK)),
    )  # fmt: skip


@pytest.mark.parametrize("size", [duckdb_features.SLICE, 500])
@pytest.mark.parametrize(
    "expression", [*TAXI.values(), *BIKE.values(), odd], ids=[*TAXI, *BIKE, "counts and odd quantiles"]
)
def test_a_table_from_parts_is_the_joined_one(
    expression: Callable[[Any, Any], Any], size: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(duckdb_features, "SLICE", size)
    joined, parted = both(expression, tmp_path)
    assert parted.schema == joined.schema
    assert len(parted) == len(joined) > len(TICKS) - 3
    for name in joined.column_names:
        if "mean" in name or name in ("all_newest", "hr_newest", "all_lag_7d", "hr_lag_7d", "older"):
            found, wanted = (table[name].to_pandas().to_numpy(dtype=float) for table in (parted, joined))
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=0)
        else:
            found, wanted = (table[name].to_pandas() for table in (parted, joined))
            assert found.equals(wanted), name


def test_quantiles_are_those_of_duckdb_to_the_bit() -> None:
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 50, 5000)
    values = np.where(rng.random(5000) < 0.01, np.inf, np.round(rng.lognormal(2, 1, 5000), 1))
    order = np.lexsort([values, groups])
    seen = rng.random(5000) < 0.4
    seen[groups[order] == 7] = False
    with duckdb.connect() as connection:
        connection.register("data", pa.table({"g": groups[order], "v": values[order], "seen": seen}))
        wanted = connection.execute(
            "SELECT g, median(v) AS m, quantile_cont(v, 0.9) AS q, min(v) AS low FROM data WHERE seen GROUP BY g ORDER BY g"
        ).fetchnumpy()
    ends = np.cumsum(np.bincount(groups, minlength=50))
    those, (median, ninth, low) = duckdb_features.quantiles(values[order], seen, ends, (0.5, 0.9, 0.0))
    assert 7 not in those
    assert np.array_equal(those, wanted["g"])
    assert np.array_equal(median, wanted["m"])
    assert np.array_equal(ninth, wanted["q"], equal_nan=True)
    assert np.array_equal(low, wanted["low"])


def test_what_has_no_parts_is_joined() -> None:
    rows, ticks = ibis.table(ROWS, name="rows"), ibis.table({"tick": ZONED}, name="ticks")
    plain = rolling(rows, ticks, ("hr",), MONTH, n=_.count())
    assert apart(plain) is not None
    others = {
        "a deviation": {"x": _.minutes.std()},
        "a mean of floats, which depends on their order": {"x": _.minutes.mean()},
        "a condition on another column": {"x": _.count(where=_.cnt > 3)},
        "a quantile of some rows": {"x": _.minutes.median(where=recent(WEEK))},
    }
    assert [name for name, one in others.items() if apart(rolling(rows, ticks, ("hr",), MONTH, **one))] == []
    assert apart(plain.mutate(n=_.n + 1)) is None
    own = seen_at(rows, ticks, MONTH).filter(_.cnt > 3).group_by(["hr", "tick"]).aggregate(n=_.count())
    assert apart(own.rename(event_timestamp="tick")) is None
    later = rows.join(ticks, [rows.event_timestamp >= ticks.tick - ibis.interval(seconds=60), rows.cnt > 3])
    assert apart(later.group_by(["hr", "tick"]).aggregate(n=_.count()).rename(event_timestamp="tick")) is None
    assert duckdb_features.in_parts(plain, TICKS)
    assert not duckdb_features.in_parts(plain, [*TICKS, TICKS[-1] + timedelta(seconds=7)])
