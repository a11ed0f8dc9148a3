"""Follows the ledger's trials: loads a challenger beside the champion, tells what was counted, ends what broke a bound."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Engine

from deployments.service.cache import BundleCache
from deployments.service.follower import check_fit
from deployments.service.predictor import Predictor, Rows, Snapshot
from deployments.service.trial import Canary, Shadow
from flows import database, trials
from flows.errors import EvergreenError, UnavailableError
from flows.steps.prediction_log import PredictionLog
from flows.steps.trusted import one_line
from flows.trials import Trial

REPORT_SECONDS = 3.0  # between two reports of what was counted
log = logging.getLogger("evergreen.service")


class TrialFollower:
    """Keeps a predictor on the trial that runs; in a thread of its own, so that the champion is followed all the same.

    ``connect`` opens the ledger. ``rehearsal`` are rows that a challenger must be able to answer. With the ledger away a
    trial goes on as it is; one that broke a bound gets no more requests, and is ended when the ledger is back.
    """

    def __init__(
        self,
        predictor: Predictor,
        cache: BundleCache,
        connect: Callable[[], Engine],
        rehearsal: Rows,
        predictions: PredictionLog,
        seconds: float,
    ) -> None:
        self._predictor = predictor
        self._cache = cache
        self._connect = connect
        self._rehearsal = rehearsal
        self._log = predictions
        self._seconds = seconds
        self._engine: Engine | None = None
        self._process = ""  # the name under which the ledger keeps what is counted here
        self._reported: Any = None
        self._next_report = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to follow."""
        self._thread = threading.Thread(target=self._run, name="trials", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following; the thread is not waited for long."""
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=0.5)
        self._put(None)

    def state(self) -> dict[str, Any]:
        """Return what is on trial in this process, empty if nothing is."""
        on_trial = self._predictor.trial
        if on_trial is None:
            return {}
        tally = on_trial.counts.tally()
        return {
            "trial_version": on_trial.trial.version, "trial_requests": tally.requests, "trial_failed": tally.failed,
            "trial_late": tally.late, "trial_dropped": tally.dropped, "trial_stopped": on_trial.counts.why is not None,
        }  # fmt: skip

    def described(self) -> dict[str, Any] | None:
        """Return what is on trial in this process for a person."""
        on_trial = self._predictor.trial
        if on_trial is None:
            return None
        kind, share = on_trial.trial.kind, on_trial.trial.rollout.share
        return {
            "version": on_trial.trial.version, "kind": kind, "share": share if kind == "canary" else 0.0,
            "stopped": on_trial.counts.why, "counts": on_trial.counts.tally().model_dump(),
        }  # fmt: skip

    def look(self) -> None:
        """Look at the ledger once; never raises."""
        on_trial = self._predictor.trial
        if on_trial is not None:
            on_trial.look()
        champion = self._predictor.snapshot
        if champion is None:  # a start is not held up by trials
            return
        try:
            if self._engine is None:
                self._engine = self._connect()
            running = trials.running(self._engine, self._predictor.spec.name)
            if running is not None and running.champion_sequence != champion.promotion.sequence:
                running = None  # another champion serves: its flow will stop it
            self._follow(self._engine, running)
        except Exception as error:  # noqa: BLE001 (the loop goes on, whatever the ledger does)
            if self._engine is not None:
                self._engine.dispose()
            log.warning("trials are not followed: %s", one_line(error))

    def _run(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(self._seconds)

    def _follow(self, engine: Engine, running: Trial | None) -> None:
        on_trial = self._predictor.trial
        if on_trial is not None and (running is None or running.id != on_trial.trial.id):
            self._put(None)
            on_trial = None
        if running is not None and on_trial is None:
            self._begin(engine, running)
        elif on_trial is not None:
            self._report(engine, on_trial)

    def _begin(self, engine: Engine, trial: Trial) -> None:
        """Load and rehearse the challenger; one that cannot be served ends its trial."""
        promotion = trial.as_promotion()
        try:
            bundle = self._cache.fetch(promotion)
            check_fit(self._predictor.spec, bundle)
            challenger = Snapshot(promotion, bundle)
            with contextlib.suppress(UnavailableError):  # the feature store is away: not its fault
                self._predictor.answer(challenger, self._rehearsal)
        except Exception as error:  # noqa: BLE001 (a challenger that breaks in any way is not served)
            told = str(error) if isinstance(error, EvergreenError) else f"{type(error).__name__}: {one_line(error)}"
            trials.end(engine, trial.id, "failed", f"it cannot be served: {told}", {"tallies": trial.tallies})
            return
        on_trial = Canary(trial, challenger) if trial.kind == "canary" else Shadow(trial, challenger, self._log)
        # A container that is started again has the name and the number that it had: its new counts stand beside the old.
        self._process = f"{platform.node()} {os.getpid()} since {database.now():%Y-%m-%d %H:%M:%S.%f}"
        self._put(on_trial)
        log.info("version %d is on trial as %s", trial.version, trial.kind, extra={"version": trial.version})

    def _report(self, engine: Engine, on_trial: Canary | Shadow) -> None:
        """Tell the ledger what was counted, and the end of a trial at once."""
        tally = on_trial.counts.tally()
        why = on_trial.counts.why
        if why is None and (tally == self._reported or time.monotonic() < self._next_report):
            return
        trials.report(engine, on_trial.trial.id, self._process, tally.model_dump())
        self._reported, self._next_report = tally, time.monotonic() + REPORT_SECONDS
        if why is not None:
            evidence = {"tally": tally.model_dump(), "by": f"service {self._process}"}
            trials.end(engine, on_trial.trial.id, "failed", why, evidence)

    def _put(self, on_trial: Canary | Shadow | None) -> None:
        before = self._predictor.trial
        self._predictor.trial = on_trial
        if before is not None:
            before.stop()
