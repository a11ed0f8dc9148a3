"""The taxi model: how many minutes a green-taxi trip takes, asked at pick-up."""

from datetime import timedelta

from flows.models.taxi.source import COLUMNS, IGNORED, PUBLIC
from flows.spec import Gates, Label, Metric, ModelSpec, RequestField, Source, Training, Triggers

spec = ModelSpec(
    name="taxi",
    description="How many minutes a New York green-taxi trip takes, asked at pick-up.",
    owner="mobility@evergreen.example",
    task="regression",
    source=Source(
        columns=COLUMNS, ignored=IGNORED, layouts=(PUBLIC,), event_time="lpep_pickup_datetime",
        time_zone="America/New_York", min_rows=100,
    ),
    # The model answers for trips of 1 to 60 minutes; a trip is in the lake within the hour after its end.
    label=Label(name="minutes", unit="min", low=1, high=60, delay=timedelta(hours=1)),
    key=("lpep_pickup_datetime", "PULocationID", "DOLocationID", "trip_distance"),
    request=(
        RequestField(
            name="lpep_pickup_datetime", type="timestamp", example="2022-01-25T08:30:00",
            description="Pick-up time; without a zone it is local New York time",
        ),
        RequestField(
            name="PULocationID", type="int", minimum=1, maximum=9999, example=74, description="TLC zone of the pick-up"
        ),
        RequestField(
            name="DOLocationID", type="int", minimum=1, maximum=9999, example=42, description="TLC zone of the drop-off"
        ),
        RequestField(
            name="trip_distance", type="float", minimum=0, maximum=100, example=2.4, description="Miles on the meter"
        ),
    ),
    entities={
        "pickup_zone": ("PULocationID",),
        "dropoff_zone": ("DOLocationID",),
        "route": ("PULocationID", "DOLocationID"),
    },
    definitions="feature_repo.taxi",
    feature_service="taxi_duration_v1",
    rows="flows.models.taxi.source:trips",
    expectations="flows.models.taxi.expectations:suite",
    feature_tables="flows.models.taxi.features:TABLES",
    estimator="flows.models.taxi.estimator:build",
    search_space="flows.models.taxi.estimator:suggest",
    params={"learning_rate": 0.08, "max_iter": 200, "min_samples_leaf": 40},
    metric=Metric(name="rmse"),
    slices=("weekday", "rush_hour"),
    history=timedelta(days=28),
    training=Training(window=timedelta(days=35), judge=timedelta(days=2)),
    gates=Gates(baseline_ratio=0.8, champion_tolerance=0.0, slice_tolerance=0.10),
    triggers=Triggers(
        performance_ratio=1.10, drift_effect=0.10, min_labels=1000,
        # The zones' averages over the past wander by themselves; these do not.
        drift_columns=("distance_miles", "hour", "prediction", "label"),
        # The times of deployments/prefect.yaml, which tells of them within seconds.
        expected_every=timedelta(days=2), max_champion_age=timedelta(days=30),
    ),
)  # fmt: skip
