"""The researcher's training code: any scikit-learn compatible estimator, and what to try when tuning it."""

from typing import Any

from sklearn.base import RegressorMixin
from sklearn.ensemble import HistGradientBoostingRegressor


def build(params: dict[str, Any]) -> RegressorMixin:
    """Return an unfitted estimator; missing feature values reach it as NaN."""
    return HistGradientBoostingRegressor(random_state=0, **params)


def suggest(trial: Any) -> dict[str, Any]:
    """Return parameters for one tuning trial (an ``optuna.Trial``)."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.2, log=True),
        "max_iter": trial.suggest_int("max_iter", 50, 400, step=50),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 5, 100, log=True),
    }
