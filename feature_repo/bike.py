"""Feast definitions of the bike model: where the feature tables are, how long a value holds, who answers for them."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, UnixTimestamp

from flows.models.bike.features import request_features

OWNER = "mobility@evergreen.example"
TAGS = {"model": "bike"}
VALID_FOR = timedelta(days=7)  # a past that nobody has refreshed for so long is no longer the recent past
bike_hr_key = Entity(
    name="bike_hr",
    join_keys=["hr"],
    value_type=ValueType.INT64,
    owner=OWNER,
    tags=TAGS,
)
KEYS = {
    "hr": bike_hr_key,
}
TYPES = {
    "hr": Int64,
}


def _past(view: str, prefix: str, keys: tuple[str, ...], of: str) -> FeatureView:
    """Return the view of a recent past; its columns are those of ``flows.models.bike.features``."""
    names = {
        "rows_28d": (Int64, "rows, last 28 days"),
        "mean_28d": (Float64, "mean label, last 28 days"),
        "mean_7d": (Float64, "mean label, last 7 days"),
        "newest": (Float64, "mean of the newest labels that are known"),
        "lag_7d": (Float64, "mean label, 7 days before"),
    }
    return FeatureView(
        name=view,
        entities=[KEYS[key] for key in keys],
        ttl=VALID_FOR,
        schema=[
            *(Field(name=key, dtype=TYPES[key]) for key in keys),
            *(Field(name=f"{prefix}_{name}", dtype=kind, description=text) for name, (kind, text) in names.items()),
        ],
        source=FileSource(
            name=f"{view}_past",
            path=f"features/bike/{view}",  # relative to the home
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
            owner=OWNER,
        ),
        description=f"Recent labels {of}, as known at each tick",
        owner=OWNER,
        tags=TAGS,
    )


PAST = [
    _past(
        "bike_all",
        "all",
        (),
        "of all rows together",
    ),
    _past(
        "bike_hr",
        "hr",
        ("hr",),
        "of the rows of one hr",
    ),
]
bike_all = PAST[0]
bike_hr = PAST[1]

bike_request = RequestSource(
    name="bike_request",
    schema=[
        Field(name="time", dtype=UnixTimestamp),
        Field(name="season", dtype=Int64),
        Field(name="yr", dtype=Int64),
        Field(name="mnth", dtype=Int64),
        Field(name="holiday", dtype=Int64),
        Field(name="weekday", dtype=Int64),
        Field(name="workingday", dtype=Int64),
        Field(name="weathersit", dtype=Int64),
        Field(name="temp", dtype=Float64),
        Field(name="atemp", dtype=Float64),
        Field(name="hum", dtype=Float64),
        Field(name="windspeed", dtype=Float64),
    ],
    description="What the caller says",
    owner=OWNER,
    tags=TAGS,
)

bike_given = on_demand_feature_view(
    name="bike_given",
    sources=[bike_request],
    # Feast compares these fields with the ones it infers: a description on them would make apply fail.
    schema=[
        Field(name="time_hour", dtype=Float64),
        Field(name="time_weekday", dtype=Float64),
        Field(name="time_month", dtype=Float64),
        Field(name="given_season", dtype=Float64),
        Field(name="given_yr", dtype=Float64),
        Field(name="given_mnth", dtype=Float64),
        Field(name="given_holiday", dtype=Float64),
        Field(name="given_weekday", dtype=Float64),
        Field(name="given_workingday", dtype=Float64),
        Field(name="given_weathersit", dtype=Float64),
        Field(name="given_temp", dtype=Float64),
        Field(name="given_atemp", dtype=Float64),
        Field(name="given_hum", dtype=Float64),
        Field(name="given_windspeed", dtype=Float64),
    ],
    mode="python",
    description="The moment that is asked for, and what the caller gives",
    owner=OWNER,
    tags=TAGS,
)(request_features)

bike_v1 = FeatureService(
    name="bike_v1",
    features=[*PAST, bike_given],
    description="What the model bike, version 1 of its inputs, knows of a row",
    owner=OWNER,
    tags=TAGS,
)
