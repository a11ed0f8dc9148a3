"""How a database is opened: SQLite for many processes, Postgres with patience and a bound on every wait."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

PATIENCE_SECONDS = 30.0  # for other writers, and for a Postgres that is being restarted
PAUSE_SECONDS = 0.2
WRITERS = 0x45564552  # the advisory lock of whoever writes to the ledger
# A wait for a lock ends, and so does a transaction whose process hangs; a host that is gone is noticed within a minute.
POSTGRES = {
    "connect_timeout": 10, "application_name": "evergreen", "keepalives_idle": 20, "keepalives_interval": 10,
    "keepalives_count": 3, "tcp_user_timeout": 60_000,
    "options": "-c lock_timeout=60s -c statement_timeout=300s -c idle_in_transaction_session_timeout=120s "
    "-c tcp_keepalives_idle=20 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3 -c timezone=UTC",
}  # fmt: skip


def make_engine(url: str, patience: float = PATIENCE_SECONDS) -> Engine:
    """Make an engine; on SQLite with WAL, synced writes and 30 s of patience for other writers.

    On Postgres a connection is tried before it is used, and a server that does not take one is asked again for
    ``patience`` seconds: it comes back within them after a restart.
    """
    if url.startswith("postgresql"):
        return _postgres(url, patience)
    waits = {"timeout": 30} if url.startswith("sqlite") else {}
    engine = sa.create_engine(url, connect_args=waits, json_serializer=_json)
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def _pragmas(connection: Any, _: Any) -> None:
            connection.isolation_level = None  # BEGIN is ours, see below
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")

        @sa.event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            # A deferred transaction that reads and then writes fails at once when another writer came between.
            connection.exec_driver_sql(
                "BEGIN IMMEDIATE" if connection.get_execution_options().get("write") else "BEGIN"
            )

    return engine


def _postgres(url: str, patience: float) -> Engine:
    address = sa.make_url(url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(
        address, connect_args=POSTGRES, pool_pre_ping=True, pool_recycle=1800, json_serializer=_json
    )

    @sa.event.listens_for(engine, "do_connect")
    def _connect(dialect: sa.Dialect, _: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        assert dialect.dbapi is not None
        deadline = time.monotonic() + patience
        while True:
            try:
                return dialect.connect(*arguments, **options)
            except dialect.dbapi.OperationalError as error:
                refused = "password authentication" in str(error) or "does not exist" in str(error)
                if refused or time.monotonic() >= deadline:
                    raise
                time.sleep(PAUSE_SECONDS)

    return engine


def _json(value: Any) -> str:
    """Return a value as JSON, with null for floats that it does not know: Postgres takes no other, and refuses the row."""
    return json.dumps(finite(value), allow_nan=False)


def finite(value: Any) -> Any:
    """Return a value with None for floats that JSON does not know."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
