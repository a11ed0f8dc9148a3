"""What a worker does beside answering: closes journals whose hour is over, has them folded, tells its counts."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps.prediction_hours import foldable
from flows.steps.prediction_log import PredictionLog

BEAT_SECONDS = 1.0
FOLD_SECONDS = 30.0  # between two looks for journals to be folded
FOLD_PATIENCE = 600.0
LAST_FOLD_SECONDS = 6.0  # at the end, before whoever stops the service loses patience
log = logging.getLogger("evergreen.service")


class Housekeeping:
    """A thread of its own, and one more for as long as journals are folded. ``tell`` is called each second."""

    def __init__(
        self, settings: Settings, spec: ModelSpec, predictions: PredictionLog, tell: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._spec = spec
        self._predictions = predictions
        self._tell = tell
        self._stop = threading.Event()
        self._next_fold = time.monotonic() + BEAT_SECONDS
        self._thread: threading.Thread | None = None
        self._folding: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; what is being folded is left to its process."""
        self._stop.set()
        for thread in (self._thread, self._folding):
            if thread:
                thread.join(timeout=0.5)

    def _run(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                self._tell()
                self._predictions.roll(datetime.now(UTC))
                folds = self._folding is not None and self._folding.is_alive()
                if time.monotonic() >= self._next_fold and not folds:
                    self._next_fold = time.monotonic() + FOLD_SECONDS
                    # At the lowest priority it may take minutes, in which the others are to hear of this worker.
                    self._folding = threading.Thread(target=self._try_to_fold, name="folding", daemon=True)
                    self._folding.start()
            except Exception:
                log.exception("housekeeping failed; it goes on")

    def _try_to_fold(self) -> None:
        try:
            self.fold()
        except Exception:
            log.exception("the prediction log was not folded; it is tried again")

    def fold(self, patience: float = FOLD_PATIENCE) -> None:
        """Fold in a process of its own, at the lowest priority: it needs memory and time that are the requests'.

        What is not folded within ``patience`` seconds stays a journal, for the next time.
        """
        if not foldable(self._settings, self._spec.name):
            return
        command = [sys.executable, "-m", "deployments.service.housekeeping", str(self._settings.home), self._spec.name]
        try:
            done = subprocess.run(
                command, env=os.environ | self._settings.environment(), stdin=subprocess.DEVNULL, capture_output=True,
                text=True, check=False, timeout=patience,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            log.error("the prediction log was not folded within %.0f s; it is tried again", patience)
            return
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            log.error("the prediction log was not folded: %s", last[0][:300])


def main(home: str, model: str) -> None:
    """Fold the closed journals of a home."""
    from flows.lookup import load_model
    from flows.settings import load
    from flows.steps.prediction_hours import fold

    os.nice(19)
    if sys.platform == "linux":  # where low priority still takes turns of some milliseconds: only what is idle
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    settings = load(home)
    fold(settings, load_model(model, settings))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
