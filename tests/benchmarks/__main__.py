"""Runs one benchmark and leaves its figures as JSON: ``python -m tests.benchmarks MODULE FILE``; for `evergreen bench`."""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from pathlib import Path


def main() -> None:
    """Run ``figures`` of the module and write what it returns."""
    module, file = sys.argv[1:]
    warnings.simplefilter("ignore")
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    os.environ["PYTHONWARNINGS"] = "ignore"
    figures = importlib.import_module(f"tests.benchmarks.{module}").figures()
    Path(file).write_text(json.dumps([one.model_dump() for one in figures]), encoding="utf-8")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
