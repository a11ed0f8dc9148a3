"""Five tables that nobody prepared: three of scikit-learn's, as they come or shuffled, and two that are generated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

ORDER = ("--start", "2024-01-01", "--every")


def own_table(name: str) -> pd.DataFrame:
    """Return a table that scikit-learn ships, with its label in ``target``."""
    from sklearn import datasets

    table: pd.DataFrame = getattr(datasets, f"load_{name}")(as_frame=True).frame
    return table


def rare(rows: int = 6000) -> pd.DataFrame:
    """Return payments of 60 days, of which one in fifty is fraud; names with blanks, missing values, a text."""
    rng = np.random.default_rng(7)
    when = pd.Timestamp("2024-03-01") + pd.to_timedelta(np.sort(rng.integers(0, 60 * 86400, rows)), unit="s")
    amount, age = rng.lognormal(3, 1, rows).round(2), rng.integers(0, 3000, rows)
    country = rng.choice(["DE", "FR", "PL", "US"], rows, p=[0.5, 0.3, 0.15, 0.05])
    chance = 1 / (1 + np.exp(6.0 - 2.0 * np.log(amount / 20.0) + 0.001 * age - 2.0 * (country == "US")))
    return pd.DataFrame(
        {
            "Bought At": when,
            "amount": amount,
            "country": np.where(rng.random(rows) < 0.03, None, country),
            "account age (days)": np.where(rng.random(rows) < 0.1, np.nan, age),
            "fraud": (rng.random(rows) < chance * 0.02 / chance.mean()).astype(int),
        }
    )


def machines(rows: int = 6000) -> pd.DataFrame:
    """Return states of twelve machines over 120 days; after three fifths of them load and wear mean something else."""
    rng = np.random.default_rng(8)
    when = pd.Timestamp("2023-11-01") + pd.to_timedelta(np.sort(rng.integers(0, 120 * 86400, rows)), unit="s")
    machine, mode = rng.integers(0, 12, rows), rng.choice(["eco", "full"], rows)
    load, vibration = rng.normal(50, 10, rows), rng.gamma(2, 1, rows)
    late, wear = np.arange(rows) > 0.6 * rows, rng.normal(0, 1, 12)[machine]
    slow = (load - 50) / 10 * np.where(late, -1, 1) + 0.5 * wear - 0.6
    broken = vibration - 2.6 + 0.8 * (mode == "full") + late - wear
    drawn = np.stack([np.zeros(rows), slow, broken], axis=1) + 0.6 * rng.gumbel(size=(rows, 3))
    return pd.DataFrame(
        {
            "at": when, "machine": np.char.add("M", machine.astype(str)), "load": load.round(2),
            "vibration": vibration.round(3), "mode": mode, "state": np.array(["fine", "slow", "broken"])[drawn.argmax(axis=1)],
        }
    )  # fmt: skip


def five() -> dict[str, tuple[pd.DataFrame, tuple[str, ...]]]:
    """Return each table with the options of ``evergreen new`` that a person would give."""
    shuffled: Any = own_table("wine").sample(frac=1, random_state=0)  # as it comes it is sorted by class, and refused
    return {
        "diabetes": (own_table("diabetes"), ("--label", "target", *ORDER, "1d")),
        "cancer": (own_table("breast_cancer"), ("--label", "target", *ORDER, "6h")),
        "wine": (shuffled, ("--label", "target", "--task", "multiclass", *ORDER, "1d")),
        "rare": (rare(), ("--label", "fraud")),
        "machines": (machines(), ("--label", "state", "--entity", "machine")),
    }
