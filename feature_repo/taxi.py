"""Feast definitions of the taxi model: where the feature tables are, how long a value holds, who answers for them."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, UnixTimestamp

from flows.models.taxi.features import request_features

OWNER = "mobility@evergreen.example"
TAGS = {"model": "taxi", "domain": "mobility"}
VALID_FOR = timedelta(days=7)  # a past that nobody has refreshed for a week is no longer the recent past

pickup_zone = Entity(
    name="pickup_zone", join_keys=["PULocationID"], value_type=ValueType.INT64,
    description="TLC zone in which a trip begins", owner=OWNER, tags=TAGS,
)  # fmt: skip
dropoff_zone = Entity(
    name="dropoff_zone", join_keys=["DOLocationID"], value_type=ValueType.INT64,
    description="TLC zone in which a trip ends", owner=OWNER, tags=TAGS,
)  # fmt: skip


def _past(view: str, prefix: str, entities: list[Entity], of: str) -> FeatureView:
    """Return the view of the recent past of zones or routes; its columns are those of ``flows.models.taxi.features``."""
    names = {
        "trips_28d": (Int64, "trips, last 28 days"),
        "minutes_mean_28d": (Float64, "mean duration in minutes, last 28 days"),
        "minutes_median_28d": (Float64, "median duration in minutes, last 28 days"),
        "minutes_q90_28d": (Float64, "90th percentile of the duration in minutes, last 28 days"),
        "mph_mean_28d": (Float64, "mean speed in miles an hour, last 28 days"),
        "mph_median_28d": (Float64, "median speed in miles an hour, last 28 days"),
        "minutes_mean_7d": (Float64, "mean duration in minutes, last 7 days"),
        "mph_mean_7d": (Float64, "mean speed in miles an hour, last 7 days"),
    }
    return FeatureView(
        name=view,
        entities=entities,
        ttl=VALID_FOR,
        schema=[
            *(Field(name=entity.join_key, dtype=Int64) for entity in entities),
            *(Field(name=f"{prefix}_{name}", dtype=kind, description=text) for name, (kind, text) in names.items()),
        ],
        source=FileSource(
            name=f"taxi_{view}",
            path=f"features/taxi/{view}",  # relative to the home
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
            owner=OWNER,
        ),
        description=f"Duration and speed of the trips {of}, as known at midnight",
        owner=OWNER,
        tags=TAGS,
    )


pickup_past = _past("pickup_zone", "pickup", [pickup_zone], "that began in a zone")
dropoff_past = _past("dropoff_zone", "dropoff", [dropoff_zone], "that ended in a zone")
route_past = _past("route", "route", [pickup_zone, dropoff_zone], "from one zone to another")

trip_request = RequestSource(
    name="taxi_request",
    schema=[Field(name="lpep_pickup_datetime", dtype=UnixTimestamp), Field(name="trip_distance", dtype=Float64)],
    description="What the caller says of a trip: pick-up in local New York time, and miles on the meter",
    owner=OWNER,
    tags=TAGS,
)

trip_moment = on_demand_feature_view(
    name="trip_moment",
    sources=[trip_request],
    # Feast compares these fields with the ones it infers: a description on them would make apply fail.
    schema=[Field(name=name, dtype=Float64) for name in ("hour", "weekday", "rush_hour", "distance_miles")],
    mode="python",
    description=(
        "The trip as asked for: local hour of the pick-up with its fraction, weekday (0 is Monday), rush hour (1 on "
        "working days from 7 to 10 and from 16 to 19), miles on the meter"
    ),
    owner=OWNER,
    tags=TAGS,
)(request_features)

taxi_duration_v1 = FeatureService(
    name="taxi_duration_v1",
    features=[pickup_past, dropoff_past, route_past, trip_moment],
    description="What the taxi model, version 1 of its inputs, knows of a trip at pick-up",
    owner=OWNER,
    tags=TAGS,
)
