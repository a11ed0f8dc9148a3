"""The names of the events and of the triggers: used by those who emit, checked against the triggers that wait for them."""

from __future__ import annotations

from typing import Final, Literal

PARTITION_ACCEPTED: Final = "evergreen.partition.accepted"
PARTITION_QUARANTINED: Final = "evergreen.partition.quarantined"
LANDING_CHANGED: Final = "evergreen.landing.changed"  # files that nobody has taken lie in the landing folder
DATA_READY: Final = "evergreen.data.ready"  # so many accepted partitions wait that a training is due
DATA_DRIFTED: Final = "evergreen.data.drifted"
MODEL_DEGRADED: Final = "evergreen.model.degraded"
MODEL_STALE: Final = "evergreen.model.stale"
MODEL_REGISTERED: Final = "evergreen.model.registered"
MODEL_PROMOTED: Final = "evergreen.model.promoted"
TRIAL_ENDED: Final = "evergreen.trial.ended"  # of a shadow or canary: passed, failed or stopped
FEATURES_SKEWED: Final = "evergreen.features.skewed"  # served otherwise than training would see them
MODEL_WATCHED: Final = "evergreen.model.watched"  # deployed: from now on silence is told of

# What may cause a training.
Kind = Literal["on demand", "schedule", "new data", "performance", "distribution", "staleness"]


def resource(model: str) -> dict[str, str]:
    """Return the Prefect resource of a model: one per model, so that a proactive trigger watches the model, not a file."""
    return {"prefect.resource.id": f"evergreen.model.{model}", "prefect.resource.name": model}
