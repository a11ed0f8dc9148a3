"""The servers of an installation as the doctor sees them: bucket, Redis, Spark, Dask, Prefect, and how far clocks are off."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib import metadata
from typing import Any

from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError

from flows import database, ledger
from flows.errors import EvergreenError
from flows.secret import shown
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import machines, prefect_server, s3, spark_tasks
from flows.steps.feature_store import PROJECT
from flows.steps.finding import Finding
from flows.steps.same_code import code_of
from flows.steps.trusted import one_line

SECONDS = 5.0
SCANNED = 1000  # keys of Redis that one question looks at
CLOCK_SECONDS = 5.0  # that two clocks may be apart
BUCKET_MENDS = {
    "NO_SUCH_BUCKET": "make the bucket, or name another in EVERGREEN_STORAGE_URL",
    "ACCESS_DENIED": "let this key read, write, list and delete there",
    "INVALID_ACCESS_KEY": "mend AWS_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH": "mend AWS_SECRET_ACCESS_KEY",
}


def bucket(settings: Settings) -> Iterator[Finding]:
    """Yield whether the bucket of the settings, if there is one, can be used: a small object is written, read, deleted."""
    if not settings.storage_url:
        return
    try:
        s3.probe(settings.storage_url)
    except OSError as error:
        mend = next(
            (mend for word, mend in BUCKET_MENDS.items() if word in str(error)),
            "is the store up, and is AWS_ENDPOINT_URL its address? Runs wait a minute for it, then fail cleanly",
        )
        yield Finding("storage", "bad", f"{settings.storage_url} cannot be used: {one_line(error)}", mend)
    else:
        yield Finding("storage", "good", f"{settings.storage_url} can be written and read")


def cluster(settings: Settings, spec: ModelSpec) -> Iterator[Finding]:
    """Yield whether the Spark cluster of the settings, if there is one, works: its workers write into the home."""
    if not settings.compute_url:
        return
    try:
        found = spark_tasks.look(settings, spec)
    except EvergreenError as error:
        mend = "start master and workers; each must have the home, and this environment's Python and code, under the same path"
        yield Finding("Spark", "bad", one_line(error), mend)
    else:
        yield Finding("Spark", "good", found)


def dask(settings: Settings, spec: ModelSpec) -> Iterator[Finding]:
    """Yield whether the Dask cluster of the settings, if there is one, can do the work of a backtest."""
    if not settings.dask_url:
        return
    try:
        found = machines.look(settings, spec.name, code_of(spec))
    except EvergreenError as error:
        mend = "start `dask scheduler` and `dask worker` with this environment's packages and the same EVERGREEN_* settings"
        yield Finding("Dask", "bad", one_line(error), mend)
    else:
        yield Finding("Dask", "good", found)


def online_store(settings: Settings, spec: ModelSpec, engine: Engine) -> Iterator[Finding]:
    """Yield how the Redis of the settings does, if there is one: answers, holds features, would not drop them."""
    if not settings.online_store_url:
        return
    from redis import Redis, RedisError
    from redis.exceptions import AuthenticationError

    where = shown(settings.online_store_url)
    client: Any = Redis.from_url(settings.online_store_url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS)
    try:
        version, policy = client.info("server")["redis_version"], client.info("memory")["maxmemory_policy"]
        keys = client.dbsize()
        # Others may keep theirs in the same database, Prefect's server in number 0.
        holds = next(client.scan_iter(match=f"*{PROJECT}", count=SCANNED), None) is not None
    except AuthenticationError as error:
        yield Finding(
            "online store", "bad", f"{where}: {one_line(error)}", "mend the password in EVERGREEN_ONLINE_STORE_URL"
        )
        return
    except RedisError as error:
        mend = "start it; until then the service answers without stored features, and says so"
        yield Finding("online store", "bad", f"{where} does not answer: {one_line(error)}", mend)
        return
    finally:
        client.close()
    featurized = None
    with suppress(OperationalError):  # the ledger's own look tells that it is away
        featurized = database.revisions(engine)[0] is not None and ledger.newest_featurized(engine, spec.name)
    if not holds and featurized:
        mend = f"`evergreen featurize --again --model {spec.name}` writes it from the feature tables"
        yield Finding("online store", "bad", f"{where} holds no features, though they were computed", mend)
    elif policy != "noeviction":
        mend = "set maxmemory-policy to noeviction: a feature that is dropped is missing in predictions"
        yield Finding("online store", "warning", f"{where} drops keys when its memory is full ({policy})", mend)
    else:
        yield Finding("online store", "good", f"{where}, Redis {version}, {keys} keys")


def prefect(settings: Settings) -> Iterator[Finding]:
    """Yield how the Prefect server does that the commands of a home use."""
    import httpx

    api_url = os.environ.get("PREFECT_API_URL") or prefect_server.running(settings)
    if not api_url:
        yield Finding("Prefect", "good", "no server runs; a command starts one for as long as it needs it")
        return
    answer = httpx.get(f"{api_url}/health", timeout=SECONDS)
    if answer.status_code != 200:
        mend = "look at the server's log; PREFECT_API_URL names the server, PREFECT_API_AUTH_STRING its key"
        yield Finding("Prefect", "bad", f"{api_url} answers {answer.status_code}", mend)
        return
    auth = login_of(os.environ.get("PREFECT_API_AUTH_STRING", ""))
    told = httpx.get(f"{api_url}/admin/version", auth=auth, timeout=SECONDS)
    if told.status_code != 200:
        mend = "put the server's user:password into PREFECT_API_AUTH_STRING"
        yield Finding("Prefect", "bad", f"{api_url} answers {told.status_code} to this login", mend)
        return
    theirs, ours = told.text.strip('"'), metadata.version("prefect")
    if theirs != ours:
        yield Finding(
            "Prefect", "warning", f"the server is version {theirs}, the client {ours}", "run both from the same image"
        )
    yield Finding("Prefect", "good", f"{api_url} answers")
    yield from clock("Prefect", answer.headers.get("date"))


def login_of(text: str) -> tuple[str, str] | None:
    """Return the name and the password of ``name:password``, None if there are none."""
    name, _, password = text.partition(":")
    return (name, password) if name else None


def clock(part: str, date: str | None) -> Iterator[Finding]:
    """Yield that a server's clock, from the head of an answer, is not ours, if so."""
    if date:
        apart = abs((parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds())
        if apart > CLOCK_SECONDS:
            yield Finding(
                part, "bad", f"its clock and this one are {apart:.0f} s apart", "let both follow a time server (NTP)"
            )
