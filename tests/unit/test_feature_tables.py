"""Which ticks are computed, what they hold, and that no value knows what came after it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.ledger import FEATURED, Partition
from flows.models.taxi.spec import spec
from flows.settings import Settings
from flows.steps import feature_tables

HOUR = timedelta(hours=1)
NOW = datetime(2024, 6, 1, tzinfo=UTC)
NEW_YORK_MIDNIGHT = datetime(2024, 1, 10, 5, tzinfo=UTC)


def partition(number: int, first: datetime, last: datetime, uri: str = "x", done: bool = False) -> Partition:
    return Partition(
        id=number, model="taxi", key=f"{first:%Y-%m-%d}", revision=1, digest="", source="", status="accepted", uri=uri,
        accepted_uri=uri, rejected_uri=None, docs_uri=None, rows=1, accepted_rows=1, rejected_rows=0, reasons=[],
        statistics={}, validation={}, first_event=first, last_event=last, landed_at=first, decided_at=first,
        featurized_at=last + 2 * HOUR if done else None,
    )  # fmt: skip


def day(offset: int, number: int | None = None, **options: Any) -> Partition:
    start = NEW_YORK_MIDNIGHT + timedelta(days=offset)
    return partition(offset if number is None else number, start + HOUR, start + 23 * HOUR, **options)


def test_ticks_are_local_midnights_also_across_daylight_saving() -> None:
    ticks = feature_tables.ticks_between(
        spec, datetime(2024, 3, 9, 12, tzinfo=UTC), datetime(2024, 3, 12, 12, tzinfo=UTC)
    )
    assert [f"{tick:%d %H}" for tick in ticks] == ["10 05", "11 04", "12 04"]


def test_a_tick_ends_the_day_of_the_newest_data_and_none_lies_in_the_future() -> None:
    partitions = [day(0), day(1)]
    planned = feature_tables.plan(spec, partitions)
    assert planned.ticks == (NEW_YORK_MIDNIGHT + timedelta(days=1), NEW_YORK_MIDNIGHT + timedelta(days=2))
    noon = NEW_YORK_MIDNIGHT + timedelta(days=1, hours=12)
    assert feature_tables.plan(spec, partitions, now=noon).ticks == planned.ticks[:1]


def test_a_period_that_is_over_has_a_tick_at_its_end_where_rows_see_whole_periods() -> None:
    """Of a week from Monday the 8th whose last row is of Friday: those of the next week are joined as of its Monday."""
    weekly = spec.model_copy(update={"partition_by": "week", "arrival": timedelta(0)})
    monday = NEW_YORK_MIDNIGHT + timedelta(days=5)
    week = partition(1, monday - timedelta(days=7) + HOUR, monday - timedelta(days=2, hours=6))
    assert feature_tables.plan(spec, [week]).ticks[-1] == monday - timedelta(days=2)
    assert feature_tables.plan(weekly, [week]).ticks[-1] == monday
    assert feature_tables.span(weekly, [week]) == (monday - timedelta(days=6), monday)
    early = feature_tables.plan(weekly, [week], now=monday - HOUR)  # the week is not over, more may come
    assert early.ticks[-1] == monday - timedelta(days=2)
    seen = week.model_copy(update={"featurized_at": early.moment})
    assert feature_tables.plan(weekly, [seen], now=monday).ticks == (monday,)
    assert feature_tables.plan(weekly, [seen.model_copy(update={"featurized_at": monday})]).ticks == ()


def test_data_that_comes_before_its_midnight_gets_its_tick_after_it() -> None:
    found: list[datetime] = []
    partitions: list[Partition] = []
    for number in range(5):
        partitions.append(day(number))
        planned = feature_tables.plan(spec, partitions, now=NEW_YORK_MIDNIGHT + number * 24 * HOUR + 23.5 * HOUR)
        found += planned.ticks
        partitions = [one.model_copy(update={"featurized_at": planned.moment}) for one in partitions]
    assert found == [NEW_YORK_MIDNIGHT + timedelta(days=number) for number in range(1, 5)]
    after = feature_tables.plan(spec, partitions, now=NEW_YORK_MIDNIGHT + 121 * HOUR)
    assert after.ticks == (NEW_YORK_MIDNIGHT + timedelta(days=5),)
    assert after.new == (4,)
    partitions[4] = partitions[4].model_copy(update={"featurized_at": after.moment})
    assert feature_tables.plan(spec, partitions, now=after.moment + HOUR).ticks == ()


def test_a_new_day_makes_one_tick_a_late_day_those_after_it_and_a_gap_is_filled() -> None:
    old = [day(number, done=True) for number in range(40) if number != 5]
    assert len(feature_tables.plan(spec, [*old, day(40)]).ticks) == 1
    late = feature_tables.plan(spec, [*old, day(5)]).ticks
    assert late[0] == NEW_YORK_MIDNIGHT + timedelta(days=6)
    assert len(late) == spec.history.days + 1
    assert len(feature_tables.plan(spec, [*old, day(44)]).ticks) == 5
    assert feature_tables.plan(spec, old).ticks == ()


def test_only_what_the_ticks_look_back_on_is_read() -> None:
    old = [day(number, done=True, uri=f"u{number}") for number in range(50) if number != 5]
    assert feature_tables.plan(spec, [*old, day(50, uri="u50")]).uris == tuple(f"u{number}" for number in range(23, 51))
    late = feature_tables.plan(spec, [*old, day(5, uri="u5")])
    assert late.ticks[-1] == NEW_YORK_MIDNIGHT + timedelta(days=34)
    assert sorted(late.uris) == sorted(f"u{number}" for number in range(34))


def test_revisions_before_another_partition_change_nothing() -> None:
    old = [day(number, done=True) for number in range(40)]
    other = day(3, number=99, done=True)
    assert len(feature_tables.plan(spec, [*old, day(40)], replaced=[other]).ticks) == 1
    assert (
        len(feature_tables.plan(spec, [*old, day(40)], replaced=[other.model_copy(update={"key": day(40).key})]).ticks)
        > 1
    )


def test_a_revision_of_fewer_days_changes_the_ticks_of_those_that_it_leaves_out() -> None:
    start = NEW_YORK_MIDNIGHT
    whole = partition(1, start + HOUR, start + timedelta(days=30), done=True)
    other = partition(2, start + timedelta(days=31), start + timedelta(days=60), done=True)
    late = partition(3, start + timedelta(days=10), start + timedelta(days=30)).model_copy(update={"key": whole.key})
    plain = feature_tables.plan(spec, [late, other]).ticks
    assert plain[0] == start + timedelta(days=11)
    found = feature_tables.plan(spec, [late, other], replaced=[whole]).ticks
    assert found[0] == start + timedelta(days=1)
    assert set(plain) < set(found)
    early = partition(4, start + timedelta(days=31), start + timedelta(days=40)).model_copy(update={"key": other.key})
    found = feature_tables.plan(spec, [whole, early], replaced=[other]).ticks
    assert found[-1] == feature_tables.next_tick(spec, start + timedelta(days=60))
    never = other.model_copy(update={"featurized_at": None})  # in no table
    assert feature_tables.plan(spec, [whole, early], replaced=[never]).ticks[-1] == start + timedelta(days=41)


def test_rows_that_were_made_anew_change_the_ticks_of_the_former_ones() -> None:
    start = NEW_YORK_MIDNIGHT
    other = partition(2, start + timedelta(days=31), start + timedelta(days=60) - HOUR, done=True)
    known = {FEATURED: [(start + HOUR).isoformat(), (start + timedelta(days=30)).isoformat()]}
    fewer = partition(1, start + timedelta(days=10), start + timedelta(days=20)).model_copy(
        update={"validation": known}
    )
    found = feature_tables.plan(spec, [fewer, other])
    assert found.ticks[0] == start + timedelta(days=1)
    assert start + timedelta(days=30) + spec.history in found.ticks
    later = fewer.model_copy(update={"id": 3, "validation": {}})
    assert feature_tables.plan(spec, [later, other], replaced=[fewer]).ticks == found.ticks
    none = {"status": "quarantined", "first_event": None, "last_event": None, "accepted_uri": None}
    refused = fewer.model_copy(update=none)
    found = feature_tables.plan(spec, [other], refused=[refused])
    assert (found.ticks[0], found.new, found.uris) == (start + timedelta(days=1), (1,), ("x",))
    for one in (refused.model_copy(update={"featurized_at": NOW}), refused.model_copy(update={"validation": {}})):
        assert feature_tables.plan(spec, [other], refused=[one]).new == ()
    assert feature_tables.plan(spec, [], refused=[refused]).new == ()


def rows_file(path: Path, rows: list[tuple[datetime, datetime, int, float]]) -> Path:
    """Write trips of one route: event, time at which the label was known, drop-off zone, minutes."""
    stamp = pa.timestamp("us", tz="UTC")
    columns = list(zip(*rows, strict=True))
    table = pa.table(
        {
            "event_timestamp": pa.array(columns[0], stamp), "label_timestamp": pa.array(columns[1], stamp),
            "PULocationID": pa.array([7] * len(rows)), "DOLocationID": pa.array(columns[2]),
            "trip_distance": pa.array([2.0] * len(rows)), "minutes": pa.array(columns[3]),
        }
    )  # fmt: skip
    pq.write_table(table, path)
    return path


def values(home: Settings, view: str) -> list[tuple[Any, ...]]:
    prefix = {"pickup_zone": "pickup", "dropoff_zone": "dropoff", "route": "route"}[view]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.execute(
            f"SELECT event_timestamp, {prefix}_trips_28d, {prefix}_minutes_mean_28d, created_timestamp "
            f"FROM read_parquet('{home.features('taxi') / view}/*.parquet') ORDER BY ALL"
        ).fetchall()


def test_no_value_knows_an_event_or_a_label_of_the_future(home: Settings, tmp_path: Path) -> None:
    first, second = NEW_YORK_MIDNIGHT + timedelta(days=1), NEW_YORK_MIDNIGHT + timedelta(days=2)
    path = rows_file(
        tmp_path / "rows.parquet",
        [
            (first - 2 * HOUR, first - HOUR, 8, 10.0),
            (first - 2 * HOUR, first + HOUR, 8, 1000.0),  # happened before the tick, its label came after it
            (first, first, 8, 5000.0),  # happened at the tick itself
            (second - 2 * HOUR, second - HOUR, 8, 20.0),
        ],
    )
    planned = feature_tables.FeaturePlan(ticks=(first, second), uris=(str(path),), new=(1,), moment=NOW)
    assert feature_tables.compute(home, spec, planned) == {"pickup_zone": 2, "dropoff_zone": 2, "route": 2}
    for view in spec.entities:
        found = [row[:3] for row in values(home, view)]
        assert found == [(first, 1, 10.0), (second, 4, pytest.approx((10 + 1000 + 5000 + 20) / 4))]


def test_what_was_corrected_away_does_not_live_on(home: Settings, tmp_path: Path) -> None:
    tick = NEW_YORK_MIDNIGHT + timedelta(days=1)
    wrong = rows_file(tmp_path / "wrong.parquet", [(tick - 2 * HOUR, tick - HOUR, 8, 10.0)])
    right = rows_file(tmp_path / "right.parquet", [(tick - 2 * HOUR, tick - HOUR, 9, 12.0)])
    for path in (wrong, right):
        feature_tables.compute(
            home, spec, feature_tables.FeaturePlan(ticks=(tick,), uris=(str(path),), new=(1,), moment=NOW)
        )
    with duckdb.connect() as connection:
        newest = connection.execute(
            f"SELECT DOLocationID, dropoff_minutes_mean_28d FROM read_parquet('{home.features('taxi')}/dropoff_zone/*.parquet') "
            "QUALIFY row_number() OVER (PARTITION BY DOLocationID ORDER BY created_timestamp DESC) = 1 ORDER BY ALL"
        ).fetchall()
    assert newest == [(8, None), (9, 12.0)]


def test_what_was_made_of_rows_that_are_refused_by_now_does_not_live_on(home: Settings, tmp_path: Path) -> None:
    start, known = NEW_YORK_MIDNIGHT, NEW_YORK_MIDNIGHT + timedelta(days=1)
    bad = rows_file(tmp_path / "bad.parquet", [(start + HOUR, start + 2 * HOUR, 8, 10.0)])
    far = start + timedelta(days=300)
    good = rows_file(tmp_path / "good.parquet", [(far + HOUR, far + 2 * HOUR, 8, 10.0)])
    first, last = partition(1, start + HOUR, start + HOUR, str(bad)), partition(2, far + HOUR, far + HOUR, str(good))
    feature_tables.compute(home, spec, feature_tables.plan(spec, [first, last], NOW))
    assert [row[1] for row in values(home, "route") if row[0] == known] == [1]
    span = {FEATURED: [(start + HOUR).isoformat()] * 2}
    refused = first.model_copy(update={"validation": span, "first_event": None, "last_event": None})
    done = last.model_copy(update={"featurized_at": NOW})
    feature_tables.compute(home, spec, feature_tables.plan(spec, [done], NOW, refused=[refused]))
    found = sorted((row for row in values(home, "route") if row[0] == known), key=lambda row: row[3])
    assert [row[1] for row in found] == [1, None]


def test_a_correction_outranks_what_was_made_under_a_clock_that_ran_ahead(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick = NEW_YORK_MIDNIGHT + timedelta(days=1)
    for minutes, ahead in ((10.0, timedelta(days=900)), (12.0, timedelta(0)), (14.0, timedelta(0))):
        clock = type(
            "Clock", (datetime,), {"now": classmethod(lambda _, zone, ahead=ahead: datetime.now(zone) + ahead)}
        )
        monkeypatch.setattr(feature_tables, "datetime", clock)
        path = rows_file(tmp_path / f"{minutes}.parquet", [(tick - 2 * HOUR, tick - HOUR, 8, minutes)])
        planned = feature_tables.FeaturePlan(ticks=(tick,), uris=(str(path),), new=(1,), moment=NOW)
        feature_tables.compute(home, spec, planned)
    found = sorted(values(home, "route"), key=lambda row: row[3])
    assert [row[2] for row in found] == [10.0, 12.0, 14.0]


def test_ticks_are_computed_in_shares_whose_rows_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_tables, "AT_ONCE", 1000)
    ticks = [NEW_YORK_MIDNIGHT + timedelta(days=number) for number in range(6)]
    counts = {tick.date(): 200 for tick in ticks}
    found = feature_tables.shares(spec, ticks, counts)  # they look back on 200, 400, ... rows
    assert [tick for share in found for tick in share] == ticks
    assert [len(share) for share in found] == [2, 1, 1, 1, 1]
    assert len(feature_tables.shares(spec, ticks, dict.fromkeys(counts, 2))) == 1
    assert feature_tables.shares(spec, [], counts) == []


def test_features_are_the_same_in_shares_as_at_once(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = tuple(NEW_YORK_MIDNIGHT + timedelta(days=number) for number in range(1, 5))
    rows = [(tick - 3 * HOUR, tick - 2 * HOUR, 8 + number, 10.0 + number) for number, tick in enumerate(ticks)]
    path = rows_file(tmp_path / "rows.parquet", rows)
    planned = feature_tables.FeaturePlan(ticks=ticks, uris=(str(path),), new=(1,), moment=NOW)
    written, found = [], []
    for most in (feature_tables.ONCE, 1):
        monkeypatch.setattr(feature_tables, "ONCE", most)
        one = Settings(home=tmp_path / f"home-{most}")
        written.append(feature_tables.compute(one, spec, planned))
        found.append([[row[:-1] for row in values(one, view)] for view in spec.entities])
    assert written[0] == written[1]
    assert found[0] == found[1]
    assert len(list((one.features("taxi") / "route").glob("*.parquet"))) == len(ticks)


@pytest.mark.parametrize("tick", [timedelta(0), timedelta(hours=5), timedelta(days=7), -timedelta(days=1)])
def test_a_tick_that_does_not_fall_on_the_same_hours_of_each_day_is_refused(tick: timedelta) -> None:
    with pytest.raises(ValueError, match="no whole part of one"):
        type(spec).model_validate(spec.model_dump() | {"tick": tick})
    assert type(spec).model_validate(spec.model_dump() | {"tick": timedelta(minutes=30)}).tick == timedelta(minutes=30)
