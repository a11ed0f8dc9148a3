"""What the bike model knows of a row: the recent past of what it belongs to, and what it is asked with."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import ibis.expr.types as ir
from ibis import _

from flows.steps.windows import mean, recent, rolling

TICK = timedelta(days=1)
SHORT = timedelta(days=7)
LONG = timedelta(days=28)
NEWEST = timedelta(days=1) + TICK  # the newest rows whose label is known at a tick


def _past(rows: ir.Table, ticks: ir.Table, name: str, keys: tuple[str, ...]) -> ir.Table:
    """Return the labels of the rows of each key before each tick, as far as they were known: of long ago, and newest."""
    return rolling(
        rows,
        ticks,
        keys,
        LONG,
        **{
            f"{name}_rows_28d": _.count(),
            f"{name}_mean_28d": mean(_["cnt"]),
            f"{name}_mean_7d": mean(_["cnt"], where=recent(SHORT)),
            f"{name}_newest": mean(_["cnt"], where=recent(NEWEST)),
            # What a week ago was, for what goes by the day of the week.
            f"{name}_lag_7d": mean(_["cnt"], where=recent(SHORT) & ~recent(SHORT - TICK)),
        },
    )


TABLES: dict[str, Callable[[ir.Table, ir.Table], ir.Table]] = {
    "bike_all": partial(_past, name="all", keys=()),
    "bike_hr": partial(_past, name="hr", keys=("hr",)),
}


def request_features(inputs: Any) -> Any:
    """Return what is known of the moment and what the caller gives, from columns as a dict of lists or a data frame.

    Times are local; a zone on them is a label that Feast puts there and is passed over. Missing numbers become NaN,
    missing texts "". Feast keeps this function as text and runs it alone, so it uses nothing of this module.
    """
    import numpy as np
    import pandas as pd

    time = pd.DatetimeIndex(pd.to_datetime(inputs["time"])).tz_localize(None)
    columns: dict[str, Any] = {
        "time_hour": np.asarray(time.hour + time.minute / 60, dtype="float64"),
        "time_weekday": np.asarray(time.weekday, dtype="float64"),
        "time_month": np.asarray(time.month, dtype="float64"),
        "given_season": np.asarray(inputs["season"], dtype="float64"),
        "given_yr": np.asarray(inputs["yr"], dtype="float64"),
        "given_mnth": np.asarray(inputs["mnth"], dtype="float64"),
        "given_holiday": np.asarray(inputs["holiday"], dtype="float64"),
        "given_weekday": np.asarray(inputs["weekday"], dtype="float64"),
        "given_workingday": np.asarray(inputs["workingday"], dtype="float64"),
        "given_weathersit": np.asarray(inputs["weathersit"], dtype="float64"),
        "given_temp": np.asarray(inputs["temp"], dtype="float64"),
        "given_atemp": np.asarray(inputs["atemp"], dtype="float64"),
        "given_hum": np.asarray(inputs["hum"], dtype="float64"),
        "given_windspeed": np.asarray(inputs["windspeed"], dtype="float64"),
    }
    if isinstance(inputs, dict):
        return {name: values.tolist() for name, values in columns.items()}
    return pd.DataFrame(columns)
