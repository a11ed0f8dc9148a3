"""The SQL ledger: which partitions there are, which version serves, and which runs made them so.

The only ledger code. Every function takes an engine and is one transaction; what it returns is plain frozen data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from filelock import FileLock
from pydantic import BaseModel, ConfigDict
from sqlalchemy.engine import Connection, Engine, RowMapping

from flows.errors import ConflictError
from flows.settings import Settings

metadata = sa.MetaData()


class UtcDateTime(sa.TypeDecorator[datetime]):
    """A point in time, aware and in UTC on both sides of the database."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored; make it aware")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


partitions = sa.Table(
    "partitions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("model", sa.String(40), nullable=False),
    sa.Column("key", sa.String(80), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),  # sha256 of the rows as they came
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("status", sa.String(12), nullable=False),  # landed, accepted, quarantined, replaced
    sa.Column("uri", sa.Text, nullable=False),  # parquet of the raw rows as landed
    sa.Column("accepted_uri", sa.Text),  # parquet of the event rows that may be used
    sa.Column("rejected_uri", sa.Text),  # parquet of the rows that may not, with the reason
    sa.Column("docs_uri", sa.Text),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("accepted_rows", sa.Integer, nullable=False, default=0),
    sa.Column("rejected_rows", sa.Integer, nullable=False, default=0),
    sa.Column("reasons", sa.JSON, nullable=False, default=list),
    sa.Column("statistics", sa.JSON, nullable=False, default=dict),
    sa.Column("validation", sa.JSON, nullable=False, default=dict),
    sa.Column("first_event", UtcDateTime),
    sa.Column("last_event", UtcDateTime),
    sa.Column("landed_at", UtcDateTime, nullable=False),
    sa.Column("decided_at", UtcDateTime),
    sa.Column("featurized_at", UtcDateTime),
    sa.UniqueConstraint("model", "key", "revision"),
    sa.UniqueConstraint("model", "key", "digest"),
)

promotions = sa.Table(
    "promotions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("model", sa.String(40), nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(10), nullable=False),  # promote, rollback
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("previous_version", sa.Integer),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("model_uri", sa.Text, nullable=False),  # folder with model.skops and serving.json
    sa.Column("digest", sa.String(64), nullable=False),  # sha256 of serving.json, which holds that of model.skops
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("evidence", sa.JSON, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("model", "sequence"),  # the compare-and-set: one successor for each state
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),  # Prefect's flow run id, or a UUID without one
    sa.Column("model", sa.String(40), nullable=False),
    sa.Column("flow", sa.String(40), nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("state", sa.String(12), nullable=False),  # running, completed, failed
    sa.Column("executor", sa.Text, nullable=False),
    sa.Column("summary", sa.JSON, nullable=False, default=dict),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime),
)


class Record(BaseModel):
    """A row read from the ledger."""

    model_config = ConfigDict(frozen=True)


class Partition(Record):
    """One landed revision of a partition."""

    id: int
    model: str
    key: str
    revision: int
    digest: str
    source: str
    status: Literal["landed", "accepted", "quarantined", "replaced"]
    uri: str
    accepted_uri: str | None
    rejected_uri: str | None
    docs_uri: str | None
    rows: int
    accepted_rows: int
    rejected_rows: int
    reasons: list[str]
    statistics: dict[str, Any]
    validation: dict[str, Any]
    first_event: datetime | None
    last_event: datetime | None
    landed_at: datetime
    decided_at: datetime | None
    featurized_at: datetime | None


class Promotion(Record):
    """One transition of the champion."""

    id: int
    model: str
    sequence: int
    kind: Literal["promote", "rollback"]
    version: int
    previous_version: int | None
    run_id: str
    model_uri: str
    digest: str
    who: str
    why: str
    evidence: dict[str, Any]
    at: datetime


class Run(Record):
    """One flow run, as far as a person asks for it."""

    id: str
    model: str
    flow: str
    reason: str
    state: Literal["running", "completed", "failed"]
    executor: str
    summary: dict[str, Any]
    started_at: datetime
    ended_at: datetime | None


def now() -> datetime:
    """Return the present time, aware, in UTC."""
    return datetime.now(UTC)


def connect(settings: Settings) -> Engine:
    """Open the ledger and bring its schema up to date, once, under a lock.

    Six processes on a fresh home all succeed: one migrates, the others wait.
    """
    engine = make_engine(settings.ledger)
    with FileLock(settings.home / "ledger.lock", timeout=120):
        migrate(engine)
    return engine


def make_engine(url: str) -> Engine:
    """Make an engine; on SQLite with WAL, foreign keys and 30 s of patience for other writers."""
    engine = sa.create_engine(url, connect_args={"timeout": 30} if url.startswith("sqlite") else {})
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


def migrate(engine: Engine) -> None:
    """Run the alembic migrations that the database lacks."""
    from alembic import command
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current != ScriptDirectory.from_config(config).get_current_head():
        with write(engine) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


@contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """Open a writing transaction: committed at the end, rolled back on an error."""
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        yield connection


# --- partitions ---------------------------------------------------------------------------------------------------


def find_partition(engine: Engine, model: str, key: str, digest: str) -> Partition | None:
    """Return the revision of a partition that holds exactly these bytes, if it has landed before."""
    table = partitions.c
    with engine.connect() as connection:
        row = (
            connection.execute(
                sa.select(partitions).where(table.model == model, table.key == key, table.digest == digest)
            )
            .mappings()
            .first()
        )
    return Partition.model_validate(dict(row)) if row else None


def add_partition(
    engine: Engine, *, model: str, key: str, digest: str, source: str, uri: str, rows: int, reasons: Sequence[str] = ()
) -> Partition:
    """Record a landed partition as the next revision of its key; the same bytes again return the earlier record.

    ``reasons`` are what reading already found against it.
    """
    with write(engine) as connection:
        known = (
            connection.execute(
                sa.select(partitions).where(
                    partitions.c.model == model, partitions.c.key == key, partitions.c.digest == digest
                )
            )
            .mappings()
            .first()
        )
        if known is None:
            last = connection.scalar(
                sa.select(sa.func.max(partitions.c.revision)).where(
                    partitions.c.model == model, partitions.c.key == key
                )
            )
            values = {
                "model": model, "key": key, "revision": (last or 0) + 1, "digest": digest, "source": source,
                "status": "landed", "uri": uri, "rows": rows, "reasons": list(reasons), "landed_at": now(),
            }  # fmt: skip
            identity = connection.execute(partitions.insert().values(values)).inserted_primary_key
            assert identity is not None
            known = connection.execute(sa.select(partitions).where(partitions.c.id == identity[0])).mappings().one()
    return Partition.model_validate(dict(known))


def decide_partition(
    engine: Engine, partition_id: int, status: Literal["accepted", "quarantined"], **values: Any
) -> Partition:
    """Accept or quarantine a landed partition; accepting a revision replaces the accepted one before it, atomically.

    A revision that is decided late, after a newer one was accepted, does not come back: it is ``replaced`` at once.
    """
    own = partitions.c
    with write(engine) as connection:
        row = connection.execute(sa.select(partitions).where(own.id == partition_id)).mappings().one()
        accepted = sa.and_(own.model == row["model"], own.key == row["key"], own.status == "accepted")
        decided: str = status
        if status == "accepted":
            newest = connection.scalar(sa.select(sa.func.max(own.revision)).where(accepted))
            if newest is not None and newest > row["revision"]:
                decided = "replaced"
            else:
                others = sa.and_(accepted, own.id != partition_id)
                connection.execute(partitions.update().where(others).values(status="replaced"))
        connection.execute(
            partitions.update().where(own.id == partition_id).values(status=decided, decided_at=now(), **values)
        )
        row = connection.execute(sa.select(partitions).where(own.id == partition_id)).mappings().one()
    return Partition.model_validate(dict(row))


def list_partitions(engine: Engine, model: str, status: str | None = None) -> list[Partition]:
    """Return the partitions of a model in the order of their keys and revisions."""
    query = sa.select(partitions).where(partitions.c.model == model)
    if status:
        query = query.where(partitions.c.status == status)
    with engine.connect() as connection:
        rows = connection.execute(query.order_by(partitions.c.key, partitions.c.revision)).mappings().all()
    return [Partition.model_validate(dict(row)) for row in rows]


def mark_featurized(engine: Engine, ids: list[int]) -> None:
    """Record that the feature tables hold these partitions."""
    with write(engine) as connection:
        connection.execute(partitions.update().where(partitions.c.id.in_(ids)).values(featurized_at=now()))


# --- promotions ---------------------------------------------------------------------------------------------------


def champion(engine: Engine, model: str) -> Promotion | None:
    """Return the promotion in force."""
    history = list_promotions(engine, model, limit=1)
    return history[0] if history else None


def list_promotions(engine: Engine, model: str, limit: int | None = None) -> list[Promotion]:
    """Return the promotions of a model, newest first."""
    query = sa.select(promotions).where(promotions.c.model == model).order_by(promotions.c.sequence.desc()).limit(limit)
    with engine.connect() as connection:
        return [Promotion.model_validate(dict(row)) for row in connection.execute(query).mappings()]


def promote(
    engine: Engine,
    *,
    model: str,
    expected: Promotion | None,
    kind: Literal["promote", "rollback"],
    version: int,
    run_id: str,
    model_uri: str,
    digest: str,
    who: str,
    why: str,
    evidence: dict[str, Any],
) -> Promotion:
    """Make a version the champion if ``expected`` still is what the ledger's newest row says.

    Raises ConflictError if somebody promoted in between; the caller looks again and decides again.
    """
    sequence = expected.sequence + 1 if expected else 1
    try:
        with write(engine) as connection:
            last = connection.scalar(sa.select(sa.func.max(promotions.c.sequence)).where(promotions.c.model == model))
            if (last or 0) != sequence - 1:
                raise ConflictError(
                    f"{model}: the champion changed while version {version} was being promoted "
                    f"(expected promotion {sequence - 1}, found {last or 0}); look at `evergreen status` and try again"
                )
            identity = connection.execute(
                promotions.insert().values(
                    model=model, sequence=sequence, kind=kind, version=version,
                    previous_version=expected.version if expected else None, run_id=run_id, model_uri=model_uri,
                    digest=digest, who=who, why=why, evidence=evidence, at=now(),
                )
            ).inserted_primary_key  # fmt: skip
            assert identity is not None
            row: RowMapping = (
                connection.execute(sa.select(promotions).where(promotions.c.id == identity[0])).mappings().one()
            )
    except sa.exc.IntegrityError as error:  # the unique key decided, on a database that lets two insert at once
        raise ConflictError(
            f"{model}: version {version} was not promoted, another promotion came first; try again"
        ) from error
    return Promotion.model_validate(dict(row))


# --- runs ---------------------------------------------------------------------------------------------------------


def start_run(engine: Engine, *, run_id: str, model: str, flow: str, reason: str, executor: str) -> None:
    """Record that a flow run began; a retry of the same run begins again."""
    values = {
        "model": model, "flow": flow, "reason": reason, "state": "running", "executor": executor, "summary": {},
        "started_at": now(), "ended_at": None,
    }  # fmt: skip
    with write(engine) as connection:
        if not connection.execute(runs.update().where(runs.c.id == run_id).values(values)).rowcount:
            connection.execute(runs.insert().values(id=run_id, **values))


def end_run(engine: Engine, run_id: str, state: Literal["completed", "failed"], summary: dict[str, Any]) -> None:
    """Record how a flow run ended."""
    with write(engine) as connection:
        connection.execute(
            runs.update().where(runs.c.id == run_id).values(state=state, summary=summary, ended_at=now())
        )


def last_runs(engine: Engine, model: str, limit: int = 10) -> list[Run]:
    """Return the newest runs of a model, newest first."""
    query = sa.select(runs).where(runs.c.model == model).order_by(runs.c.started_at.desc()).limit(limit)
    with engine.connect() as connection:
        return [Run.model_validate(dict(row)) for row in connection.execute(query).mappings()]
