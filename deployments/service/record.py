"""Where a running service is found: ``service-<model>.json`` in the home, there from listening to exit."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from flows.settings import Settings
from flows.steps.files import write_text


def record_path(settings: Settings, model: str) -> Path:
    """Return the path of a model's service record."""
    return settings.home / f"service-{model}.json"


def write_record(settings: Settings, model: str, host: str, port: int) -> None:
    """Say that this process serves a model at an address."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (an address to be read, not bound)
    address = f"[{shown}]" if ":" in shown else shown
    content = {
        "pid": os.getpid(),
        "port": port,
        "url": f"http://{address}:{port}",
        "started_at": datetime.now(UTC).isoformat(),
    }
    write_text(record_path(settings, model), json.dumps(content) + "\n")


def remove_record(settings: Settings, model: str) -> None:
    """Take the record away if it is this process's: another service may have begun since."""
    path = record_path(settings, model)
    try:
        if json.loads(path.read_bytes()).get("pid") == os.getpid():
            path.unlink()
    except (OSError, ValueError):
        return
