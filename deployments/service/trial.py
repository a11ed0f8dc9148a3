"""A challenger beside the champion: as canary it answers a share of the requests, as shadow copies of them, for nobody.

Whatever the challenger does, the request is answered: by the champion if need be. A bound that breaks ends it here at once.
"""

from __future__ import annotations

import logging
import queue
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from deployments.service.bodies import RequestError
from deployments.service.request import BadRequestError
from flows.errors import UnavailableError
from flows.steps.prediction_log import Answer, PredictionLog
from flows.steps.rollout import Tally, broken, is_chosen
from flows.steps.trusted import one_line
from flows.trials import Trial

if TYPE_CHECKING:
    from deployments.service.predictor import Snapshot

Work = Callable[["Snapshot"], list[Answer]]  # what answers a request with one version
Rows = Sequence[Mapping[str, Any] | None]
KEPT_TIMES = 256  # of the newest answers, for the medians
CHECK_EVERY = 16  # answers between two looks at the medians
MOST_THREADS = 8  # requests that a canary has under way; one that hangs keeps its thread
COPIES = 64  # requests that wait for the shadow
HANGING_SECONDS = 5.0  # a shadow that is so long at one request hangs, whatever its deadline
# Not the challenger's fault: the champion answers, and says what is wrong.
UNFIT = (UnavailableError, BadRequestError, RequestError)
log = logging.getLogger("evergreen.service")


class Counts:
    """What is counted of a trial in this process, from several threads; ``why`` tells which bound is broken."""

    def __init__(self, trial: Trial) -> None:
        self._rollout = trial.rollout
        self._counts: Counter[str] = Counter()
        self._mine: deque[float] = deque(maxlen=KEPT_TIMES)
        self._champion: deque[float] = deque(maxlen=KEPT_TIMES)
        self._last_error: str | None = None
        self._lock = threading.Lock()
        self.why: str | None = None

    def champion(self, seconds: float) -> None:
        """Count an answer of the champion."""
        self._champion.append(seconds)

    def answered(self, seconds: float) -> None:
        """Count an answer of the challenger."""
        with self._lock:
            self._mine.append(seconds)
            self._counts["requests"] += 1
            due = self._counts["requests"] % CHECK_EVERY == 0
        if due:
            self._check()

    def missed(self, how: str, error: str) -> None:
        """Count a request that ``failed`` or was ``late``."""
        with self._lock:
            self._counts[how] += 1
            self._counts["requests"] += 1
            self._last_error = error
        self._check()

    def passed_over(self, how: str) -> None:
        """Count a request that was ``unfit`` or ``dropped``."""
        with self._lock:
            self._counts[how] += 1

    def stop(self, why: str) -> None:
        """Keep the first reason why the challenger gets no more requests."""
        with self._lock:
            if self.why is None:
                self.why = why
                log.error("the challenger gets no more requests: %s", why)

    def tally(self) -> Tally:
        """Return the counts as data."""
        with self._lock:
            return Tally(
                **self._counts, seconds=_median(self._mine), champion_seconds=_median(self._champion),
                last_error=self._last_error,
            )  # fmt: skip

    def _check(self) -> None:
        why = broken(self._rollout, self.tally())
        if why:
            self.stop(why)


class Canary:
    """Answers the requests whose key was chosen; each in a thread of its own, which is waited for until the deadline."""

    is_quick = False  # a request may wait for the deadline: not on the event loop

    def __init__(self, trial: Trial, challenger: Snapshot) -> None:
        self.trial = trial
        self.counts = Counts(trial)
        self._challenger = challenger
        self._deadline = trial.rollout.deadline_ms / 1000
        self._under_way = 0
        self._lock = threading.Lock()

    def answer(self, champion: Snapshot, key: Callable[[], bytes], work: Work) -> tuple[Snapshot, list[Answer]]:
        """Return who answers a request, and the answers. Raises what the champion raises."""
        if self.counts.why is None and is_chosen(self.trial.rollout.share, self.trial.version, key()):
            found = self._try(work)
            if found is not None:
                return self._challenger, found
            return champion, work(champion)
        return champion, _timed(self.counts, work, champion)

    def copy(self, request_id: str, at: datetime, rows: Rows, work: Work) -> None:
        """Do nothing: a canary's answers are given."""

    def look(self) -> None:
        """Do nothing: each request looks."""

    def stop(self) -> None:
        """Do nothing: no thread waits for requests."""

    def _try(self, work: Work) -> list[Answer] | None:
        """Return the challenger's answers, None if the champion has to answer."""
        with self._lock:
            if self._under_way >= MOST_THREADS:
                self.counts.missed("late", f"{self._under_way} requests are under way")
                return None
            self._under_way += 1
        done: queue.SimpleQueue[list[Answer] | Exception] = queue.SimpleQueue()

        def run() -> None:
            try:
                done.put(work(self._challenger))
            except Exception as error:  # noqa: BLE001 (whatever it is, the champion answers)
                done.put(error)
            finally:
                with self._lock:
                    self._under_way -= 1

        started = time.perf_counter()
        threading.Thread(target=run, name="canary", daemon=True).start()
        try:
            found = done.get(timeout=self._deadline)
        except queue.Empty:
            self.counts.missed("late", f"no answer within {1000 * self._deadline:.0f} ms")
            return None
        return _counted(self.counts, found, time.perf_counter() - started)


class Shadow:
    """Answers copies of the requests in a thread of its own; what it cannot take is dropped and counted."""

    is_quick = True

    def __init__(self, trial: Trial, challenger: Snapshot, predictions: PredictionLog) -> None:
        self.trial = trial
        self.counts = Counts(trial)
        self._challenger = challenger
        self._log = predictions
        self._hangs = max(HANGING_SECONDS, 10 * trial.rollout.deadline_ms / 1000)
        self._late = trial.rollout.deadline_ms / 1000
        self._copies: queue.Queue[tuple[str, datetime, Rows, Work] | None] = queue.Queue(COPIES)
        self._since: float | None = None
        threading.Thread(target=self._run, name="shadow", daemon=True).start()

    def answer(self, champion: Snapshot, key: Callable[[], bytes], work: Work) -> tuple[Snapshot, list[Answer]]:
        """Return the champion and its answers. Raises what the champion raises."""
        return champion, _timed(self.counts, work, champion)

    def copy(self, request_id: str, at: datetime, rows: Rows, work: Work) -> None:
        """Leave a request that was answered to the shadow, or drop it; never waits."""
        if self.counts.why is None:
            try:
                self._copies.put_nowait((request_id, at, rows, work))
            except queue.Full:
                self.counts.passed_over("dropped")

    def look(self) -> None:
        """See whether the shadow hangs."""
        since = self._since
        if since is not None and time.monotonic() - since > self._hangs and self.counts.why is None:
            self.counts.missed("late", f"one request for more than {self._hangs:.0f} s")
            self.counts.stop(f"it hangs: one request for more than {self._hangs:.0f} s")

    def stop(self) -> None:
        """End the thread after the request that it is at; what waits is forgotten."""
        self.counts.stop("the trial is over")
        try:
            while True:
                self._copies.get_nowait()
        except queue.Empty:
            self._copies.put_nowait(None)

    def _run(self) -> None:
        while (copy := self._copies.get()) is not None:
            request_id, at, rows, work = copy
            self._since = time.monotonic()
            started = time.perf_counter()
            found: list[Answer] | Exception
            try:
                found = work(self._challenger)
            except Exception as error:  # noqa: BLE001 (it is counted)
                found = error
            seconds = time.perf_counter() - started
            self._since = None
            if self.counts.why is not None:
                continue
            answers: list[Answer] | None
            if isinstance(found, list) and seconds > self._late:
                self.counts.missed("late", f"one request took {1000 * seconds:.0f} ms")
                answers = found
            else:
                answers = _counted(self.counts, found, seconds)
            if answers is not None:
                try:
                    self._log.append(request_id, at, self.trial.version, rows, answers, role="shadow")
                except UnavailableError:
                    self.counts.passed_over("dropped")


def _timed(counts: Counts, work: Work, champion: Snapshot) -> list[Answer]:
    started = time.perf_counter()
    answers = work(champion)
    counts.champion(time.perf_counter() - started)
    return answers


def _counted(counts: Counts, found: list[Answer] | Exception, seconds: float) -> list[Answer] | None:
    """Count what came of a request and return its answers, None if there are none to be used."""
    if isinstance(found, UNFIT):
        counts.passed_over("unfit")
        return None
    if isinstance(found, Exception):
        counts.missed("failed", f"{type(found).__name__}: {one_line(found)}")
        return None
    counts.answered(seconds)
    return found


def _median(times: deque[float]) -> float | None:
    kept = list(times)
    return statistics.median(kept) if kept else None
