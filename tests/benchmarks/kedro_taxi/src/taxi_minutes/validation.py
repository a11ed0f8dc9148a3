"""Validate each day; rows that break a rule are set aside, a day that breaks the schema stops the run."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pandera.pandas as pa

ZONE = pa.Check.in_range(1, 265)
SCHEMA = pa.DataFrameSchema(
    {
        "lpep_pickup_datetime": pa.Column("datetime64[us]"),
        "lpep_dropoff_datetime": pa.Column("datetime64[us]"),
        "trip_distance": pa.Column(float, [pa.Check.in_range(0, 100), pa.Check(lambda s: 0.3 <= s.median() <= 15)]),
        "PULocationID": pa.Column("int64", [ZONE, pa.Check(lambda s: s.nunique() >= 5)]),
        "DOLocationID": pa.Column("int64", ZONE),
        "minutes": pa.Column(
            float,
            [pa.Check.in_range(0, 180, include_min=False), pa.Check(lambda s: 3 <= s.median() <= 45)],
        ),
        "day": pa.Column(str),
    },
    checks=pa.Check(lambda df: df["lpep_pickup_datetime"].dt.strftime("%Y-%m-%d") == df["day"], name="day of the file"),
    strict=True,
)


def validate_days(
    days: dict[str, Callable[[], pd.DataFrame]], tolerated_share: float
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Return the accepted rows of all days in order of pick-up, and the rejected ones by day."""
    parts, rejected = [], {}
    for day, load in sorted(days.items()):
        accepted, bad = validate_day(load(), day, tolerated_share)
        parts.append(accepted)
        if len(bad):
            rejected[day] = bad
    return pd.concat(parts, ignore_index=True).sort_values("lpep_pickup_datetime", ignore_index=True), rejected


def validate_day(raw: pd.DataFrame, day: str, tolerated_share: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split a day; raises SchemaErrors if it breaks the schema, or more rows than tolerated break a rule."""
    seconds = (raw["lpep_dropoff_datetime"] - raw["lpep_pickup_datetime"]).dt.total_seconds()
    rows = raw.assign(minutes=seconds / 60, day=day)
    try:
        SCHEMA.validate(rows, lazy=True)
    except pa.errors.SchemaErrors as error:
        index: Any = error.failure_cases["index"]
        bad = index.dropna().unique()
        if index.isna().any() or len(bad) > tolerated_share * len(rows):
            raise
        return rows.drop(index=bad), rows.loc[bad]
    return rows, rows.head(0)
