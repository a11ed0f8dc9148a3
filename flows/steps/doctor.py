"""The doctor: looks at every part that the settings use, changes nothing, and says of each what is wrong and how to mend it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from flows import database, ledger
from flows.engines import make_engine
from flows.errors import RefusedError, UnavailableError
from flows.secret import shown
from flows.settings import Settings
from flows.spec import Frozen, ModelSpec
from flows.steps import feature_tables, online_file, registry, serving, storage
from flows.steps.champion_health import Line, champions
from flows.steps.servers_health import CLOCK_SECONDS, bucket, clock, cluster, dask, login_of, online_store, prefect
from flows.steps.trusted import one_line

FREE_BYTES = 2**30
# The setting that names the server of a part, if it is on one.
SERVERS = {
    "ledger": "ledger_url", "MLflow": "mlflow_tracking_uri", "feature store": "feature_registry_url",
    "online store": "online_store_url", "storage": "storage_url",
}  # fmt: skip
EXACT = ("prefect", "mlflow", "feast", "great-expectations", "skops", "scikit-learn", "duckdb", "pandas")


class Finding(Frozen):
    """What was found of a part: ``good``, ``warning`` (it works, but not for long or not safely) or ``bad``; how to mend it."""

    part: str
    state: Literal["good", "warning", "bad"]
    found: str
    mend: str = ""


def examine(settings: Settings, spec: ModelSpec) -> list[Finding]:
    """Look at every part of a home; a part that cannot be looked at is a finding, not an error."""
    findings: list[Finding] = []
    parts: dict[str, Callable[[Settings, ModelSpec], Iterator[Finding]]] = {
        "libraries": _libraries, "home": _home, "storage": _storage, "ledger": _ledger, "MLflow": _mlflow,
        "feature store": _features, "online store": _online, "Spark": lambda settings, spec: _findings(cluster(settings, spec)),
        "Dask": lambda settings, spec: _findings(dask(settings, spec)), "Prefect": _prefect, "service": _service,
    }  # fmt: skip
    for part, look in parts.items():
        try:
            with storage.at_a_glance():
                findings += look(settings, spec)
        except Exception as error:  # noqa: BLE001 (whatever a part does wrong is what is asked for)
            findings.append(
                Finding(
                    part=part, state="bad", found=f"{type(error).__name__}: {one_line(error)}",
                    mend=_mend(settings, part),
                )
            )  # fmt: skip
    return findings


def _mend(settings: Settings, part: str) -> str:
    """Return how to mend a part that could not be looked at: a server's address, or a file."""
    setting = SERVERS.get(part, "")
    if setting and getattr(settings, setting):
        return f"is the server up, and are address, name and password in EVERGREEN_{setting.upper()} right?"
    return "read the message; if the part is damaged, restore a backup with `evergreen restore`"


def _storage(settings: Settings, spec: ModelSpec) -> Iterator[Finding]:
    yield from _findings(bucket(settings))


def _online(settings: Settings, spec: ModelSpec) -> Iterator[Finding]:
    if settings.online_store_url:
        with _opened(settings.ledger) as engine:
            yield from _findings(online_store(settings, spec, engine))
        return
    path, wrong = online_file.path_of(settings), online_file.damage(settings)
    known = settings.features(spec.name).exists()
    if wrong or (known and not path.exists()):
        yield Finding(
            part="online store", state="bad", found=f"{path} is damaged ({wrong})" if wrong else f"{path} is gone",
            mend=f"`evergreen featurize --again --model {spec.name}` writes it anew",
        )  # fmt: skip
    elif known:
        yield Finding(part="online store", state="good", found=f"{path} is whole")


def _findings(lines: Iterator[Line]) -> Iterator[Finding]:
    for part, state, found, mend in lines:
        yield Finding(part=part, state=state, found=found, mend=mend)


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


def _libraries(settings: Settings, spec: ModelSpec) -> Iterator[Finding]:
    from packaging.requirements import Requirement

    wanted = {one.name: one for one in map(Requirement, metadata.requires("evergreen") or []) if not one.marker}
    wrong = [
        f"{name} {metadata.version(name)}, not {wanted[name].specifier}"
        for name in EXACT
        if name in wanted and not wanted[name].specifier.contains(metadata.version(name), prereleases=True)
    ]
    if wrong:
        yield Finding(part="libraries", state="bad", found="; ".join(wrong), mend="run `uv sync`")
    else:
        yield Finding(
            part="libraries", state="good", found=f"evergreen {metadata.version('evergreen')}, as it asks for"
        )


def _home(settings: Settings, spec: ModelSpec) -> Iterator[Finding]:
    if not settings.home.exists():
        yield Finding(
            part="home", state="warning", found=f"{settings.home} is not there yet",
            mend="`evergreen ingest SOURCE` makes it; or name another with --home",
        )  # fmt: skip
        return
    folders = [settings.home, *filter(Path.exists, [settings.artifacts, settings.landing(spec.name)])]
    problems = {folder: problem for folder in folders if (problem := _write_problem(folder))}
    for folder, problem in problems.items():
        yield Finding(
            part="home", state="bad", found=f"{folder} cannot be written to ({problem})",
            mend="give it to the user that runs Evergreen (chown), mount its disk to be written to, or name another with --home",
        )  # fmt: skip
    free = shutil.disk_usage(settings.home).free
    if free < FREE_BYTES:
        yield Finding(
            part="home", state="warning", found=f"{free / 2**20:.0f} MiB are free on its disk",
            mend="free some space: landing, training and the prediction log need it",
        )  # fmt: skip
    elif not problems:
        yield Finding(part="home", state="good", found=f"{settings.home} is writable, {free / 2**30:.0f} GiB are free")


def _write_problem(folder: Path) -> str | None:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-", suffix=".tmp"):
            return None
    except OSError as error:
        return error.strerror or type(error).__name__


def _ledger(settings: Settings, spec: ModelSpec) -> Iterator[Finding]:
    where = shown(settings.ledger)
    if not settings.ledger_exists:
        yield Finding(part="ledger", state="good", found="none yet; the first command that needs it makes it")
        return
    with _opened(settings.ledger) as engine:
        current, head = database.revisions(engine)
        newer = current is not None and head is not None and current > head
        if current != head:
            goes_on = "deliver the newer Evergreen that made it; this one goes on without what was added"
            yield Finding(
                part="ledger", state="warning", found=f"{where} has schema {current}, this code writes {head}",
                mend=goes_on if newer else "any command brings it up to date: `evergreen status`",
            )  # fmt: skip
            if not newer:
                return
        problem = _ledger_problem(engine)
        if problem:
            yield problem
            return
        yield Finding(part="ledger", state="good", found=f"{where}, {_server(engine)}schema {current}, writable")
        yield from _lake(settings, engine, spec)


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
                    part="ledger", state="bad", found=f"the database is damaged: {said}",
                    mend="stop what writes to it and restore a backup with `evergreen restore`",
                )  # fmt: skip
        else:
            apart = abs((connection.execute(sa.select(sa.func.now())).scalar_one() - datetime.now(UTC)).total_seconds())
            if apart > CLOCK_SECONDS:
                return Finding(
                    part="ledger", state="bad", found=f"its clock and this one are {apart:.0f} s apart",
                    mend="let both follow a time server (NTP): promotions and labels are ordered by time",
                )  # fmt: skip
    with engine.connect().execution_options(write=True) as connection:
        transaction = connection.begin()
        try:
            connection.execute(database.runs.delete().where(database.runs.c.id == "doctor"))  # there is none
        finally:
            transaction.rollback()
    return None


def _lake(settings: Settings, engine: Engine, spec: ModelSpec) -> Iterator[Finding]:
    rows = ledger.list_partitions(engine, spec.name)
    files = [uri for row in rows if row.status == "accepted" for uri in (row.uri, row.accepted_uri) if uri]
    try:
        missing = storage.missing(settings, files)
    except UnavailableError as error:
        yield Finding(
            part="lake",
            state="bad",
            found=f"its files cannot be looked for: {one_line(error)}",
            mend="mend the storage first",
        )
        return
    broken = storage.damaged(files)
    mend = (
        "ingest their source again, which makes accepted rows anew, or restore a backup; training over those days stops "
        "until they are back"
    )
    if missing and not any(uri.startswith(("s3://", f"{settings.home}/")) for uri in files):
        mend = (
            f"was {settings.home} moved? Its databases name the place it came from: move it back, `evergreen backup FILE` "
            "there, and `evergreen restore FILE` where it is to be"
        )
    for names, what in ((missing, "gone"), (broken, "damaged")):
        if names:
            yield Finding(
                part="lake", state="bad", mend=mend,
                found=f"{len(names)} of {len(files)} files of accepted partitions are {what}: {names[0]}",
            )  # fmt: skip
    if not missing and not broken:
        yield Finding(part="lake", state="good", found=f"{len(files)} files of accepted partitions are there and whole")
    torn = feature_tables.damaged(settings, spec)
    if torn:
        yield Finding(
            part="feature tables", state="bad", found=f"{len(torn)} files are damaged: {torn[0]}",
            mend=f"`evergreen featurize --again --model {spec.name}` makes them anew",
        )  # fmt: skip


def _mlflow(settings: Settings, spec: ModelSpec) -> Iterator[Finding]:
    if not settings.mlflow_exists:
        yield Finding(part="MLflow", state="good", found="none yet; the first training makes it")
        return
    if settings.tracking_uri.startswith("http"):
        import httpx

        login = ":".join(os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
        answer = httpx.get(f"{settings.tracking_uri.rstrip('/')}/version", auth=login_of(login), timeout=5.0)
        answer.raise_for_status()
        theirs, ours = answer.text.strip(), metadata.version("mlflow")
        if theirs != ours:
            yield Finding(
                part="MLflow", state="warning", found=f"the server is version {theirs}, the client {ours}",
                mend="run both from the same image",
            )  # fmt: skip
        yield from _findings(clock("MLflow", answer.headers.get("date")))
    else:
        _ask(settings, settings.tracking_uri)
    registry.open_client(settings)
    yield Finding(part="MLflow", state="good", found=f"{shown(settings.tracking_uri)} answers, its schema is current")
    if settings.ledger_url or (settings.home / "ledger.db").exists():
        with _opened(settings.ledger) as engine, suppress(sa.exc.OperationalError):  # which the ledger's look tells
            if database.revisions(engine)[0] is not None:
                yield from _findings(champions(settings, spec, engine))


def _features(settings: Settings, spec: ModelSpec) -> Iterator[Finding]:
    from flows.steps import feature_store

    if not settings.features_exist:
        yield Finding(part="feature store", state="good", found="none yet; `evergreen featurize` makes it")
        return
    _ask(settings, settings.feature_registry)
    store = feature_store.open_store(settings)
    try:
        names = feature_store.feature_names(store, spec)
    except RefusedError:
        yield Finding(
            part="feature store", state="warning",
            found=f"{spec.feature_service} is not registered in {shown(settings.feature_registry)}",
            mend=f"`evergreen featurize --model {spec.name}` registers it, once there are partitions",
        )  # fmt: skip
        return
    yield Finding(
        part="feature store", state="good", found=f"{spec.feature_service} is registered, {len(names)} features"
    )


def _prefect(settings: Settings, spec: ModelSpec) -> Iterator[Finding]:
    yield from _findings(prefect(settings))


def _service(settings: Settings, spec: ModelSpec) -> Iterator[Finding]:
    open_to_all = settings.service_host not in ("127.0.0.1", "localhost", "::1")
    if open_to_all and not settings.service_api_key.get_secret_value():
        yield Finding(
            part="service", state="warning", found=f"it listens on {settings.service_host} and asks for no key",
            mend="set EVERGREEN_SERVICE_API_KEY",
        )  # fmt: skip
    known = serving.find(settings, spec.name)
    if known is None:
        yield Finding(part="service", state="good", found="none runs on this home; `evergreen serve` starts it")
    elif not known["ready"]:
        yield Finding(
            part="service", state="bad", found=f"{known['url']} is not ready",
            mend="its log says why; without a champion, `evergreen train` makes one",
        )  # fmt: skip
    else:
        yield Finding(part="service", state="good", found=f"{known['url']} answers with version {known['version']}")
