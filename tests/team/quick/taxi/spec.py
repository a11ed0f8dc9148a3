"""The taxi model as a team keeps it in a package of its own, with few and quick trees."""

from flows.models.taxi.spec import spec as taxi

spec = taxi.model_copy(
    update={
        "params": {"learning_rate": 0.15, "max_iter": 40, "min_samples_leaf": 40},
        "search_space": "team.estimators:suggest",
    }
)
