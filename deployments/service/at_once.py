"""A coroutine run up to where it first waits: what need not wait needs no clock and no task of its own."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Generator
from typing import Any


def at_once(started: Awaitable[Any]) -> tuple[Any, Awaitable[Any] | None]:
    """Return a coroutine's result and None if it has one without waiting, else None and what is to be awaited for it."""
    steps: Any = started
    try:
        future = steps.send(None)
    except StopIteration as done:
        return done.value, None
    return None, _rest(steps, future)


@types.coroutine
def _rest(steps: Any, future: Any) -> Generator[Any, Any, Any]:
    """Go on with a coroutine that waits for a future, as ``await`` would have."""
    while True:
        try:
            sent = yield future
        except BaseException as error:  # noqa: BLE001 (cancelled: the coroutine is to know)
            step, value = steps.throw, error
        else:
            step, value = steps.send, sent
        try:
            future = step(value)
        except StopIteration as done:
            return done.value
