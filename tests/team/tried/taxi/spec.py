"""The quick taxi model, whose challengers have all the time that a busy machine needs."""

from team.quick.taxi.spec import spec as quick

from flows.spec import Rollout

rollout = Rollout(deadline_ms=60_000, latency_ms=60_000, tolerance=0.1)
spec = quick.model_copy(update={"rollout": rollout})
