"""Simulated bike rentals by the hour: the columns of the UCI bike-sharing file, with seasons, weather, rush and growth."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd

START = date(2011, 1, 1)


def history(days: int = 400, seed: int = 0) -> pd.DataFrame:
    """Return so many days of hourly rows from 2011 on, in order; the same seed is the same town. Demand doubles in two years."""
    rng = np.random.default_rng(seed)
    hours = np.arange(days * 24)
    hour, number = hours % 24, hours // 24
    day = np.array([START + timedelta(days=int(one)) for one in range(days)])
    weekday = (number + START.isoweekday()) % 7  # 0 is Sunday, as in the file
    holiday = (rng.random(days) < 0.03)[number]
    working = (weekday > 0) & (weekday < 6) & ~holiday
    season = 1 + ((number % 365) // 91).clip(max=3)

    yearly = np.sin(2 * np.pi * (number % 365 - 100) / 365)
    warm = rng.normal(0, 0.05, days)[number] + 0.05 * np.sin(2 * np.pi * (hour - 9) / 24)
    temp = (0.5 + 0.28 * yearly + warm).clip(0.02, 1.0).round(2)
    sky = rng.choice([1, 1, 1, 2, 2, 3], days)[number]
    weather = np.where(rng.random(len(hours)) < 0.15, rng.choice([1, 2, 3], len(hours)), sky)
    hum = (0.55 + 0.12 * (weather - 1) + rng.normal(0, 0.08, len(hours))).clip(0.1, 1.0).round(2)
    wind = rng.gamma(3.0, 0.06, len(hours)).clip(0.0, 0.85).round(4)

    rush = np.exp(-(((hour - 8) / 1.3) ** 2)) + 1.3 * np.exp(-(((hour - 17.5) / 1.8) ** 2))
    calm = np.exp(-(((hour - 14) / 4.5) ** 2))
    rhythm = np.where(working, 0.06 + rush + 0.4 * calm, 0.06 + 0.95 * calm)
    mood = (0.35 + 1.1 * temp) * np.array([1.0, 0.9, 0.55])[weather - 1] * (1.1 - 0.4 * wind)
    town = rng.lognormal(0.0, 0.1, days)[number]  # events that no column tells of
    mean = 260 * (1 + number / 730) * rhythm * mood * town
    count = rng.poisson(mean * rng.lognormal(0.0, 0.12, len(hours))) + 1
    casual = rng.binomial(count, np.where(working, 0.12, 0.3))
    return pd.DataFrame(
        {
            "instant": hours + 1,
            "dteday": pd.to_datetime(day)[number].astype("datetime64[us]"),
            "season": season,
            "yr": number // 365,
            "mnth": np.array([one.month for one in day])[number],
            "hr": hour,
            "holiday": holiday.astype("int64"),
            "weekday": weekday,
            "workingday": working.astype("int64"),
            "weathersit": weather,
            "temp": temp,
            "atemp": (temp * 0.95 + 0.02).round(4),
            "hum": hum,
            "windspeed": wind,
            "casual": casual,
            "registered": count - casual,
            "cnt": count,
        }
    )
