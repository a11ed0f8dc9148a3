"""An estimator that notes which process builds it on what, and is built only when a file is gone.

Its bits depend on how many threads sum, so that it tells whether all who fit it have as many.
"""

import os
import time
from pathlib import Path
from typing import Any

from sklearn.ensemble import HistGradientBoostingRegressor

PLACE = "TEST_NOTES"  # the variable that names the folder of notes


def builders(notes: Path) -> list[int]:
    """Return the processes that began to build an estimator, one for each time."""
    return [int(line) for line in (notes / "built").read_text().split()] if (notes / "built").exists() else []


def build(params: dict[str, Any]) -> HistGradientBoostingRegressor:
    notes = Path(os.environ[PLACE])
    with (notes / "built").open("a") as noted:
        noted.write(f"{os.getpid()}\n")
    while (notes / "hold").exists():
        time.sleep(0.1)
    return HistGradientBoostingRegressor(learning_rate=0.08, max_iter=200, min_samples_leaf=40, random_state=0)
