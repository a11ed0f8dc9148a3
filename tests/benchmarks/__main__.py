"""Runs one benchmark and leaves what it found as JSON: ``python -m tests.benchmarks MODULE FILE``; for `evergreen bench`."""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from pathlib import Path


def main() -> None:
    """Run ``figures`` of the module, and ``differences`` where it has them, and write what they return."""
    module, file = sys.argv[1:]
    warnings.simplefilter("ignore")
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    os.environ["PYTHONWARNINGS"] = "ignore"
    measures = importlib.import_module(f"tests.benchmarks.{module}")
    found = {"figures": measures.figures(), "differences": getattr(measures, "differences", tuple)()}
    text = json.dumps({name: [one.model_dump() for one in made] for name, made in found.items()})
    Path(file).write_text(text, encoding="utf-8")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
