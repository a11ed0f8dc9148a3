"""Drift detectors of the library river, as functions of a whole series of losses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def first_alarm(name: str, losses: NDArray[np.float64], limit: float) -> int | None:
    """Return the place in ``losses`` (n,) at which a detector raises its first alarm of a rise, None if it never does.

    ``adwin`` (Bifet and Gavalda, SDM 2007) and ``page-hinkley`` take the losses, ``ddm`` (Gama et al., SBIA 2004) whether
    each is above ``limit``. ADWIN finds falls too; those are passed over. All have river's parameters.
    """
    from river import drift

    if name == "ddm":
        misses: Any = drift.binary.DDM()
        for place, bad in enumerate((np.asarray(losses) > limit).tolist()):
            misses.update(bad)
            if misses.drift_detected:
                return place
        return None
    kinds: Any = drift
    watch = kinds.ADWIN() if name == "adwin" else kinds.PageHinkley(mode="up")
    for place, value in enumerate(np.asarray(losses, dtype=np.float64).tolist()):
        before = watch.estimation if name == "adwin" else 0.0
        watch.update(value)
        if watch.drift_detected and (name != "adwin" or watch.estimation > before):
            return place
    return None
