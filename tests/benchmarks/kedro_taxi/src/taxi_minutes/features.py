"""Features of a zone's or a route's recent past as known at each midnight, and those of the request itself."""

import duckdb
import pandas as pd

VIEWS = {
    "pickup": ["PULocationID"],
    "dropoff": ["DOLocationID"],
    "route": ["PULocationID", "DOLocationID"],
}
PAST = (
    "trips_28d", "minutes_mean_28d", "minutes_median_28d", "minutes_q90_28d", "mph_mean_28d", "mph_median_28d",
    "minutes_mean_7d", "mph_mean_7d",
)  # fmt: skip
REQUEST = ["hour", "weekday", "rush_hour", "distance_miles"]
FEATURES = [*(f"{view}_{name}" for view in VIEWS for name in PAST), *REQUEST]


def past(trips: pd.DataFrame, view: str, delay_hours: int) -> pd.DataFrame:
    """Return statistics of each key over the trips that began in the 28 days before a midnight and were known then."""
    keys = ", ".join(VIEWS[view])
    known = " AND ".join(f"{key} NOT IN (264, 265)" for key in VIEWS[view])
    return duckdb.sql(
        f"""
        WITH ticks AS (
            SELECT unnest(generate_series(min(d) + INTERVAL 1 DAY, max(d) + INTERVAL 1 DAY, INTERVAL 1 DAY)) AS tick
            FROM (SELECT date_trunc('day', lpep_pickup_datetime) AS d FROM trips)
        ), known AS (
            SELECT *, least(trip_distance / minutes * 60, 80) AS mph FROM trips WHERE {known}
        )
        SELECT tick, {keys}, count(*) AS {view}_trips_28d,
               avg(minutes) AS {view}_minutes_mean_28d, median(minutes) AS {view}_minutes_median_28d,
               quantile_cont(minutes, 0.9) AS {view}_minutes_q90_28d,
               avg(mph) AS {view}_mph_mean_28d, median(mph) AS {view}_mph_median_28d,
               avg(minutes) FILTER (lpep_pickup_datetime >= tick - INTERVAL 7 DAY) AS {view}_minutes_mean_7d,
               avg(mph) FILTER (lpep_pickup_datetime >= tick - INTERVAL 7 DAY) AS {view}_mph_mean_7d
        FROM ticks JOIN known ON lpep_pickup_datetime >= tick - INTERVAL 28 DAY AND lpep_pickup_datetime < tick
             AND lpep_dropoff_datetime + to_hours({delay_hours}) <= tick
        GROUP BY ALL
        """
    ).df()


def join(rows: pd.DataFrame, pickup: pd.DataFrame, dropoff: pd.DataFrame, route: pd.DataFrame) -> pd.DataFrame:
    """Return rows with the features of the newest midnight before each pick-up, and the request's own."""
    newest = pickup["tick"].max()
    found = rows.assign(tick=rows["lpep_pickup_datetime"].dt.floor("D").clip(upper=newest).astype("datetime64[us]"))
    for name, table in (("pickup", pickup), ("dropoff", dropoff), ("route", route)):
        found = found.merge(table, on=["tick", *VIEWS[name]], how="left")
    time = found["lpep_pickup_datetime"].dt
    hour, weekday = time.hour + time.minute / 60, time.dayofweek
    rush = (weekday < 5) & (hour.between(7, 10, inclusive="left") | hour.between(16, 19, inclusive="left"))
    return found.assign(
        hour=hour, weekday=weekday.astype(float), rush_hour=rush.astype(float), distance_miles=found["trip_distance"]
    )
