"""Simulated green-taxi trips: the TLC columns with rhythm, places, noise and the dirt of the real files.

A city of 263 zones on a plane with a river through its middle. ``roads_changed`` closes most of the river's bridges:
trips across it take a detour and are slow, and the morning rush comes two hours later.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd

ZONES = 263
RIVER = 0.5


def simulate_day(day: date, *, seed: int = 0, trips: int = 2800, roads_changed: bool = False) -> pd.DataFrame:
    """Return one local day of raw trips, in order of pick-up.

    Working days have up to ``trips`` rows, weekends four fifths of them; the same ``seed`` is the same city and the
    same day. About 1 % of the rows are dirt: 0-second and 24-hour trips, zones 264 and 265, a pick-up in a wrong year.
    """
    city = np.random.default_rng(seed)
    place = city.random((ZONES + 1, 2))
    appeal = city.lognormal(0.0, 1.3, ZONES + 1)
    appeal[0] = 0
    calm = city.normal(1.0, 0.18, ZONES + 1).clip(0.6, 1.6)  # how fast one drives there

    rng = np.random.default_rng([seed, day.toordinal()])
    weekend = day.weekday() >= 5
    count = int(trips * (0.8 if weekend else 1.0) * rng.uniform(0.96, 1.04))

    hours = np.arange(24)
    demand = 0.3 + np.exp(-(((hours - (13 if weekend else 8)) / 3.0) ** 2)) + 1.2 * np.exp(-(((hours - 18) / 3.5) ** 2))
    hour = rng.choice(24, count, p=demand / demand.sum()) + rng.random(count)
    pickup_zone = rng.choice(ZONES + 1, count, p=appeal / appeal.sum())
    # Each zone has its own liking for the others: near ones and busy ones.
    nearness = np.exp(-4.0 * np.linalg.norm(place[:, None, :] - place[None, :, :], axis=2)) * appeal[None, :]
    cumulative = (nearness / nearness.sum(axis=1, keepdims=True)).cumsum(axis=1)
    dropoff_zone = (rng.random(count)[:, None] < cumulative[pickup_zone]).argmax(axis=1)

    miles = 0.5 + 9.0 * np.linalg.norm(place[pickup_zone] - place[dropoff_zone], axis=1) * rng.normal(1.25, 0.12, count)
    morning = 10.0 if roads_changed else 8.0
    rush = 0.0 if weekend else 1.0
    slow = 1.0 + rush * (0.7 * np.exp(-(((hour - morning) / 1.3) ** 2)) + 0.6 * np.exp(-(((hour - 17.5) / 1.6) ** 2)))
    if roads_changed:
        across = (place[pickup_zone, 0] < RIVER) != (place[dropoff_zone, 0] < RIVER)
        miles = np.where(across, miles * 1.5 + 1.0, miles)
        slow = np.where(across, slow * 1.7, slow)
    mph = 17.0 * np.sqrt(calm[pickup_zone] * calm[dropoff_zone]) / slow * (1.0 + 0.02 * miles)
    minutes = (1.5 + miles.clip(0.2) / mph * 60.0) * rng.lognormal(0.0, 0.2, count)

    pickup = pd.Timestamp(day) + pd.to_timedelta((hour * 3600).astype("int64"), unit="s")
    duration = pd.to_timedelta((minutes * 60).astype("int64"), unit="s")
    frame = pd.DataFrame(
        {
            "lpep_pickup_datetime": pickup,
            "lpep_dropoff_datetime": pickup + duration,
            "trip_distance": miles.clip(0.0).round(2),
            "PULocationID": pickup_zone.astype("int64"),
            "DOLocationID": dropoff_zone.astype("int64"),
        }
    )
    frame = _dirty(frame, rng)
    frame = frame.sort_values(["lpep_pickup_datetime", "PULocationID", "DOLocationID"], ignore_index=True)
    return frame.astype(dict.fromkeys(frame.columns[:2], "datetime64[us]"))


def _dirty(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Put the real files' dirt into about 1 % of the rows; disjoint rows for each kind."""
    rows = rng.permutation(len(frame))
    standing, running, unknown, wrong_year = np.split(rows[: len(frame) // 100], [3, 8, len(frame) // 100 - 1])
    frame.loc[standing, "lpep_dropoff_datetime"] = frame.loc[standing, "lpep_pickup_datetime"]
    frame.loc[running, "lpep_dropoff_datetime"] = frame.loc[running, "lpep_pickup_datetime"] + pd.Timedelta(
        hours=23, minutes=59
    )
    frame.loc[unknown, "DOLocationID"] = rng.choice([264, 265], len(unknown))
    for column in ("lpep_pickup_datetime", "lpep_dropoff_datetime"):
        moment = frame.loc[wrong_year, column]
        frame.loc[wrong_year, column] = moment - pd.Timedelta(days=365 * 13)
    return frame


def break_rows(frame: pd.DataFrame, share: float = 0.005, seed: int = 0) -> pd.DataFrame:
    """Return the day with a share of rows that break the contract: distances below zero."""
    broken = frame.copy()
    rows = np.random.default_rng(seed).choice(len(frame), max(1, round(share * len(frame))), replace=False)
    broken.loc[rows, "trip_distance"] = -1.0
    return broken


def rename_column(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the day as a vendor would send it after a careless change of the export: one column renamed."""
    return frame.rename(columns={"trip_distance": "distance_miles"})
