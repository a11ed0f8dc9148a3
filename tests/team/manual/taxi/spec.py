"""The quick taxi model with other parameters, whose versions a person promotes."""

from team.quick.taxi.spec import spec as quick

spec = quick.model_copy(update={"params": {**quick.params, "max_iter": 45}, "promotion": "manual"})
