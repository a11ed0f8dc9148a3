"""Online features through Feast: opened when first needed, read one request at a time."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flows.errors import EvergreenError, UnavailableError
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps.feature_store import OnlineRows, open_store, read_online
from flows.steps.trusted import one_line

if TYPE_CHECKING:
    from feast import FeatureStore


class OnlineFeatures:
    """A feature reader on the home's feature store.

    Feast keeps one connection to the store for all threads, so reads take turns.
    """

    def __init__(self, settings: Settings, spec: ModelSpec) -> None:
        self._settings = settings
        self._spec = spec
        self._store: FeatureStore | None = None
        self._turn = threading.Lock()

    def __call__(self, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> OnlineRows:
        """Return the features of some rows; raises UnavailableError if the store cannot be read."""
        with self._turn:
            try:
                if self._store is None:
                    self._store = open_store(self._settings)
                return read_online(self._store, self._spec, names, rows)
            except EvergreenError as error:
                self._store = None  # opened afresh next time: it may have been registered since
                raise UnavailableError(str(error)) from error
            except Exception as error:
                self._store = None
                raise UnavailableError(
                    f"online features of {self._spec.name} cannot be read ({type(error).__name__}: {one_line(error)}); "
                    "see `evergreen status`, then run `evergreen featurize`"
                ) from error
