"""The Dask cluster of ``EVERGREEN_DASK_URL``, whose workers train the windows of a backtest: looked at, watched, told of.

Each worker has this environment's packages and the same ``EVERGREEN_*`` settings, and shares what is written: the home
under one path, or bucket and Postgres of a team. Whoever reaches the scheduler can run code on all workers; Dask's own TLS
(``tls://``, its ``distributed.comm.tls`` options) says who may.
"""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from typing import Any
from uuid import uuid4

from flows.errors import EvergreenError, UnavailableError
from flows.lookup import load_model
from flows.settings import Settings, load
from flows.steps import s3, storage
from flows.steps.files import write_text
from flows.steps.prefect_server import is_healthy
from flows.steps.trusted import one_line

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0  # of workers that import what they are asked with for the first time
WORKERS_SECONDS = 120.0  # for a cluster that has no worker to give
LOOK_SECONDS = 2.0
MEND = "or take EVERGREEN_DASK_URL away"


def reach(settings: Settings) -> None:
    """Raise UnavailableError if the extra is missing, or no scheduler takes a connection within five seconds."""
    if find_spec("prefect_dask") is None:
        raise UnavailableError(f"EVERGREEN_DASK_URL needs the extra `dask`; run `uv sync --extra dask`, {MEND}")
    host, _, port = settings.dask_url.partition("://")[2].rpartition(":")
    try:
        with closing(socket.create_connection((host, int(port)), CONNECT_SECONDS)):
            pass
    except OSError as error:
        raise UnavailableError(
            f"no Dask scheduler answers at {settings.dask_url} ({error}); start `dask scheduler`, {MEND}"
        ) from error


def look(settings: Settings, model: str, code: str) -> str:
    """Ask each worker whether it can do the work of a backtest here, and return what is to be said of the cluster.

    ``code`` is the digest of what trains the model. Raises UnavailableError if nobody answers, or if one says no.
    """
    reach(settings)
    name, token = f".machines-{uuid4().hex}", uuid4().hex
    with storage.writing(settings, settings.home / name) as temporary:
        write_text(temporary, token)
    question = {
        "name": name, "token": token, "address": storage.address(settings, settings.home / name), "model": model,
        "code": code, "api_url": os.environ.get("PREFECT_API_URL", ""),
    }  # fmt: skip
    try:
        with ThreadPoolExecutor(1) as apart:  # whoever calls may have an event loop of its own
            threads, answers = apart.submit(asyncio.run, _ask(settings, question)).result()
    finally:
        storage.remove(settings, settings.home / name)
    for worker, said in answers.items():
        if said:
            why = (
                said
                if isinstance(said, str)
                else f"cannot answer ({_first(said)}); give it this environment's packages"
            )
            raise UnavailableError(f"the worker {worker} of {settings.dask_url} {why}")
    return f"{len(answers)} workers with {threads} threads at {settings.dask_url} see what is shared"


async def _ask(settings: Settings, question: dict[str, str]) -> tuple[int, dict[str, Any]]:
    from distributed import Client

    try:
        async with asyncio.timeout(WORKERS_SECONDS + ANSWER_SECONDS):
            async with Client(settings.dask_url, asynchronous=True, timeout=CONNECT_SECONDS) as client:
                await client.wait_for_workers(1, timeout=WORKERS_SECONDS)
                answers = await asyncio.wait_for(client.run(hindrance, question, on_error="return"), ANSWER_SECONDS)
                threads = await client.nthreads()
        return sum(threads.values()), dict(answers)
    except (OSError, TimeoutError) as error:
        raise UnavailableError(
            f"no worker of {settings.dask_url} answers ({_first(error)}); start `dask worker {settings.dask_url}` on the "
            f"machines, {MEND}"
        ) from error


def hindrance(question: dict[str, str]) -> str:
    """Say, on a worker, what keeps it from the work of a backtest, as the end of a sentence; nothing if nothing does."""
    from flows.steps.same_code import code_of

    try:
        settings = load()
        if not _shares(settings, question):
            return (
                f"on {platform.node()} does not see {question['address']} in its home {settings.home}; let all machines "
                "share the home under one path, or have the same bucket and Postgres (EVERGREEN_STORAGE_URL, "
                "EVERGREEN_LEDGER_URL)"
            )
        if code_of(load_model(question["model"], settings)) != question["code"]:
            return f"on {platform.node()} has other code or libraries; bring it up to date"
    except EvergreenError as error:
        return f"on {platform.node()} says: {one_line(error)}"
    if question["api_url"] and not is_healthy(question["api_url"]):
        return (
            f"on {platform.node()} does not reach the Prefect server at {question['api_url']}; run one that all machines "
            "reach, and name it in PREFECT_API_URL"
        )
    return ""


def _shares(settings: Settings, question: dict[str, str]) -> bool:
    """Say whether what is written here is seen by whoever asks, and whether both take turns by the same locks."""
    with suppress(OSError):
        if (settings.home / question["name"]).read_text(encoding="utf-8") == question["token"]:
            return True
    theirs = f"{settings.storage_url}/{question['name']}"
    if theirs != question["address"] or not settings.ledger.startswith("postgresql"):
        return False
    try:
        s3.probe(settings.storage_url)
        return storage.read(theirs) == question["token"].encode()
    except OSError:
        return False


@contextmanager
def told(settings: Settings, client: Any, futures: Iterable[Any]) -> Iterator[None]:
    """Turn what becomes of a cluster in mid-job into one line; the job of Prefect's futures ends if no worker comes back."""
    from distributed import CancelledError, KilledWorker
    from distributed.comm import CommClosedError

    again = "look at scheduler and workers, then run again: windows that were trained are kept"
    done = threading.Event()
    threading.Thread(
        target=_cancel_without_workers, args=(client, [one.wrapped_future for one in futures], done), daemon=True
    ).start()
    try:
        yield
    except KilledWorker as error:
        raise UnavailableError(
            f"a window ended several workers of {settings.dask_url}, for want of memory perhaps; {again}"
        ) from error
    except (CancelledError, CommClosedError) as error:
        raise UnavailableError(
            f"{settings.dask_url} has no worker any more, or does not answer ({_first(error)}); {again}"
        ) from error
    finally:
        done.set()


def _cancel_without_workers(client: Any, futures: list[Any], done: threading.Event) -> None:
    alone = 0.0
    while not done.wait(LOOK_SECONDS):
        with suppress(Exception):  # the scheduler is away: Dask says so by itself
            alone = 0.0 if client.nthreads() else alone + LOOK_SECONDS
        if alone >= WORKERS_SECONDS:
            client.cancel(futures)
            return


def _first(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
