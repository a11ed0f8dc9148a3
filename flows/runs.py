"""The record of a flow run: who ran it, when each stage began and ended, what came of it; kept in the ledger."""

from __future__ import annotations

import functools
import inspect
import os
import platform
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefect import tags
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext, SyncClientContext, TagsContext
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)
from prefect.states import Cancelled
from prefect.tasks import Task
from prefect.utilities.annotations import opaque
from sqlalchemy.engine import Engine

from flows import database, run_records
from flows.errors import CancelledError, EvergreenError
from flows.steps import left_over
from flows.steps.lineage import Stage
from flows.steps.prefect_server import is_healthy
from flows.steps.processes import person
from flows.steps.stages import Keep, Work

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun


@dataclass
class Record:
    """What is known of the run under way; ``summary`` goes into the ledger at its end.

    ``work`` is where its stages are kept until it is through, ``resumed`` names those that an earlier run had
    finished, ``ask_at`` is when Prefect is to be asked again whether somebody cancelled it.
    """

    id: str
    executor: str
    stages: list[Stage] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    work: Work | None = None
    resumed: list[str] = field(default_factory=list)
    ask_at: float = 0.0


CANCELLED = "it was cancelled in Prefect"
TAG = "evergreen"  # on every flow run: the automations find ours by it on a server that others use too
SETTLE_SECONDS = 10.0
ASK_SECONDS = 1.0  # between two questions whether a run was cancelled
ASK_PAUSE = 10.0  # the same as a multiple of how long the answer took; the longer of the two counts
NAME_WIDTH = 100  # of a run's name on Prefect's pages
LOOK_SECONDS = 5.0  # how long a look at a run waits for Prefect's answer
_unsent: list[str | None] = []  # servers that did not take all logs and events
_stopped: list[str] = []  # runs that were stopped as cancelled, and Prefect has not been told of
_current: ContextVar[Record | None] = ContextVar("evergreen_run", default=None)


@contextmanager
def recorded(engine: Engine, model: str, flow: str, reason: str = "") -> Iterator[Record]:
    """Record a flow run in the ledger, with its stages; an error ends it as failed, or cancelled, and is raised on.

    Runs of the model that were killed or cancelled before are recorded as such first.
    """
    close_ended(engine, model)
    record = Record(id=str(flow_run.id or uuid.uuid4()), executor=executor())
    record.summary = run_records.start(
        engine, run_id=record.id, model=model, flow=flow, reason=reason, executor=record.executor
    )
    outer, token = _current.get(), _current.set(record)
    state: run_records.State = "failed"
    try:
        with tags(TAG):  # runs within this one
            yield record
        state = "completed"
    except BaseException as error:
        stopped = isinstance(error, CancelledError)
        if stopped and outer is None:  # those within it have ended
            confirm_cancelled(but=(record.id, root_run(record)))
        signalled = isinstance(error, TerminationSignal | KeyboardInterrupt)
        if stopped or (signalled and any(map(_is_cancelled, _in_prefect(record.id)))):
            state, record.summary["error"] = "cancelled", CANCELLED
        else:
            record.summary["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        _current.reset(token)
        stages = [stage.model_dump(mode="json") for stage in record.stages]
        resumed = {"resumed": record.resumed} if record.resumed else {}
        run_records.end(engine, record.id, state, {**record.summary, **resumed, "stages": stages})


class _Stage(Task[Any, Any]):
    """A task whose arguments Prefect takes as they are, and does not look into for results of other tasks.

    A fitted model is a hundred thousand objects, and Prefect would look at each twice. An argument that is itself the
    result of a task still shows as an edge between the two. In a run that somebody cancelled no further one begins.
    """

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        _stop_if_cancelled(_current.get())
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


def close_ended(engine: Engine, model: str, api_url: str | None = None) -> list[str]:
    """Record runs of a model as ended whose process is gone, or of which Prefect says that they ended; return their ids.

    A run that is killed cannot say so itself: it has crashed, unless Prefect, at ``api_url`` or where the settings say, knows
    that it was cancelled. One that nobody knows anything of stays as it is.
    """
    closed = []
    for run in run_records.under_way(engine, model):
        gone = left_over.is_gone(run)
        if gone is False:
            continue
        known = _in_prefect(run.id, api_url)
        ended = known[0].state_name if known and known[0].state and known[0].state.is_final() else None
        if not (gone or ended):
            continue
        if any(map(_is_cancelled, known)):
            run_records.end(engine, run.id, "cancelled", {**run.summary, "error": CANCELLED})
        else:
            why = "its process is gone" if gone else f"Prefect says {ended}"
            run_records.end(engine, run.id, "crashed", {**run.summary, "error": f"crashed: {why}"})
        closed.append(run.id)
    return closed


def confirm_cancelled(but: Sequence[str] = ()) -> None:
    """Tell Prefect that the runs that were stopped have ended: nobody does for those that no worker has started.

    Their engine is refused any other end, and they would be on their way to being cancelled for ever. Those that have not
    ended yet are named as ``but``.
    """
    for one in [one for one in _stopped if one not in but]:
        _stopped.remove(one)
        with suppress(Exception), SyncClientContext.get_or_create() as context:
            context.client.set_flow_run_state(uuid.UUID(one), Cancelled(message=CANCELLED), force=True)


def _stop_if_cancelled(record: Record | None) -> None:
    """Raise CancelledError if somebody cancelled the run, or one that it is part of; asks once a second at most, a server
    that is slow or away less often.

    A worker ends its runs itself. The process of a command would go on, and promote, whatever Prefect's page says.
    """
    begun = time.monotonic()
    if record is None or begun < record.ask_at:
        return
    known = _in_prefect(record.id)
    within = [place for place, one in enumerate(known, 1) if _is_cancelled(one)]
    now = time.monotonic()
    record.ask_at = now + max(ASK_SECONDS, ASK_PAUSE * (now - begun))
    if within:
        _stopped.extend(str(one.id) for one in known[: max(within)])  # with a run all that are within it
        raise CancelledError("the run was cancelled in Prefect; nothing was left half done, the same command goes on")


def _is_cancelled(run: FlowRun) -> bool:
    return run.state is not None and (run.state.is_cancelled() or run.state.is_cancelling())


def _in_prefect(run_id: str, api_url: str | None = None) -> list[FlowRun]:
    """Return a run and those that it is part of as Prefect knows them, the innermost first.

    Nothing if it is not known there, or no server answers: then it is not known here either.
    """
    found: list[FlowRun] = []
    address = api_url or PREFECT_API_URL.value()
    if not address:
        return found
    look = {PREFECT_API_URL: address, PREFECT_API_REQUEST_TIMEOUT: LOOK_SECONDS, PREFECT_CLIENT_MAX_RETRIES: 0}
    with (
        suppress(Exception),
        temporary_settings(look),
        SyncClientContext.get_or_create() as context,  # within a flow the one that it has
    ):
        one: uuid.UUID | None = uuid.UUID(run_id)
        while one:
            found.append(context.client.read_flow_run(one))
            parent = found[-1].parent_task_run_id
            one = context.client.read_task_run(parent).flow_run_id if parent else None
    return found


def settle() -> None:
    """Send the logs and events that still wait for the server, for some seconds; to be called before it is stopped."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

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


def run_name() -> str:
    """Return what Prefect's pages call the flow run that begins: its model, and why it runs or by what it was started.

    The name that a run has from a person, or from the form on which a person started it, stays.
    """
    context = FlowRunContext.get()
    assert context
    assert context.flow_run
    run, told = context.flow_run, context.parameters or {}
    by = run.created_by if run.created_by and run.created_by.type in ("SCHEDULE", "AUTOMATION") else None
    if run.deployment_id and not by:
        return run.name
    model, version = told["model"], f" version {told['version']}" if told.get("version") else ""
    why = told.get("reason") or told.get("why") or (by.display_value if by else None) or ""
    words = f"{model}{version}: {why.removeprefix(f'{model}: ')}" if why else f"{model}{version}"
    return textwrap.shorten(words, NAME_WIDTH, placeholder="...")


def executor() -> str:
    """Return who runs this: user, host and process."""
    return f"{person()}@{platform.node()} pid {os.getpid()}"
