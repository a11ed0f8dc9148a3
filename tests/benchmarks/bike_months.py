"""The bike model on the public file, trained anew each month on all that was known: the RMSE of each month.

Use: ``python -m tests.benchmarks.bike_months FILE``. Features are the model's own expressions, joined as of each row;
labels are known a day late.
"""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb
import ibis
import numpy as np
import pandas as pd

from flows.models.bike import estimator, features
from flows.models.bike.spec import spec
from flows.steps.bench import Figure, compared
from flows.steps.event_rows import ROW, compiled

FIRST, LAST = "2011-07", "2012-12"


def joined(file: str) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows with their features as known at each, and the features' names."""
    sql, _ = compiled(spec)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE raw AS SELECT *, row_number() OVER () - 1 AS {ROW} FROM read_csv(?)", [file])
        rows = connection.execute(sql).df().sort_values("time", ignore_index=True)
    rows["event_timestamp"] = pd.to_datetime(rows["time"]).astype("datetime64[us]").dt.tz_localize("UTC")
    rows["label_timestamp"] = rows["event_timestamp"] + spec.label.delay
    days = pd.date_range(rows["time"].min().normalize(), rows["time"].max().normalize() + spec.tick, tz="UTC")
    ticks = ibis.memtable(pd.DataFrame({"tick": days}))
    table, names = ibis.memtable(rows), []
    for view, past in features.TABLES.items():
        keys = list(spec.entities[view])
        values = past(table, ticks).to_pandas().sort_values("event_timestamp")
        values["event_timestamp"] = values["event_timestamp"].astype(rows["event_timestamp"].dtype)
        names += [name for name in values if name not in (*keys, "event_timestamp")]
        rows = pd.merge_asof(rows, values, on="event_timestamp", by=keys or None, tolerance=features.SHORT)
    given = features.request_features(rows[[field.name for field in spec.request]])
    return pd.concat([rows, given], axis=1), [*names, *given.columns]


def monthly(file: str) -> tuple[list[float], list[float]]:
    """Return the RMSE of each month: of a model trained before it, and of the mean by hour and kind of day before it."""
    rows, names = joined(file)
    ours, plain = [], []
    for month in pd.period_range(FIRST, LAST, freq="M"):
        start, end = (one.tz_localize("UTC") for one in (month.start_time, (month + 1).start_time))
        known = rows[(rows["label_timestamp"] <= start) & (rows["event_timestamp"] >= start - spec.training.window)]
        asked = rows[(rows["event_timestamp"] >= start) & (rows["event_timestamp"] < end)]
        fitted = estimator.build(spec.params).fit(known[names], known["cnt"])
        means = known.groupby(["hr", "workingday"])["cnt"].mean().rename("mean").reset_index()
        guessed = asked.merge(means, on=["hr", "workingday"], how="left")["mean"].to_numpy()
        for found, predicted in ((ours, fitted.predict(asked[names])), (plain, guessed)):
            found.append(float(np.sqrt(np.mean((predicted - asked["cnt"].to_numpy()) ** 2))))
        print(month, f"{ours[-1]:.1f}, mean by hour {plain[-1]:.1f}", flush=True)
    return ours, plain


def figures() -> list[Figure]:
    """Return the error beside that of the plain mean; needs the public file in the folder of shared data."""
    file = Path(__file__).resolve().parents[3] / "shared" / "data" / "bike_sharing_hour.csv"
    if not file.is_file():
        raise SystemExit(f"{file} is not there; bring the public bike sharing table there")
    ours, plain = monthly(str(file))
    return [compared("bike model trained monthly, RMSE", "mean by hour and day", ours, plain, "bikes")]


def main() -> None:
    """Print the RMSE of each month, and their mean."""
    print(f"mean {np.mean(monthly(sys.argv[1])[0]):.2f}")


if __name__ == "__main__":
    main()
