"""The record of a flow run: who ran it, when each stage began and ended, what came of it; kept in the ledger."""

from __future__ import annotations

import functools
import inspect
import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from prefect import tags
from prefect.cache_policies import NO_CACHE
from prefect.context import TagsContext
from prefect.runtime import flow_run
from prefect.tasks import Task
from prefect.utilities.annotations import opaque
from sqlalchemy.engine import Engine

from flows import database, ledger
from flows.errors import EvergreenError
from flows.steps import left_over
from flows.steps.lineage import Stage
from flows.steps.prefect_server import is_healthy
from flows.steps.processes import person
from flows.steps.stages import Keep, Work


@dataclass
class Record:
    """What is known of the run under way; ``summary`` goes into the ledger at its end.

    ``work`` is where its stages are kept until it is through, ``resumed`` names those that an earlier run had finished.
    """

    id: str
    executor: str
    stages: list[Stage] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    work: Work | None = None
    resumed: list[str] = field(default_factory=list)


TAG = "evergreen"  # of every flow run: by it the automations know theirs on a server of many
SETTLE_SECONDS = 10.0
_unsent: list[str | None] = []  # servers that did not take all
_current: ContextVar[Record | None] = ContextVar("evergreen_run", default=None)


@contextmanager
def recorded(engine: Engine, model: str, flow: str, reason: str = "") -> Iterator[Record]:
    """Record a flow run in the ledger, with its stages; an error makes it failed and goes on.

    Runs of the model that were killed before are recorded as crashed first.
    """
    close_crashed(engine, model)
    record = Record(id=str(flow_run.id or uuid.uuid4()), executor=executor())
    ledger.start_run(engine, run_id=record.id, model=model, flow=flow, reason=reason, executor=record.executor)
    token = _current.set(record)
    state: Literal["completed", "failed"] = "failed"
    try:
        with tags(TAG):  # runs within this one
            yield record
        state = "completed"
    except BaseException as error:
        record.summary["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        _current.reset(token)
        stages = [stage.model_dump(mode="json") for stage in record.stages]
        resumed = {"resumed": record.resumed} if record.resumed else {}
        ledger.end_run(engine, record.id, state, {**record.summary, **resumed, "stages": stages})


class _Stage(Task[Any, Any]):
    """A task whose arguments Prefect takes as they are, and does not look into for results of other tasks.

    A fitted model is a hundred thousand objects, and Prefect would look at each twice. An argument that is itself the
    result of a task still shows as an edge between the two.
    """

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        with TagsContext(current_tags=TagsContext.get().current_tags - {TAG}):  # each tag of a task is asked for a slot
            return super().__call__(*map(opaque, arguments), **{name: opaque(one) for name, one in keywords.items()})


def stage(function: Callable[..., Any], *, keep: Keep | None = None, **options: Any) -> Any:
    """Return a Prefect task of a step, whose begin and end are kept in the record of the run.

    With ``keep`` its result is kept in the run's work until the run is through, and a run that goes on with that work
    takes the result from there, with the record of who made it. Prefect itself keeps no results.
    """
    name = options.pop("name", function.__name__.replace("_", "-"))
    signature = inspect.signature(function)

    @functools.wraps(function)
    def timed(*arguments: Any, **keywords: Any) -> Any:
        record = _current.get()
        if record is None:
            return function(*arguments, **keywords)
        work = record.work if keep else None
        if keep is None or work is None:
            with _timed(record, name):
                return function(*arguments, **keywords)
        bound = signature.bind(*arguments, **keywords)
        bound.apply_defaults()
        found = work.find(name)
        if found is not None:
            try:
                result = keep.load(found.result, work, bound.arguments)
            except EvergreenError:  # it cannot be loaded here: made again
                work.start_anew()
            else:
                record.stages.append(found.stage)
                record.resumed.append(name)
                work.behind.append(name)
                return result
        else:
            work.start_anew()
        with _timed(record, name):
            result = function(*arguments, **keywords)
            saved = keep.save(result, work, bound.arguments)
        if saved is not None:
            work.finish(record.stages[-1], *saved)
            work.behind.append(name)
        return result

    return _Stage(timed, name=name, cache_policy=NO_CACHE, **options)


@contextmanager
def _timed(record: Record, name: str) -> Iterator[None]:
    start = database.now()
    try:
        yield
    finally:
        stage = Stage(name=name, start=start, end=database.now(), executor=record.executor, run_id=record.id)
        record.stages.append(stage)


def close_crashed(engine: Engine, model: str) -> list[str]:
    """Record runs of a model as crashed whose process is gone, or of which Prefect says that they ended; return their ids.

    A run that is killed cannot say so itself. One that nobody knows anything of stays as it is.
    """
    closed = []
    for run in ledger.open_runs(engine, model):
        gone = left_over.is_gone(run)
        reason = "its process is gone" if gone else _ended_in_prefect(run.id) if gone is None else None
        if reason:
            ledger.end_run(engine, run.id, "crashed", {**run.summary, "error": f"crashed: {reason}"})
            closed.append(run.id)
    return closed


def _ended_in_prefect(run_id: str) -> str | None:
    """Return how a run ended as Prefect knows it, None if it has not, is not known, or there is no server to ask."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        return None
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(uuid.UUID(run_id)).state
    except Exception:  # noqa: BLE001 (not known there, or no answer: then it is not known here either)
        return None
    return f"Prefect says {state.name}" if state and state.is_final() else None


def settle() -> None:
    """Send the logs and events that still wait for the server, for some seconds; to be called before it is stopped."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL

    deadline = time.monotonic() + SETTLE_SECONDS
    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=max(0.0, deadline - time.monotonic()))
    api_url = PREFECT_API_URL.value()
    if time.monotonic() >= deadline or (api_url and not is_healthy(api_url)):
        _unsent.append(api_url)


def is_settled() -> bool:
    """Say whether all was sent; if not, Prefect would go on trying for minutes when the process ends."""
    return not _unsent


def root_run(record: Record) -> str:
    """Return the id of the run that a retry begins with: that of the outermost flow."""
    return str(flow_run.root_flow_run_id or record.id)


def executor() -> str:
    """Return who runs this: user, host and process."""
    return f"{person()}@{platform.node()} pid {os.getpid()}"
