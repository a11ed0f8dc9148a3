"""The service's log: one line of JSON an entry, with the id of the request that it belongs to."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

import orjson

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
OWN = ("route", "status", "seconds", "version", "worker")  # what our own entries carry beside their text


class JsonFormatter(logging.Formatter):
    """Formats an entry as one line of JSON; texts of others cannot begin a line of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := REQUEST_ID.get():
            entry["request_id"] = request_id
        entry.update({name: getattr(record, name) for name in OWN if hasattr(record, name)})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(entry, default=str).decode()


def log_json(stream: TextIO | None = None) -> None:
    """Let this process log JSON to ``stream``, stderr by default: our own from INFO on, of others WARNING on."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("evergreen").setLevel(logging.INFO)
