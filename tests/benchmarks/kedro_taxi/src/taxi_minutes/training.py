"""Split by time, fit, evaluate, register; the alias moves if the new version is not worse on the newest days."""

from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from taxi_minutes.features import FEATURES

CHAMPION = "champion"
TRUSTED = [
    "sklearn._loss.link.IdentityLink",
    "sklearn._loss.link.Interval",
    "sklearn._loss.loss.HalfSquaredError",
    "sklearn._loss._loss.CyHalfSquaredError",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
]


def split(joined: pd.DataFrame, parameters: dict[str, Any]) -> pd.DataFrame:
    """Return the rows of the newest window with their part; a training row's label was known at the split."""
    pickup, low, high = joined["lpep_pickup_datetime"], parameters["label"]["low"], parameters["label"]["high"]
    at = pickup.max().floor("D") + pd.Timedelta(days=1 - parameters["judge_days"])
    known = joined["lpep_dropoff_datetime"] + pd.Timedelta(hours=parameters["label_delay_hours"]) <= at
    inside = pickup >= at - pd.Timedelta(days=parameters["window_days"])
    rows = joined.assign(part=np.where(pickup >= at, "judge", "train"))
    return rows[inside & joined["minutes"].between(low, high) & (known | (pickup >= at))]


def train(training_set: pd.DataFrame, params: dict[str, Any]) -> HistGradientBoostingRegressor:
    """Fit on the training part."""
    rows = training_set[training_set["part"] == "train"]
    return HistGradientBoostingRegressor(random_state=0, **params).fit(rows[FEATURES], rows["minutes"])


def evaluate(estimator: HistGradientBoostingRegressor, training_set: pd.DataFrame) -> dict[str, float]:
    """Return the errors on both parts, and that of the mean."""
    found: dict[str, float] = {}
    for part, rows in training_set.groupby("part"):
        predicted = estimator.predict(rows[FEATURES])
        for measure in (root_mean_squared_error, mean_absolute_error, r2_score):
            found[f"{part}_{measure.__name__}"] = float(measure(rows["minutes"], predicted))
    train, judge = (training_set[training_set["part"] == part] for part in ("train", "judge"))
    baseline = DummyRegressor().fit(train[FEATURES], train["minutes"]).predict(judge[FEATURES])
    return found | {"baseline_rmse": float(root_mean_squared_error(judge["minutes"], baseline))}


def register(
    estimator: HistGradientBoostingRegressor,
    training_set: pd.DataFrame,
    metrics: dict[str, float],
    params: dict[str, Any],
    name: str,
) -> int:
    """Log and register the model; make it the champion if it is not worse than that on the newest days."""
    judge = training_set[training_set["part"] == "judge"]
    try:
        champion = mlflow.sklearn.load_model(f"models:/{name}@{CHAMPION}")
        to_beat = root_mean_squared_error(judge["minutes"], champion.predict(judge[FEATURES]))
    except MlflowException:  # there is none yet
        to_beat = metrics["baseline_rmse"]
    with mlflow.start_run():
        mlflow.log_params(params)
        mlflow.log_metrics(metrics | {"to_beat": to_beat})
        inputs = judge[FEATURES].head(5)
        logged = mlflow.sklearn.log_model(
            estimator, name="model", registered_model_name=name, input_example=inputs,
            signature=infer_signature(inputs, estimator.predict(inputs)), skops_trusted_types=TRUSTED,
            pip_requirements=["scikit-learn", "skops", "pandas"],
        )  # fmt: skip
    version = int(logged.registered_model_version)
    if metrics["judge_root_mean_squared_error"] <= to_beat:
        mlflow.MlflowClient().set_registered_model_alias(name, CHAMPION, str(version))
    return version
