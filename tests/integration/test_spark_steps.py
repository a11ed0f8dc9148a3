"""The profile spark: what the steps make on a standalone cluster is what they make on DuckDB."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pandas as pd
import pytest
from ingest_parts import Place, write

from flows import ledger
from flows.models.taxi.simulator import simulate_day
from flows.models.taxi.spec import spec
from flows.spec import resolve
from flows.steps import feature_tables

pytestmark = pytest.mark.long

FIRST, DAYS = date(2024, 1, 1), 6


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six simulated days, dirt included, one file a day."""
    folder = tmp_path_factory.mktemp("days")
    for number in range(DAYS):
        day = FIRST + timedelta(days=number)
        write(simulate_day(day, trips=600), folder / f"{day}.parquet")
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, spark_cluster: Any, days: Path) -> SimpleNamespace:
    """Two homes with the same data, ingested and featurized: one on DuckDB, one on the cluster."""
    found = SimpleNamespace()
    for name in ("duckdb", "spark"):
        place = Place(tmp_path_factory.mktemp(name))
        if name == "spark":
            place.settings = spark_cluster.settings(place.settings.home)
        place.ingest(days)
        planned = feature_tables.plan(spec, ledger.list_partitions(place.engine, "taxi", "accepted"))
        feature_tables.compute(place.settings, spec, planned)
        setattr(found, name, place)
    return found


def features_of(place: Place, view: str) -> pd.DataFrame:
    keys = [*spec.entities[view], "event_timestamp"]
    files = place.settings.features("taxi") / view / "*.parquet"
    frame = duckdb.sql(f"SELECT * EXCLUDE created_timestamp FROM read_parquet('{files}')").df()
    return frame.sort_values(keys, ignore_index=True)


@pytest.mark.parametrize("view", resolve(spec.feature_tables))
def test_feature_values_of_the_same_expressions_are_equal(places: SimpleNamespace, view: str) -> None:
    there, here = features_of(places.spark, view), features_of(places.duckdb, view)
    assert len(here) > 100
    pd.testing.assert_frame_equal(there, here, check_exact=False, rtol=1e-9, atol=0)
    counts = [name for name in here if "trips" in name]
    assert counts
    assert there[counts].equals(here[counts])
