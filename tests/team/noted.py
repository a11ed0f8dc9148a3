"""An estimator that notes which process builds it on what, and is built only when a file is gone."""

import os
import time
from pathlib import Path
from typing import Any

from sklearn.tree import DecisionTreeRegressor

PLACE = "TEST_NOTES"  # the variable that names the folder of notes


def builders(notes: Path) -> list[int]:
    """Return the processes that began to build an estimator, one for each time."""
    return [int(line) for line in (notes / "built").read_text().split()] if (notes / "built").exists() else []


def build(params: dict[str, Any]) -> DecisionTreeRegressor:
    notes = Path(os.environ[PLACE])
    with (notes / "built").open("a") as noted:
        noted.write(f"{os.getpid()}\n")
    while (notes / "hold").exists():
        time.sleep(0.1)
    return DecisionTreeRegressor(max_depth=7, min_samples_leaf=20, random_state=0)
