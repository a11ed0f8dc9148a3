"""What the workers of one service tell each other: the counts of each, in files of the home."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from flows.settings import Settings

GONE_SECONDS = 10.0  # a worker that has written nothing for so long is not counted


class Board:
    """One file a worker, written each second; a scrape that reaches one worker tells of all."""

    def __init__(self, settings: Settings, model: str, worker: str) -> None:
        self._folder = board_folder(settings, model)
        self._worker = worker

    def write(self, state: Mapping[str, Any]) -> None:
        """Write this worker's state, whole or not at all; not synced, for it is worth nothing after a crash."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".{self._worker}.tmp"
        temporary.write_bytes(orjson.dumps(state))
        temporary.replace(self._folder / f"{self._worker}.json")

    def others(self) -> dict[str, dict[str, Any]]:
        """Return the states of the other workers that live, by their names."""
        found = {}
        for path in sorted(self._folder.glob("*.json")):
            try:
                if path.stem != self._worker and time.time() - path.stat().st_mtime < GONE_SECONDS:
                    found[path.stem] = json.loads(path.read_bytes())
            except (OSError, ValueError):
                continue  # it is being replaced, or taken away
        return found


def board_folder(settings: Settings, model: str) -> Path:
    """Return the folder of a model's board."""
    return settings.home / f"service-{model}"


def clear_board(settings: Settings, model: str) -> None:
    """Take away what workers of before have left."""
    shutil.rmtree(board_folder(settings, model), ignore_errors=True)
