"""The record of a flow run: who ran it, when each stage began and ended, what came of it; kept in the ledger."""

from __future__ import annotations

import functools
import getpass
import os
import platform
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from sqlalchemy.engine import Engine

from flows import database, ledger
from flows.steps.lineage import Stage


@dataclass
class Record:
    """What is known of the run under way; ``summary`` goes into the ledger at its end."""

    id: str
    executor: str
    stages: list[Stage] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)


_current: ContextVar[Record | None] = ContextVar("evergreen_run", default=None)


@contextmanager
def recorded(engine: Engine, model: str, flow: str, reason: str = "") -> Iterator[Record]:
    """Record a flow run in the ledger, with its stages; an error makes it failed and goes on."""
    record = Record(id=str(flow_run.id or uuid.uuid4()), executor=executor())
    ledger.start_run(engine, run_id=record.id, model=model, flow=flow, reason=reason, executor=record.executor)
    token = _current.set(record)
    state: Literal["completed", "failed"] = "failed"
    try:
        yield record
        state = "completed"
    except BaseException as error:
        record.summary["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        _current.reset(token)
        stages = [stage.model_dump(mode="json") for stage in record.stages]
        ledger.end_run(engine, record.id, state, {**record.summary, "stages": stages})


def stage(function: Callable[..., Any], **options: Any) -> Any:
    """Return a Prefect task of a step, whose begin and end are kept in the record of the run.

    Results are not kept between runs: what a later stage or run needs lies in the lake, the stores or the registry.
    """
    name = options.pop("name", function.__name__.replace("_", "-"))

    @functools.wraps(function)
    def timed(*arguments: Any, **keywords: Any) -> Any:
        record, start = _current.get(), database.now()
        try:
            return function(*arguments, **keywords)
        finally:
            if record is not None:
                record.stages.append(Stage(name=name, start=start, end=database.now(), executor=record.executor))

    made: Any = task(name=name, cache_policy=NO_CACHE, **options)
    return made(timed)


def settle() -> None:
    """Send the logs and events that still wait for the server; to be called before it is stopped."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=10)


def executor() -> str:
    """Return who runs this: user, host and process."""
    return f"{person()}@{platform.node()} pid {os.getpid()}"


def person() -> str:
    """Return the name of the user, or ``unknown`` where the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
