"""Watches the landing folder of a model: ``python -m deployments.watch --model taxi``; files that arrived start an ingest."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.engine import Engine

from flows import arrivals, database, events, settings
from flows.arrivals import Arrival
from flows.errors import EvergreenError
from flows.lookup import load_model
from flows.steps.trusted import one_line

LOOK_SECONDS = 1.0
AGAIN_SECONDS = 300.0  # files that are still there so long after it was told of them are told of again

Tell = Callable[[list[Arrival]], bool]


class Watcher:
    """Tells of files that nobody has taken, once each has stopped to change from one look to the next."""

    def __init__(self, engine: Engine, model: str, folder: Path, tell: Tell) -> None:
        self._engine = engine
        self._model = model
        self._folder = folder
        self._tell = tell
        self._before: list[Arrival] = []
        self._asked: list[Arrival] = []
        self._again = 0.0

    def look(self, now: float) -> bool:
        """Look once, at ``now`` monotonic seconds; return whether it was told of new files."""
        before, self._before = set(self._before), arrivals.look(self._folder)
        steady = [one for one in self._before if one in before]  # one that grows for hours keeps no other waiting
        if not steady or (steady == self._asked and now < self._again):
            return False  # nothing has changed: the ledger need not be asked
        untaken = set(arrivals.untaken(self._engine, self._model, self._folder))
        found = [one for one in steady if one in untaken]
        if found and not self._tell(found):
            return False
        self._asked, self._again = steady, now + AGAIN_SECONDS
        return bool(found)


def main() -> int:
    """Watch until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m deployments.watch", description="Watch a model's landing folder.")
    parser.add_argument("--model", default="taxi", help="name of the model")
    model = parser.parse_args().model
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        home = settings.load()
        load_model(model, home)
        folder = home.landing(model)
        folder.mkdir(parents=True, exist_ok=True)
        watcher = Watcher(database.connect(home), model, folder, lambda found: tell(model, found))
        _say(f"watching {folder}")
        follow(watcher, ended)
    except EvergreenError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    return 0


def follow(watcher: Watcher, ended: threading.Event) -> None:
    """Look again and again until the end; a look that fails, at a disk or a ledger that is away, is followed by the next."""
    said = ""
    while not ended.wait(LOOK_SECONDS):
        wrong = ""
        try:
            watcher.look(time.monotonic())
        except Exception as error:  # noqa: BLE001 (the watcher's end would be that of the whole stack)
            wrong = (
                f"it could not be looked for new files ({type(error).__name__}: {one_line(error)}); it is tried again"
            )
        if wrong != said:
            _say(wrong or "it is looked for new files again")
        said = wrong


def tell(model: str, found: list[Arrival]) -> bool:
    """Tell the server of files that nobody has taken; return whether it took the event."""
    from flows import outbox

    taken = outbox.send(events.LANDING_CHANGED, model, {"files": [Path(one.path).name for one in found[:100]]})
    if taken:
        _say(f"{len(found)} new files, the newest {Path(found[-1].path).name}")
    return taken


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
