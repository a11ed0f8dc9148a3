"""An estimator whose every building is noted in the home; it fails while a file of the home says from which one on."""

import os
from pathlib import Path
from threading import Lock
from typing import Any

from sklearn.tree import DecisionTreeRegressor

ONE = Lock()


def built(home: Path) -> int:
    """Return how often an estimator was built."""
    noted = home / "built"
    return len(noted.read_text()) if noted.exists() else 0


def build(params: dict[str, Any]) -> DecisionTreeRegressor:
    home = Path(os.environ["EVERGREEN_HOME"])
    limit = home / "fails-after"
    with ONE:  # windows are trained in threads
        if limit.exists() and built(home) >= int(limit.read_text()):
            raise RuntimeError("no more today")
        with (home / "built").open("a") as noted:
            noted.write("x")
    return DecisionTreeRegressor(max_depth=7, min_samples_leaf=20, random_state=0)
