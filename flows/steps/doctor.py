"""The doctor: looks at every part that the settings use, changes nothing, and says of each what is wrong and how to mend it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from importlib import metadata

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from flows import database, ledger
from flows.engines import make_engine
from flows.errors import RefusedError, UnavailableError
from flows.secret import shown
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import left_over, registry, s3, serving
from flows.steps.champion_health import champions
from flows.steps.finding import Finding
from flows.steps.home_health import home, lake, libraries, online_database
from flows.steps.servers_health import CLOCK_SECONDS, bucket, clock, cluster, dask, login_of, online_store, prefect
from flows.steps.trusted import one_line

FULL_BYTES = 2**20  # free on a disk, from which nothing can be written
# The setting that names the server of a part, if it is on one.
SERVERS = {
    "ledger": "ledger_url", "MLflow": "mlflow_tracking_uri", "feature store": "feature_registry_url",
    "online store": "online_store_url", "storage": "storage_url",
}  # fmt: skip


def examine(settings: Settings, spec: ModelSpec) -> list[Finding]:
    """Look at every part of a home; a part that cannot be looked at is a finding, not an error."""
    findings: list[Finding] = []
    parts: dict[str, Callable[[], Iterator[Finding]]] = {
        "libraries": libraries, "home": partial(home, settings, spec), "storage": partial(bucket, settings),
        "ledger": partial(_ledger, settings, spec), "MLflow": partial(_mlflow, settings, spec),
        "feature store": partial(_features, settings, spec), "online store": partial(_online, settings, spec),
        "Spark": partial(cluster, settings, spec), "Dask": partial(dask, settings, spec), "Prefect": partial(prefect, settings),
        "service": partial(_service, settings, spec),
    }  # fmt: skip
    for part, look in parts.items():
        try:
            with s3.at_a_glance(), registry.at_a_glance():
                findings += look()
        except Exception as error:  # noqa: BLE001 (whatever a part does wrong is what is asked for)
            findings.append(Finding(part, "bad", f"{type(error).__name__}: {one_line(error)}", _mend(settings, part)))
    return findings


def _mend(settings: Settings, part: str) -> str:
    """Return how to mend a part that could not be looked at: a server's address, or a file."""
    setting = SERVERS.get(part, "")
    if setting and getattr(settings, setting):
        return f"is the server up, and are address, name and password in EVERGREEN_{setting.upper()} right?"
    if settings.home.exists() and shutil.disk_usage(settings.home).free < FULL_BYTES:
        return f"the disk of {settings.home} is full: free some space, then ask again"
    return "read the message; if the part is damaged, restore a backup with `evergreen restore`"


def _online(settings: Settings, spec: ModelSpec) -> Iterator[Finding]:
    if settings.online_store_url:
        with _opened(settings.ledger) as engine:
            yield from online_store(settings, spec, engine)
    else:
        yield from online_database(settings, spec)


@contextmanager
def _opened(url: str) -> Iterator[Engine]:
    """Open a database for a look; a server that does not answer is not waited for."""
    engine = make_engine(url, patience=0)
    try:
        yield engine
    finally:
        engine.dispose()


def _ask(settings: Settings, url: str) -> None:
    """Raise UnavailableError or OperationalError at once if a database on a server, or the ledger, does not answer.

    Whoever opens it otherwise waits long: for a restart, and for a lock that is in the ledger.
    """
    if settings.ledger.startswith("postgresql"):
        try:
            with _opened(settings.ledger) as engine, engine.connect():
                pass
        except sa.exc.OperationalError as error:
            raise UnavailableError("the ledger does not answer, in which its locks are") from error
    if url.startswith("postgresql"):
        with _opened(url) as engine, engine.connect():
            pass


def _ledger(settings: Settings, spec: ModelSpec) -> Iterator[Finding]:
    where = shown(settings.ledger)
    if not settings.ledger_exists:
        yield Finding("ledger", "good", "none yet; the first command that needs it makes it")
        return
    with _opened(settings.ledger) as engine:
        current, head = database.revisions(engine)
        newer = current is not None and head is not None and current > head
        if current != head:
            goes_on = "deliver the newer Evergreen that made it; this one goes on without what was added"
            yield Finding(
                "ledger", "warning", f"{where} has schema {current}, this code writes {head}",
                goes_on if newer else "any command brings it up to date: `evergreen status`",
            )  # fmt: skip
            if not newer:
                return
        problem = _ledger_problem(engine)
        if problem:
            yield problem
            return
        yield Finding("ledger", "good", f"{where}, {_server(engine)}schema {current}, writable")
        yield from lake(settings, spec, engine)
        killed = left_over.killed_delivery(engine, spec.name)
        if killed:
            mend = "; ".join(filter(None, ("deliver it again, or what was in force before", killed.back)))
            yield Finding("delivery", "warning", killed.told, mend)


def _server(engine: Engine) -> str:
    """Return which server a database is on, as the start of a list; nothing for a file."""
    if engine.dialect.name == "sqlite":
        return ""
    with engine.connect() as connection:
        return f"{engine.dialect.name} {connection.exec_driver_sql('SHOW server_version').scalar_one()}, "


def _ledger_problem(engine: Engine) -> Finding | None:
    sqlite = engine.dialect.name == "sqlite"
    with engine.connect() as connection:
        if sqlite:
            said = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if said != "ok":
                return Finding(
                    "ledger", "bad", f"the database is damaged: {said}",
                    "stop what writes to it and restore a backup with `evergreen restore`",
                )  # fmt: skip
        else:
            apart = abs((connection.execute(sa.select(sa.func.now())).scalar_one() - datetime.now(UTC)).total_seconds())
            if apart > CLOCK_SECONDS:
                return Finding(
                    "ledger", "bad", f"its clock and this one are {apart:.0f} s apart",
                    "let both follow a time server (NTP): promotions and labels are ordered by time",
                )  # fmt: skip
    with engine.connect().execution_options(write=True) as connection:
        transaction = connection.begin()
        try:
            connection.execute(database.runs.delete().where(database.runs.c.id == "doctor"))  # there is none
        finally:
            transaction.rollback()
    return None


def _mlflow(settings: Settings, spec: ModelSpec) -> Iterator[Finding]:
    if not settings.mlflow_exists:
        yield Finding("MLflow", "good", "none yet; the first training makes it")
        return
    if settings.tracking_uri.startswith("http"):
        import httpx

        login = ":".join(os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
        answer = httpx.get(f"{settings.tracking_uri.rstrip('/')}/version", auth=login_of(login), timeout=5.0)
        answer.raise_for_status()
        theirs, ours = answer.text.strip(), metadata.version("mlflow")
        if theirs != ours:
            yield Finding(
                "MLflow", "warning", f"the server is version {theirs}, the client {ours}",
                "run both from the same image",
            )  # fmt: skip
        yield from clock("MLflow", answer.headers.get("date"))
    else:
        _ask(settings, settings.tracking_uri)
    registry.open_client(settings)
    yield Finding("MLflow", "good", f"{shown(settings.tracking_uri)} answers, its schema is current")
    if settings.ledger_url or (settings.home / "ledger.db").exists():
        with _opened(settings.ledger) as engine, suppress(sa.exc.OperationalError):  # which the ledger's look tells
            if database.revisions(engine)[0] is not None:
                yield from champions(settings, spec, engine)


def _features(settings: Settings, spec: ModelSpec) -> Iterator[Finding]:
    from flows.steps import feature_store

    if not settings.features_exist:
        yield Finding("feature store", "good", "none yet; `evergreen featurize` makes it")
        return
    _ask(settings, settings.feature_registry)
    store = feature_store.open_store(settings)
    try:
        names = feature_store.feature_names(store, spec)
    except RefusedError:
        yield Finding(
            "feature store", "warning",
            f"{spec.feature_service} is not registered in {shown(settings.feature_registry)}",
            f"`evergreen featurize --model {spec.name}` registers it, once there are partitions",
        )  # fmt: skip
        return
    yield Finding("feature store", "good", f"{spec.feature_service} is registered, {len(names)} features")


def _waits_for_champion(settings: Settings, spec: ModelSpec) -> bool:
    """Say whether nothing was ever promoted; a ledger that cannot be read says nothing."""
    if not settings.ledger_exists:
        return True
    with _opened(settings.ledger) as engine, suppress(sa.exc.SQLAlchemyError):
        return database.revisions(engine)[0] is None or ledger.champion(engine, spec.name) is None
    return False


def _service(settings: Settings, spec: ModelSpec) -> Iterator[Finding]:
    open_to_all = settings.service_host not in ("127.0.0.1", "localhost", "::1")
    if open_to_all and not settings.service_api_key.get_secret_value():
        yield Finding(
            "service", "warning", f"it listens on {settings.service_host} and asks for no key",
            "set EVERGREEN_SERVICE_API_KEY",
        )  # fmt: skip
    known = serving.find(settings, spec.name)
    if known is None:
        yield Finding("service", "good", "none runs on this home; `evergreen serve` starts it")
    elif not known["ready"] and _waits_for_champion(settings, spec):
        waits = f"{known['url']} waits for a champion, none is there yet"
        yield Finding("service", "warning", waits, "`evergreen train` makes one")
    elif not known["ready"]:
        yield Finding("service", "bad", f"{known['url']} is not ready", "its log says why")
    else:
        yield Finding("service", "good", f"{known['url']} answers with version {known['version']}")
