"""Online features: read directly from Feast's SQLite tables by the plan, or through Feast where there is no plan."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deployments.service.predictor import FeatureReader
from flows.errors import EvergreenError, UnavailableError
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps.feature_store import OnlineRows, open_store, read_online
from flows.steps.online_plan import plan_path, read_plan, write_plan
from flows.steps.online_read import OnlineReader
from flows.steps.trusted import one_line

if TYPE_CHECKING:
    from feast import FeatureStore

LOOK_SECONDS = 0.5  # how often it is seen whether definitions were applied anew


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

    @property
    def is_quick(self) -> bool:
        """Whether the next read is a direct one."""
        return self._reader is not None

    def away(self) -> str | None:
        """Return that the store is gone, though what was open of it is read on; None if it is there."""
        reader = self._reader
        if reader is None or os.path.exists(reader.plan.database):  # noqa: PTH110 (asked each second)
            return None
        return f"the online store {reader.plan.database} is gone; what was open of it is read on, as it was last"

    def __call__(self, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> OnlineRows:
        """Return the features of some rows; raises UnavailableError if the store cannot be read."""
        try:
            return self._current()(names, rows)
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
                plan = read_plan(self._settings, self._spec) or self._make_plan()
                if plan is None:
                    return self._through_feast
                self._reader, self._written = OnlineReader(plan, self._spec), written
            return self._reader

    def _make_plan(self) -> Any:
        """Make the plan of a store that was registered before there were plans; None if only Feast can read it."""
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
