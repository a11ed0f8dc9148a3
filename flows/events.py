"""The names of the events: used by those who emit them, checked against the triggers that wait for them."""

from __future__ import annotations

from typing import Final

PARTITION_ACCEPTED: Final = "evergreen.partition.accepted"
PARTITION_QUARANTINED: Final = "evergreen.partition.quarantined"
DATA_DRIFTED: Final = "evergreen.data.drifted"
MODEL_DEGRADED: Final = "evergreen.model.degraded"
MODEL_REGISTERED: Final = "evergreen.model.registered"
MODEL_PROMOTED: Final = "evergreen.model.promoted"


def resource(model: str) -> dict[str, str]:
    """Return the Prefect resource of a model: one per model, so that a proactive trigger watches the model, not a file."""
    return {"prefect.resource.id": f"evergreen.model.{model}", "prefect.resource.name": model}
