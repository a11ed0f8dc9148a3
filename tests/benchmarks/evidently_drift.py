"""evidently's drift of two parquet files by Jensen and Shannon's distance: ``THEN NOW ROUNDS REPORT``; for ``drift.py``.

Runs in an environment of its own, which has evidently and pyarrow and nothing of ours.
"""

import json
import sys
import time
from pathlib import Path

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset


def main() -> None:
    """Measure the report and leave its seconds and the number of columns that it compared."""
    then, now = (pd.read_parquet(path) for path in sys.argv[1:3])
    texts = [name for name in then if then[name].dtype == object]
    numbers = [name for name in then if name not in texts]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=texts)
    sides = [Dataset.from_pandas(side, data_definition=definition) for side in (now, then)]
    seconds = []
    for _ in range(int(sys.argv[3])):
        began = time.perf_counter()
        report = Report([DataDriftPreset(num_method="jensenshannon", cat_method="jensenshannon")])
        metrics = report.run(*sides).dict()["metrics"]
        seconds.append(time.perf_counter() - began)
    compared = sum("ValueDrift" in str(one) for one in metrics)
    Path(sys.argv[4]).write_text(json.dumps({"seconds": seconds, "columns": compared}))


if __name__ == "__main__":
    main()
