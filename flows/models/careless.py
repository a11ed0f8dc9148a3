"""Estimators that say the same whatever they are asked; the demo of any model shows that its gates refuse them."""

from typing import Any

from sklearn.dummy import DummyClassifier, DummyRegressor


def number(params: dict[str, Any]) -> DummyRegressor:  # noqa: ARG001 (what every factory is called with)
    """Return an estimator that answers with the mean."""
    return DummyRegressor()


def classes(params: dict[str, Any]) -> DummyClassifier:  # noqa: ARG001 (the same)
    """Return an estimator that answers with the classes' shares."""
    return DummyClassifier(strategy="prior")
