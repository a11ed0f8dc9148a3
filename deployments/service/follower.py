"""The follower: looks at the ledger, loads a new champion beside the one that serves, and swaps them."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.engine import Engine

from deployments.service.cache import BundleCache
from deployments.service.predictor import Predictor, Rows, Snapshot
from flows import ledger
from flows.errors import ContractError, EvergreenError, UnavailableError
from flows.ledger import Promotion
from flows.spec import Frozen, ModelSpec
from flows.steps.bundle import Bundle
from flows.steps.trusted import one_line

IN_MEMORY = 3  # bundles kept open, so that a rollback is instant
RETRY_SECONDS = 5.0  # until a refused promotion is looked at again: its files may have been mended
FEATURES_SECONDS = 10.0  # between two looks at how old the features are
STALE_SECONDS = 15.0  # a look that takes longer does not count as following
log = logging.getLogger("evergreen.service")


class Following(Frozen):
    """What the last look at the ledger came to: ``error`` is None if the champion in force is the one that serves."""

    looked_at: datetime | None = None
    ledger_answers: bool = False
    error: str | None = None

    def is_up_to_date(self, now: datetime) -> bool:
        """Say whether the ledger answered lately and its champion serves."""
        return self.is_fresh(now) and self.ledger_answers and self.error is None

    def is_fresh(self, now: datetime) -> bool:
        """Say whether the last look came to its end lately."""
        return self.looked_at is not None and (now - self.looked_at).total_seconds() < STALE_SECONDS


@dataclass(frozen=True)
class Trouble:
    """Why a promotion is not served as it should be, and when (monotonic seconds) to try again."""

    promotion: Promotion
    text: str
    again: float


class Follower:
    """Keeps a predictor on the champion of the ledger.

    ``connect`` opens the ledger; it is called until it succeeds. ``rehearsal`` are rows that a new champion must be
    able to answer before it is put in place.
    """

    def __init__(
        self, predictor: Predictor, cache: BundleCache, connect: Callable[[], Engine], rehearsal: Rows, seconds: float
    ) -> None:
        self._predictor = predictor
        self._cache = cache
        self._connect = connect
        self._rehearsal = rehearsal
        self._seconds = seconds
        self._engine: Engine | None = None
        self._open: OrderedDict[str, Bundle] = OrderedDict()
        self._trouble: Trouble | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.following = Following()
        self._asks = False  # whether the ledger is being asked at this moment
        self.swaps = 0  # champions put in place
        self._begun = threading.Event()  # a first champion serves, or the ledger says that there is none
        self._newest: datetime | None = None  # event that the features know of
        self._look_for_newest = 0.0

    def start(self) -> None:
        """Begin to follow, in a thread of its own, unless it has begun."""
        if self._thread:
            return
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait for the first champion to serve: not if the ledger has none, and no longer than ``seconds``."""
        self._begun.wait(seconds)

    def stop(self) -> None:
        """Stop following; the thread ends after the look that it is at, and is not waited for long."""
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=0.5)

    def look(self) -> None:
        """Look at the ledger once and follow it; never raises, ``following`` tells how it went."""
        answers = False
        error: str | None = None
        promotion: Promotion | None = None
        try:
            promotion = self._champion()
            answers = True
            error = self._follow(promotion)
        except Exception as problem:  # noqa: BLE001 (the loop goes on, whatever a store or a file does)
            error = _told(problem)
        if error and self._predictor.snapshot is None:
            with contextlib.suppress(EvergreenError):
                self._serve_last_good()
        if error != self.following.error:
            log.log(logging.WARNING if error else logging.INFO, error or "the ledger is followed")
        self.following = Following(looked_at=datetime.now(UTC), ledger_answers=answers, error=error)
        if self._predictor.snapshot or (answers and promotion is None):
            self._begun.set()

    def seen(self, now: datetime) -> Following:
        """Return what the last look came to, or that the ledger does not answer a question that was put long ago.

        A server that hangs, or is cut off by the network, refuses nothing: the question stands for minutes.
        """
        last = self.following
        if not self._asks or last.looked_at is None or last.is_fresh(now):
            return last
        error = f"the ledger has not answered since {last.looked_at:%Y-%m-%d %H:%M:%S} UTC"
        return last.model_copy(update={"ledger_answers": False, "error": error})

    def state(self, now: datetime) -> dict[str, Any]:
        """Return what serves and how the ledger is followed, as plain data for metrics."""
        snapshot, following = self._predictor.snapshot, self.seen(now)
        promotion = snapshot.promotion if snapshot else None
        return {
            "swaps": self.swaps,
            "ready": snapshot is not None,
            "following": following.is_up_to_date(now),
            "ledger_up": following.ledger_answers,
            "model_version": promotion.version if promotion else None,
            "model_since_seconds": promotion.at.timestamp() if promotion else None,
            "digest": promotion.digest if promotion else "",
            "kind": promotion.kind if promotion else "",
            "feature_age_seconds": (now - self._newest).total_seconds() if self._newest else None,
        }

    def _run(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(self._seconds)

    def _champion(self) -> Promotion | None:
        self._asks = True
        try:
            if self._engine is None:
                self._engine = self._connect()
            self._look_at_features(self._engine)
            return ledger.champion(self._engine, self._predictor.spec.name)
        except Exception as error:
            if self._engine is not None:
                self._engine.dispose()
            raise UnavailableError(f"the ledger does not answer ({_told(error)})") from error
        finally:
            self._asks = False

    def _look_at_features(self, engine: Engine) -> None:
        if time.monotonic() >= self._look_for_newest:
            self._newest = ledger.newest_featurized(engine, self._predictor.spec.name)
            self._look_for_newest = time.monotonic() + FEATURES_SECONDS

    def _follow(self, promotion: Promotion | None) -> str | None:
        """Serve a promotion unless it is served already; return what is wrong, None if nothing is."""
        serving = self._predictor.snapshot
        if promotion is None:
            rest = f"version {serving.promotion.version} serves on" if serving else "run `evergreen train`"
            return f"no version of {self._predictor.spec.name} is promoted in the ledger; {rest}"
        trouble = self._trouble if self._trouble and _same(self._trouble.promotion, promotion) else None
        if trouble and time.monotonic() < trouble.again:
            return trouble.text
        if serving and _same(serving.promotion, promotion) and not trouble:
            return None
        text = self._take(promotion)
        self._trouble = Trouble(promotion, text, time.monotonic() + RETRY_SECONDS) if text else None
        return text

    def _take(self, promotion: Promotion) -> str | None:
        """Open, check and rehearse a promotion's bundle and put it in place; return what is wrong, if anything."""
        try:
            snapshot = Snapshot(promotion, self._bundle(promotion))
            unread = self._rehearse(snapshot)
        except Exception as error:  # noqa: BLE001 (a model that breaks in any way is refused, the one before serves on)
            serving = self._predictor.snapshot
            rest = f"version {serving.promotion.version} serves on" if serving else "none serves"
            return f"version {promotion.version} is refused, {rest}: {_told(error)}"
        self._put(snapshot)
        self._cache.remember(promotion)
        return unread

    def _put(self, snapshot: Snapshot) -> None:
        self._predictor.swap(snapshot)
        self.swaps += 1
        log.info("version %d serves", snapshot.promotion.version, extra={"version": snapshot.promotion.version})

    def _bundle(self, promotion: Promotion) -> Bundle:
        bundle = self._open.get(promotion.digest) or self._cache.fetch(promotion)
        check_fit(self._predictor.spec, bundle)
        self._open[promotion.digest] = bundle
        self._open.move_to_end(promotion.digest)
        while len(self._open) > IN_MEMORY:
            self._open.popitem(last=False)
        return bundle

    def _rehearse(self, snapshot: Snapshot) -> str | None:
        """Let a new champion answer the spec's example; that the feature store is away is not its fault."""
        try:
            self._predictor.answer(snapshot, self._rehearsal)
        except UnavailableError as error:
            return f"version {snapshot.promotion.version} is loaded, but {error}"
        return None

    def _serve_last_good(self) -> None:
        found = self._cache.last()
        if found:
            promotion, bundle = found
            check_fit(self._predictor.spec, bundle)
            self._put(Snapshot(promotion, bundle))


def check_fit(spec: ModelSpec, bundle: Bundle) -> None:
    """Raise ContractError unless a bundle takes the requests that the service takes."""
    theirs = {field.name: field.type for field in bundle.manifest.request}
    ours = {field.name: field.type for field in spec.request}
    if bundle.manifest.model != spec.name or theirs != ours:
        raise ContractError(
            f"it was made for {bundle.manifest.model} with the request fields {', '.join(theirs)}, the service takes "
            f"{', '.join(ours)} for {spec.name}; start the service with the code that the model was trained with"
        )


def _same(one: Promotion, other: Promotion) -> bool:
    return (one.sequence, one.version, one.digest) == (other.sequence, other.version, other.digest)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, EvergreenError) else f"{type(error).__name__}: {one_line(error)}"
