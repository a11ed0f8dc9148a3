"""The taxi model for the soak: a few hundred trips a day, a training for every twelve partitions, gates for small data."""

from team.quick.taxi.spec import spec as quick

spec = quick.model_copy(
    update={
        "training": quick.training.model_copy(update={"judge": quick.training.judge * 2}),
        "gates": quick.gates.model_copy(
            update={"slice_tolerance": 1.0, "champion_tolerance": 0.2, "latency_ms": 500.0}
        ),
        "triggers": quick.triggers.model_copy(update={"new_partitions": 12}),
    }
)
