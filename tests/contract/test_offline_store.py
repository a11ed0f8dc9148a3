"""The point-in-time join of our offline store gives what Feast's own gives, and what looking at every row gives."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureStore
from hypothesis import given, settings
from hypothesis import strategies as st
from offline_cases import FEASTS, TTL, ZONE, hour, multiset, open_store, past_view, value_at, write_past

FEATURES = ["short:trips", "short:speed", "ever:trips", "ever:speed", "plain:trips", "plain:speed"]

zones = st.integers(0, 3)
hours = st.integers(0, 12).map(hour)
late = st.sampled_from([0, 1, 5]).map(lambda number: timedelta(hours=number))
values = st.tuples(st.none() | st.integers(0, 99), st.none() | st.floats(0, 9, width=16))
entity_rows = st.lists(st.tuples(st.none() | zones, st.none() | hours), min_size=1, max_size=12)


def feature_rows(unique: Any, created: Any = late) -> Any:
    """Return a strategy for rows (zone, time, created, trips, speed), of which no two are alike in ``unique``."""
    row = st.tuples(st.none() | zones, hours, created, values).map(
        lambda drawn: (*drawn[:2], None if drawn[2] is None else drawn[1] + drawn[2], *drawn[3])
    )
    return st.lists(row, max_size=25, unique_by=unique)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FeatureStore, FeatureStore]:
    """Return the folder of the tables, our store and Feast's on the same three views."""
    home = tmp_path_factory.mktemp("offline")
    # Feast's store keeps one connection for good, and would not look again at a file that was written anew.
    ibis.duckdb.connect()
    ibis.get_backend().raw_sql("SET enable_external_file_cache = false")
    views = [
        past_view("short", home / "short.parquet"),
        past_view("ever", home / "ever.parquet", ttl=timedelta(0)),
        past_view("plain", home / "plain.parquet", created=""),
    ]
    opened = open_store(home / "ours"), open_store(home / "feasts", FEASTS)
    for store in opened:
        store.apply([ZONE, *views])
    return home, *opened


def entity_frame(rows: list[tuple[int | None, datetime | None]]) -> pd.DataFrame:
    """Return entity rows as pandas holds them, with a column that is no key and does not tell the rows apart."""
    return pd.DataFrame(
        {
            "zone": pd.array([zone for zone, _ in rows], dtype="Int64"),
            "event_timestamp": pd.to_datetime([moment for _, moment in rows], utc=True),
            "fare": [number % 2 for number in range(len(rows))],
        }
    )


@settings(max_examples=60, deadline=None)
@given(
    short=feature_rows(unique=lambda r: r[:3]),
    ever=feature_rows(unique=lambda r: r[:3]),
    plain=feature_rows(unique=lambda r: r[:2]),
    entities=entity_rows,
    known=st.booleans(),
)
def test_rows_are_those_of_feasts_duckdb_store(
    stores: Any, short: Any, ever: Any, plain: Any, entities: Any, known: bool
) -> None:
    home, ours, feasts = stores
    for name, rows in (("short", short), ("ever", ever), ("plain", plain)):
        write_past(home / f"{name}.parquet", rows)
    frame = entity_frame(entities)
    results = [
        store.get_historical_features(
            entity_df=frame, features=FEATURES, full_feature_names=True, filter_by_created_timestamp=known
        ).to_arrow()
        for store in (ours, feasts)
    ]
    assert results[0].column_names == results[1].column_names
    assert multiset(results[0]) == multiset(results[1])


@settings(max_examples=60, deadline=None)
@given(
    # Rows alike in key, time and creation, and rows of unknown creation: Feast's store takes any of those that tie,
    # from call to call another, so that only a reference of our own can say which one must come.
    short=feature_rows(unique=None, created=st.none() | late),
    entities=entity_rows,
    known=st.booleans(),
)
def test_ties_and_unknown_creation_are_resolved_by_the_order_of_writing(
    stores: Any, short: Any, entities: Any, known: bool
) -> None:
    home, ours, _ = stores
    write_past(home / "short.parquet", short)
    result = ours.get_historical_features(
        entity_df=entity_frame(entities), features=FEATURES[:2], filter_by_created_timestamp=known
    ).to_arrow()
    expected = [
        (zone, moment, number % 2, *value_at(short, zone, moment, TTL, known))
        for number, (zone, moment) in enumerate(entities)
    ]
    assert multiset(result) == sorted(expected, key=repr)


def test_thousands_of_rows_are_those_of_feasts_duckdb_store(stores: Any) -> None:
    home, ours, feasts = stores
    random = np.random.default_rng(7)
    keys = random.permutation(20 * 200)
    rows = [
        (int(key % 20), hour(int(key // 20) / 2), hour(int(key // 20) / 2 + int(delay)), int(key), float(key))
        for key, delay in zip(keys, random.integers(0, 4, keys.size), strict=True)
    ]
    for name in ("short", "ever", "plain"):
        write_past(home / f"{name}.parquet", rows)
    frame = entity_frame(
        [(int(z), hour(float(h))) for z, h in zip(random.integers(0, 22, 3000), random.random(3000) * 110, strict=True)]
    )
    for known in (False, True):
        results = [
            store.get_historical_features(
                entity_df=frame, features=FEATURES, full_feature_names=True, filter_by_created_timestamp=known
            ).to_arrow()
            for store in (ours, feasts)
        ]
        assert results[0].num_rows == 3000
        assert multiset(results[0]) == multiset(results[1])


def test_a_row_without_key_or_time_gets_nothing_even_where_nothing_expires(stores: Any) -> None:
    home, ours, _ = stores
    write_past(home / "ever.parquet", [(1, hour(0), hour(0), 5, 0.5), (None, hour(0), hour(0), 6, 0.6)])
    rows = [(1, None), (None, hour(3)), (None, None), (1, hour(3))]
    for known in (False, True):
        result = ours.get_historical_features(
            entity_df=entity_frame(rows), features=["ever:trips"], filter_by_created_timestamp=known
        ).to_arrow()
        found = {(row["zone"], row["event_timestamp"]): row["trips"] for row in result.to_pylist()}
        assert found == {row: 5 if row == (1, hour(3)) else None for row in rows}


def test_a_value_exactly_as_old_as_its_ttl_still_holds(stores: Any) -> None:
    home, ours, _ = stores
    write_past(home / "short.parquet", [(1, hour(0), hour(0), 5, 0.5)])
    edge = [
        (1, hour(3)),
        (1, hour(3) + timedelta(microseconds=1)),
        (1, hour(0)),
        (1, hour(0) - timedelta(microseconds=1)),
    ]
    result = ours.get_historical_features(entity_df=entity_frame(edge), features=FEATURES[:1]).to_arrow()
    found = {row["event_timestamp"]: row["trips"] for row in result.to_pylist()}
    assert [found[moment] for _, moment in edge] == [5, None, 5, None]


def test_a_late_correction_is_seen_only_where_it_was_known_if_asked_so(stores: Any) -> None:
    home, ours, _ = stores
    write_past(home / "ever.parquet", [(1, hour(0), hour(0), 1, None), (1, hour(0), hour(5), 2, None)])
    frame = entity_frame([(1, hour(4)), (1, hour(5))])
    seen = {
        known: ours.get_historical_features(
            entity_df=frame, features=["ever:trips"], filter_by_created_timestamp=known
        ).to_arrow()
        for known in (False, True)
    }
    assert [row[-1] for row in multiset(seen[False])] == [2, 2]
    assert [row[-1] for row in multiset(seen[True])] == [1, 2]


def test_arrow_comes_without_pandas_in_between(stores: Any) -> None:
    home, ours, _ = stores
    write_past(home / "short.parquet", [(1, hour(0), hour(0), 2**60 + 1, None)])
    entities = pa.table({"zone": [1, 2], "event_timestamp": [hour(1), hour(1)], "tags": [["a"], None]})
    result = ours.get_historical_features(entity_df=entities, features=FEATURES[:1]).to_arrow()
    assert result.schema.field("trips").type == pa.int64()  # pandas makes float64 of integers with nulls
    assert result.schema.field("tags").type == pa.list_(pa.string())
    assert sorted(result["trips"].to_pylist(), key=repr) == [2**60 + 1, None]
