"""What the taxi model knows of a trip: its zones' and its route's recent past, and the moment it is asked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import ibis
import ibis.expr.types as ir
from ibis import _

from flows.steps.windows import mean, recent, rolling

MONTH = timedelta(days=28)
WEEK = timedelta(days=7)
UNKNOWN_ZONES = (264, 265)  # the city's codes for "unknown" and "outside": no place, so they have no past
FASTEST_MPH = 80.0  # above it the meter was wrong


def _past(rows: ir.Table, ticks: ir.Table, name: str, keys: tuple[str, ...]) -> ir.Table:
    """Return duration and speed of the trips of each key before each tick, over four weeks and over one."""
    known = rows.filter([~rows[key].isin(UNKNOWN_ZONES) for key in keys])
    trips = known.mutate(mph=ibis.least(known.trip_distance / known.minutes * 60.0, FASTEST_MPH))
    return rolling(
        trips,
        ticks,
        keys,
        MONTH,
        **{
            f"{name}_trips_28d": _.count(),
            f"{name}_minutes_mean_28d": mean(_.minutes),
            f"{name}_minutes_median_28d": _.minutes.median(),
            f"{name}_minutes_q90_28d": _.minutes.quantile(0.9),
            f"{name}_mph_mean_28d": mean(_.mph),
            f"{name}_mph_median_28d": _.mph.median(),
            f"{name}_minutes_mean_7d": mean(_.minutes, where=recent(WEEK)),
            f"{name}_mph_mean_7d": mean(_.mph, where=recent(WEEK)),
        },
    )


TABLES: dict[str, Callable[[ir.Table, ir.Table], ir.Table]] = {
    "pickup_zone": partial(_past, name="pickup", keys=("PULocationID",)),
    "dropoff_zone": partial(_past, name="dropoff", keys=("DOLocationID",)),
    "route": partial(_past, name="route", keys=("PULocationID", "DOLocationID")),
}


def request_features(inputs: Any) -> Any:
    """Return hour, weekday, rush hour and distance of trips, from columns as a dict of lists or a data frame.

    Pick-up times are local; a zone on them is a label that Feast puts there and is passed over. Missing in, NaN out.
    Feast keeps this function as text and runs it alone, so it uses nothing of this module.
    """
    if isinstance(inputs, dict) and len(inputs["trip_distance"]) <= 1000:  # a request: plain Python is far faster
        nan, found = float("nan"), []
        for time, miles in zip(inputs["lpep_pickup_datetime"], inputs["trip_distance"], strict=True):
            distance = nan if miles is None else float(miles)
            if time is None or time != time:
                found.append((nan, nan, nan, distance))
                continue
            clock, day = (time.hour * 60 + time.minute) / 60, time.weekday()
            rush = day < 5 and (7 <= clock < 10 or 16 <= clock < 19)
            found.append((clock, float(day), float(rush), distance))
        names = ("hour", "weekday", "rush_hour", "distance_miles")
        return {name: [row[place] for row in found] for place, name in enumerate(names)}

    import numpy as np
    import pandas as pd

    pickup = pd.DatetimeIndex(pd.to_datetime(inputs["lpep_pickup_datetime"])).tz_localize(None)
    missing = pickup.isna()
    minute = np.where(missing, 0, pickup.as_unit("us").to_numpy().astype("int64") // 60_000_000)
    hour = minute % 1440 / 60
    weekday = (minute // 1440 + 3) % 7  # 1970-01-01 was a Thursday; 0 is Monday
    rush = (weekday < 5) & (((hour >= 7) & (hour < 10)) | ((hour >= 16) & (hour < 19)))
    columns = {
        "hour": np.where(missing, np.nan, hour),
        "weekday": np.where(missing, np.nan, weekday),
        "rush_hour": np.where(missing, np.nan, rush),
        "distance_miles": np.asarray(inputs["trip_distance"], dtype="float64"),
    }
    if isinstance(inputs, dict):
        return {name: values.tolist() for name, values in columns.items()}
    return pd.DataFrame(columns)
