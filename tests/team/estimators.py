"""Estimator factories of a team: one that works, and the ways in which one can be wrong."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.tree import DecisionTreeRegressor


def suggest(trial: Any) -> dict[str, Any]:
    """Return what ``tree`` takes; the depth is twice the number that is asked for."""
    return {"depth": 2 * trial.suggest_int("half", 2, 4), "splitter": trial.suggest_categorical("splitter", ["best"])}


def tree(params: dict[str, Any]) -> DecisionTreeRegressor:
    return DecisionTreeRegressor(max_depth=params["depth"], splitter=params["splitter"], random_state=0)


def raising(params: dict[str, Any]) -> Any:
    raise ValueError("the learning rate\nis missing")


def nothing(params: dict[str, Any]) -> Any:
    return None


class Unfit(RegressorMixin, BaseEstimator):
    """It fails when it is fitted."""

    def fit(self, inputs: Any, labels: Any) -> "Unfit":
        raise RuntimeError("no column named fare")

    def predict(self, inputs: Any) -> Any:
        raise NotImplementedError


def unfit(params: dict[str, Any]) -> Unfit:
    return Unfit()


class Homemade(RegressorMixin, BaseEstimator):
    """Minutes by the mile: a good class that nobody has said to trust."""

    def fit(self, inputs: Any, labels: Any) -> "Homemade":
        self.coefficients_ = np.polyfit(inputs["distance_miles"], labels, 2)
        return self

    def predict(self, inputs: Any) -> Any:
        return np.polyval(self.coefficients_, inputs["distance_miles"])


def homemade(params: dict[str, Any]) -> Homemade:
    return Homemade()
