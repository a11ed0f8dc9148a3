"""The taxi model with one tree, which notes how often it was built."""

from datetime import timedelta

from flows.models.taxi.spec import spec as taxi
from flows.spec import Training

spec = taxi.model_copy(
    update={
        "estimator": "team.counted:build",
        "params": {},
        "training": Training(judge=timedelta(days=1), min_rows=1000),
    }
)
