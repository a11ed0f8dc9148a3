"""An estimator that is built only when a file is gone, so that a test can hold a training in its middle."""

import os
import time
from pathlib import Path
from typing import Any

from sklearn.tree import DecisionTreeRegressor


def build(params: dict[str, Any]) -> DecisionTreeRegressor:
    hold = Path(os.environ["EVERGREEN_HOME"]) / "hold"
    while hold.exists():
        time.sleep(0.1)
    return DecisionTreeRegressor(max_depth=7, random_state=0)
