"""The pipelines by name; `kedro run` runs all of them."""

from functools import partial, update_wrapper

from kedro.pipeline import Pipeline, node

from taxi_minutes import features, scoring, training, validation


def register_pipelines() -> dict[str, Pipeline]:
    """Return the pipelines of the project."""
    ingest = Pipeline([node(validation.validate_days, ["days", "params:tolerated_share"], ["trips", "rejected_rows"])])
    featurize = Pipeline(
        [
            node(
                update_wrapper(partial(features.past, view=view), features.past),
                {"trips": "trips", "delay_hours": "params:label_delay_hours"}, f"{view}_features", name=f"{view}_past",
            )
            for view in features.VIEWS
        ]
    )  # fmt: skip
    tables = [f"{view}_features" for view in features.VIEWS]
    train = Pipeline(
        [
            node(features.join, ["trips", *tables], "joined_trips", name="join_trips"),
            node(training.split, ["joined_trips", "parameters"], "training_set"),
            node(training.train, ["training_set", "params:estimator"], "estimator"),
            node(training.evaluate, ["estimator", "training_set"], "metrics"),
            node(
                training.register, ["estimator", "training_set", "metrics", "params:estimator", "params:mlflow.model"],
                "version",
            ),
        ]
    )  # fmt: skip
    score = Pipeline(
        [
            node(features.join, ["requests", *tables], "joined_requests", name="join_requests"),
            node(scoring.score, ["requests", "joined_requests", "version", "params:mlflow.model"], "predictions"),
        ]
    )
    return {"__default__": ingest + featurize + train + score, "ingest": ingest, "featurize": featurize, "train": train}
