"""What the newest backtest of a home tells of the past, kept for the policies that learn from it."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from flows.settings import Settings
from flows.steps.files import write_text
from flows.steps.policies import Past

FILE = "past.json"
TABLES = ("errors", "seen", "expected")


def write(settings: Settings, model: str, past: Past, at: datetime) -> Path:
    """Write what a backtest found, atomically, in the place of what an older one did."""
    tables = {
        name: [[None if np.isnan(one) else float(one) for one in row] for row in getattr(past, name)] for name in TABLES
    }
    text = {**tables, "rows": past.rows.tolist(), "days": past.days, "at": at.isoformat()}
    return write_text(settings.backtests(model) / FILE, json.dumps(text) + "\n")


def read(settings: Settings, model: str) -> Past | None:
    """Return what the newest backtest found, None if there was none, or its file is not one."""
    try:
        found = json.loads((settings.backtests(model) / FILE).read_text(encoding="utf-8"))
        tables = {name: np.array(found[name], dtype=np.float64) for name in TABLES}
        return Past(rows=np.array(found["rows"], dtype=np.float64), days=found["days"], **tables)
    except (OSError, ValueError, TypeError, KeyError, ValidationError):
        return None
