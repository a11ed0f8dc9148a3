"""Predict a file of requests with the champion."""

import mlflow
import pandas as pd

from taxi_minutes.features import FEATURES
from taxi_minutes.training import CHAMPION


def score(requests: pd.DataFrame, joined: pd.DataFrame, _version: int, name: str) -> pd.DataFrame:
    """Return the requests with their prediction and the version that made it; runs after the registration."""
    version = mlflow.MlflowClient().get_model_version_by_alias(name, CHAMPION).version
    model = mlflow.sklearn.load_model(f"models:/{name}/{version}")
    return requests.assign(prediction=model.predict(joined[FEATURES]), version=int(version))
