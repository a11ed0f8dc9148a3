"""The taxi model as a team keeps it that goes by costs alone: a training is worth a thousand minutes of error."""

from flows.models.taxi.spec import spec as taxi
from flows.spec import Costs

spec = taxi.model_copy(
    update={"triggers": taxi.triggers.model_copy(update={"policy": "cost-aware"}), "costs": Costs(training=1000.0)}
)
