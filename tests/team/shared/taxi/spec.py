"""The taxi model with its own estimator, of which each worker notes that it builds one, and waits while it is held."""

from team.replayed.taxi.spec import spec as replayed

spec = replayed.model_copy(update={"estimator": "team.noted:build"})
