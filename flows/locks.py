"""One at a time: locks that die with their process, on one machine and across those that share a ledger on Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

import sqlalchemy as sa
from filelock import FileLock, Timeout

from flows.engines import make_engine
from flows.errors import UnavailableError
from flows.settings import Settings

LOCK_NOT_AVAILABLE = "55P03"  # Postgres's code of a lock that was waited for long enough


@contextmanager
def locked(settings: Settings, name: str, patience: float) -> Iterator[None]:
    """Hold the lock of a name for as long as the block runs; raises UnavailableError after ``patience`` seconds of waiting.

    A lock keeps work from being done twice. What must not happen twice is kept by the ledger's own keys: a restarted
    Postgres has forgotten who held what.
    """
    path = settings.home / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path, timeout=patience)
        lock.acquire()
    except Timeout as error:
        raise UnavailableError(f"{name} is still at work in another run ({path}); wait for it") from error
    try:
        if settings.ledger.startswith("postgresql"):
            with _across_hosts(settings, name, patience):
                yield
        else:
            yield
    finally:
        lock.release()


@contextmanager
def _across_hosts(settings: Settings, name: str, patience: float) -> Iterator[None]:
    """Hold Postgres's advisory lock of a name, in a session of its own, whose end frees it."""
    key = int.from_bytes(sha256(f"evergreen {name}".encode()).digest()[:8], "big", signed=True)
    engine = make_engine(settings.ledger)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as session:
            # Numbers, which cannot be bound in SET.
            session.exec_driver_sql(f"SET lock_timeout = {int(patience * 1000)}; SET statement_timeout = 0")
            try:
                session.execute(sa.select(sa.func.pg_advisory_lock(key)))
            except sa.exc.OperationalError as error:
                if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                    raise
                raise UnavailableError(f"{name} is still at work on another machine; wait for it") from error
            try:
                yield
            finally:
                session.invalidate()  # the connection is closed, and the lock with it
    finally:
        engine.dispose()
