"""The feature reader as the service's state sees it: whether the last read succeeded, and what stood in the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deployments.service.predictor import FeatureReader
from flows.errors import UnavailableError
from flows.steps.feature_store import OnlineRows


class WatchedFeatures:
    """A feature reader that remembers how its last read went; costs a request nothing to speak of."""

    def __init__(self, reader: FeatureReader) -> None:
        self._reader = reader
        self._error: str | None = None

    def __call__(self, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> OnlineRows:
        """Return the named features of some rows; raises UnavailableError if the store cannot be read."""
        try:
            found = self._reader(names, rows)
        except UnavailableError as error:
            self._error = str(error)
            raise
        self._error = None
        return found

    @property
    def is_quick(self) -> bool:
        """Whether a read is so short that it may be done between other requests."""
        return bool(getattr(self._reader, "is_quick", True))

    def error(self) -> str | None:
        """Return why the store cannot be read, or is gone while what was open of it is read on; None if all is well."""
        away = getattr(self._reader, "away", None)
        return self._error or (away() if away else None)
