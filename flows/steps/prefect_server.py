"""The Prefect server of a home: found if one is configured or running, else started for as long as somebody uses it."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from flows.errors import EvergreenError, UnavailableError
from flows.settings import Settings
from flows.steps.files import write_text
from flows.steps.processes import end, free_port, leave, lives, stop

if TYPE_CHECKING:
    import httpx

START_SECONDS = 90.0
GRACE_SECONDS = 20.0  # until a command ends whose server is gone
TURN_SECONDS = START_SECONDS + 30.0  # another may be starting a server, and ending it


def is_healthy(api_url: str, client: httpx.Client | None = None) -> bool:
    """Say whether a Prefect API answers at ``api_url`` within 2 s; who asks often does so with a client of his own."""
    import httpx

    try:
        return (client or httpx).get(f"{api_url}/health", timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


def running(settings: Settings) -> str | None:
    """Return the API URL of the server that runs for this home, if one answers."""
    known = _known(settings)
    return str(known["api_url"]) if known and is_healthy(known["api_url"]) else None


@contextlib.contextmanager
def prefect_server(settings: Settings, needs: Iterable[str] = ()) -> Iterator[str]:
    """Yield the API URL of a Prefect server and set it in the environment.

    The one that ``PREFECT_API_URL`` names is used if set, else the one that runs for the home, else one is started on
    a free port; the last of its users stops it. Raises UnavailableError if it does not answer within 90 s. ``needs``
    names modules that the user will import: that is done while a server starts, which takes as long.
    """
    if os.environ.get("PREFECT_API_URL"):
        yield os.environ["PREFECT_API_URL"]
        return
    with _users(settings) as users:
        try:
            with _turn(settings):
                fcntl.flock(users, fcntl.LOCK_SH)
                api_url = _found(settings) or start(settings, free_port(), needs)[1]
            os.environ["PREFECT_API_URL"] = api_url
            with _watched(settings):
                yield api_url
        finally:
            os.environ.pop("PREFECT_API_URL", None)
            with _turn(settings):
                _stop_unused(settings, users)


def start(settings: Settings, port: int, needs: Iterable[str] = ()) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server on the loopback interface and wait until it answers; it logs into the home's ``prefect/server.log``."""
    settings.prefect_home.mkdir(parents=True, exist_ok=True)
    api_url = f"http://127.0.0.1:{port}/api"
    environment = os.environ | settings.environment() | {
        # The UI asks this address for its data; without it, it would ask port 4200.
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_UI_API_URL": api_url,
    }  # fmt: skip
    environment.pop("PREFECT_API_URL", None)
    log = settings.prefect_home / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=environment, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches us first; we stop it in order
        )  # fmt: skip
    try:
        _write(settings, api_url, process.pid)  # at once: should we be killed, the next command knows of it
        _load(needs, api_url)
        if not _answers(settings, api_url, lambda: process.poll() is None):
            raise UnavailableError(f"the Prefect server ended with status {process.returncode}; see {log}")
    except BaseException:
        stop(process)
        _record(settings).unlink(missing_ok=True)
        raise
    return process, api_url


def _load(needs: Iterable[str], api_url: str) -> None:
    for name in needs:
        os.environ["PREFECT_API_URL"] = api_url  # Prefect reads it once, when it is imported
        importlib.import_module(name)


def was_killed(settings: Settings) -> bool:
    """Say whether the stack of this home ended without a word, so that its parts may be ending still."""
    record = _read(settings)
    return bool(record and record["stack"] and not lives(record["pid"], record["at"]))


def refuse_running(settings: Settings) -> None:
    """Stop a server that killed commands left; raise UnavailableError if one runs for the home all the same."""
    with _turn(settings):
        _refuse(settings)


@contextlib.contextmanager
def announced(settings: Settings, api_url: str) -> Iterator[None]:
    """Tell commands of a server that ends with this process and that they must not stop.

    Raises UnavailableError if one runs for the home already.
    """
    with _turn(settings):
        _refuse(settings)
        _write(settings, api_url, os.getpid(), stack=True)
    try:
        yield
    finally:
        _record(settings).unlink(missing_ok=True)


def _refuse(settings: Settings) -> None:
    with _users(settings) as users:
        _stop_unused(settings, users)
    known = _known(settings)
    if known:
        raise UnavailableError(
            f"{settings.home} has a Prefect server at {known['api_url']} already; end what runs it first"
        )


def _found(settings: Settings) -> str | None:
    """Return the API URL of the home's server once it answers, None if there is none."""
    known = _known(settings)
    if known and _answers(settings, known["api_url"], lambda: _known(settings) == known):
        return str(known["api_url"])
    return None


def _answers(settings: Settings, api_url: str, is_there: Callable[[], bool]) -> bool:
    """Wait until a server answers, and return whether it does; False if it lives no more."""
    import httpx

    deadline = time.monotonic() + START_SECONDS
    with httpx.Client() as client:  # to make one takes longer than to ask, and the server needs the processor
        while not is_healthy(api_url, client):
            if not is_there():
                return False
            if time.monotonic() > deadline:
                log = settings.prefect_home / "server.log"
                raise UnavailableError(
                    f"the Prefect server at {api_url} did not answer within {START_SECONDS:.0f} s; see {log}"
                )
            time.sleep(0.2)
    return True


@contextlib.contextmanager
def _watched(settings: Settings) -> Iterator[None]:
    """End this process some time after the server has ended, if it does not end by itself.

    Prefect's client asks a server that is gone for a minute, with each request anew.
    """
    server, ended = _known(settings), threading.Event()
    line = (
        f"the Prefect server ended in mid-command; see {settings.prefect_home / 'server.log'}, the same command goes on"
    )

    def gone() -> bool:
        return server is not None and not lives(server["pid"], server["at"])

    def watch() -> None:
        while not ended.wait(1.0):
            if gone() and not ended.wait(GRACE_SECONDS):
                sys.stderr.write(f"evergreen: {line}\n")
                leave(UnavailableError.exit_status)

    threading.Thread(target=watch, name="prefect-server", daemon=True).start()
    try:
        yield
    except EvergreenError:
        raise
    except Exception as error:
        if gone():
            raise UnavailableError(line) from error
        raise
    finally:
        ended.set()


@contextlib.contextmanager
def _turn(settings: Settings) -> Iterator[None]:
    """Begin or end to use the server, one process after the other."""
    settings.prefect_home.mkdir(parents=True, exist_ok=True)
    path = settings.prefect_home / "server.lock"
    try:
        lock = FileLock(path, timeout=TURN_SECONDS)
        lock.acquire()
    except Timeout as error:
        raise UnavailableError(
            f"another command has been starting a Prefect server for too long ({path}); end it"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _users(settings: Settings) -> Iterator[IO[bytes]]:
    """Open the file on which each user of the server holds a shared lock, which dies with its process."""
    settings.prefect_home.mkdir(parents=True, exist_ok=True)
    with (settings.prefect_home / "users.lock").open("ab") as file:
        try:
            yield file
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a child may have the file open too


def _stop_unused(settings: Settings, users: IO[bytes]) -> None:
    """Stop the commands' server, whoever started it, unless there is another user of it."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    known = _known(settings)
    if known and known["stack"]:
        return
    if known:
        end(known["pid"])
    _record(settings).unlink(missing_ok=True)


def _write(settings: Settings, api_url: str, pid: int, stack: bool = False) -> None:
    settings.prefect_home.mkdir(parents=True, exist_ok=True)
    write_text(_record(settings), json.dumps({"api_url": api_url, "pid": pid, "at": time.time(), "stack": stack}))


def _known(settings: Settings) -> dict[str, Any] | None:
    """Return the record of the home's server.

    One that a killed process left behind counts for nothing: its port may be that of another home by now.
    """
    known = _read(settings)
    return known if known and lives(known["pid"], known["at"]) else None


def _read(settings: Settings) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(_record(settings).read_text())
    except (OSError, ValueError):
        return None
    return found if {"api_url", "pid", "at", "stack"} <= found.keys() else None


def _record(settings: Settings) -> Path:
    return settings.prefect_home / "server.json"
