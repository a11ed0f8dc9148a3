"""An estimator as a careless change would leave it; the demo and the tests show that the gates refuse it."""

from typing import Any

from sklearn.base import RegressorMixin
from sklearn.ensemble import HistGradientBoostingRegressor


def build(params: dict[str, Any]) -> RegressorMixin:
    """Return an estimator that gives up after two rounds: somebody wanted the training to be faster."""
    return HistGradientBoostingRegressor(random_state=0, **{**params, "max_iter": 2})
