"""A challenger that behaves until a trip is longer than 30 miles."""

import time
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

FAR = 30.0


class Moody(RegressorMixin, BaseEstimator):
    """Minutes by the mile; on a far trip it raises, answers NaN, answers too little, or sleeps, as its mood is."""

    def __init__(self, mood: str = "raises", seconds: float = 0.0) -> None:
        self.mood = mood
        self.seconds = seconds

    def fit(self, inputs: Any, labels: Any) -> "Moody":
        self.coefficients_ = np.polyfit(inputs["distance_miles"], labels, 1)
        return self

    def predict(self, inputs: Any) -> Any:
        answers = np.polyval(self.coefficients_, inputs["distance_miles"])
        if (inputs["distance_miles"] > FAR).any():
            if self.mood == "raises":
                raise RuntimeError("no road is so long")
            if self.mood == "not a number":
                return np.full(len(answers), np.nan)
            if self.mood == "too few":
                return answers[1:]
            time.sleep(self.seconds)
        return answers
