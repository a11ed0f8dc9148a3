"""Online features: read directly from Feast's SQLite tables or Redis by the plan, or through Feast where there is no plan."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from deployments.service.predictor import FeatureReader
from flows.errors import EvergreenError, UnavailableError
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps.feature_store import OnlineRows, open_store, read_online
from flows.steps.online_plan import OnlinePlan, fetch_plan, plan_path, read_plan, write_plan
from flows.steps.online_read import ComputedError, OnlineReader
from flows.steps.trusted import one_line

if TYPE_CHECKING:
    from feast import FeatureStore

LOOK_SECONDS = 0.5  # how often it is seen whether definitions were applied anew
FETCH_SECONDS = 30.0  # and by another host


class OnlineFeatures:
    """A feature reader on the home's feature store; may be called from several threads.

    Nothing is opened before the first read, and Feast is imported only if there is no plan.
    """

    def __init__(self, settings: Settings, spec: ModelSpec) -> None:
        self._settings = settings
        self._spec = spec
        self._path = plan_path(settings, spec)
        self._turn = threading.Lock()
        self._reader: OnlineReader | None = None
        self._store: FeatureStore | None = None
        self._written = 0
        self._look = 0.0
        self._next_fetch = 0.0

    @property
    def is_quick(self) -> bool:
        """Whether the next read is a direct one, of this machine's disk."""
        return self._reader is not None and self._reader.values.is_quick

    def away(self) -> str | None:
        """Return that the store is gone, though what was open of it is read on; None if it is there."""
        return self._reader.values.away() if self._reader is not None else None

    def refresh(self) -> None:
        """Look at most twice a minute whether another host has applied definitions anew; not in the way of a request."""
        now = time.monotonic()
        if self._settings.storage_url and now >= self._next_fetch:
            self._next_fetch = now + FETCH_SECONDS
            with suppress(UnavailableError):  # what is here is read on
                fetch_plan(self._settings, self._spec)

    def __call__(self, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> OnlineRows:
        """Return the features of some rows; raises UnavailableError if the store cannot be read."""
        try:
            return self._current()(names, rows)
        except ComputedError:  # of this request: what was read for others is kept
            raise
        except EvergreenError as error:
            self._forget()
            raise UnavailableError(str(error)) from error
        except Exception as error:
            self._forget()
            raise UnavailableError(
                f"online features of {self._spec.name} cannot be read ({type(error).__name__}: {one_line(error)}); "
                "see `evergreen status`, then run `evergreen featurize`"
            ) from error

    def _current(self) -> FeatureReader:
        now = time.monotonic()
        if self._reader is not None and now < self._look:
            return self._reader
        with self._turn:
            self._look = now + LOOK_SECONDS
            try:
                written = self._path.stat().st_mtime_ns
            except OSError:
                written = self._written if self._reader else 0  # out of reach: what was read serves on
            if self._reader is None or written != self._written:
                plan = self._find_plan()
                if plan is None:
                    return self._through_feast
                self._reader, self._written = OnlineReader(plan, self._spec, self._settings.online_store_url), written
            return self._reader

    def _find_plan(self) -> OnlinePlan | None:
        """Return the plan that is kept here or in the bucket, or else make it; None if only Feast can read the store."""
        plan = read_plan(self._settings, self._spec)
        if plan is None and self._settings.storage_url:
            fetch_plan(self._settings, self._spec)
            plan = read_plan(self._settings, self._spec)
        if plan is not None:
            return plan
        if self._store is None:
            self._store = open_store(self._settings)
        return write_plan(self._settings, self._spec, self._store)

    def _through_feast(self, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> OnlineRows:
        """Read by Feast, which keeps one connection for all threads: they take turns."""
        with self._turn:
            if self._store is None:
                self._store = open_store(self._settings)
            return read_online(self._store, self._spec, names, rows)

    def _forget(self) -> None:
        """Open all afresh next time: the store may have been registered since."""
        with self._turn:
            self._reader, self._store = None, None
