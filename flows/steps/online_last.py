"""What an online store held last of the rows that were asked for lately: served while the store fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from flows.steps.online_plan import NO_KEY, OnlinePlan
from flows.steps.online_values import Stored
from flows.steps.trusted import one_line

KEPT_ROWS = 5_000  # of the different keys that were asked for last, some kilobytes each
AGAIN_SECONDS = 1.0  # after a failure, before the store is asked again: each failure may take its time-out


class Values(Protocol):
    """An online store: what is stored for some rows, whether reading it is quick, and whether it is away."""

    is_quick: bool

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[list[Stored | None]]:
        """Return by view, for each row, what is stored of its keys."""
        ...

    def away(self) -> str | None:
        """Return what is wrong with the store though it can still be read, if anything."""
        ...


class LastValues:
    """An online store that answers by what it read last when it fails: locked, damaged, or its server away.

    A row that was not asked for lately has no features then, as one that is unknown. A store that never answered raises:
    there is none yet.
    """

    def __init__(self, store: Values, plan: OnlinePlan) -> None:
        self._store = store
        self.is_quick = store.is_quick
        self._views = len(plan.stored)
        self._keys = sorted({name for view in plan.stored for name, _ in view.keys if name != NO_KEY})
        self._last: dict[tuple[Any, ...], list[Stored | None]] = {}
        self._lock = threading.Lock()
        self._has_answered = False
        self._problem: str | None = None
        self._again = 0.0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[list[Stored | None]]:
        """Return by view, for each row, what is stored of its keys, or was when it was read last."""
        if self._problem is None or time.monotonic() >= self._again:
            try:
                found = self._store(rows)
            except Exception as error:
                if not self._has_answered:
                    raise
                self._again = time.monotonic() + AGAIN_SECONDS
                self._problem = (
                    f"the online store cannot be read ({type(error).__name__}: {one_line(error)}); rows are answered by what "
                    "was read of them last, or without; see `evergreen doctor`"
                )
            else:
                self._has_answered, self._problem = True, None
                self._keep(rows, found)
                return found
        nothing: list[Stored | None] = [None] * self._views
        with self._lock:
            last = [self._last.get(self._key(row), nothing) for row in rows]
        return [[one[view] for one in last] for view in range(self._views)]

    def away(self) -> str | None:
        """Return what is wrong with the store though rows are answered, None if all is well."""
        return self._problem or self._store.away()

    def _key(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple([row[name] for name in self._keys])

    def _keep(self, rows: Sequence[Mapping[str, Any]], found: list[list[Stored | None]]) -> None:
        with self._lock:
            for place, row in enumerate(rows):
                key = self._key(row)
                self._last.pop(key, None)  # so that it stands behind those that were asked for before it
                self._last[key] = [view[place] for view in found]
            while len(self._last) > KEPT_ROWS:
                del self._last[next(iter(self._last))]
