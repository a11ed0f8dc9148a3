"""The ledger's database: its tables, how it is opened, brought up to date and written to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from flows.engines import PATIENCE_SECONDS, WRITERS, make_engine
from flows.errors import UnavailableError
from flows.locks import locked
from flows.secret import shown
from flows.settings import Settings

if TYPE_CHECKING:
    from alembic.config import Config

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
    sa.Column("accepted_sha256", sa.String(64)),  # of that file; none for one that was written before it was recorded
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
    sa.Column("state", sa.String(12), nullable=False),  # one of flows.run_records.State
    sa.Column("executor", sa.Text, nullable=False),
    sa.Column("summary", sa.JSON, nullable=False, default=dict),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime),
)


causes = sa.Table(
    "causes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("key", sa.String(80), nullable=False, unique=True),  # goes with the event, so that it counts once
    sa.Column("model", sa.String(40), nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),  # one of flows.events.Kind
    sa.Column("event", sa.String(80), nullable=False),  # the event that tells of it; empty where none does
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("payload", sa.JSON, nullable=False, default=dict),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("sent_at", UtcDateTime),  # when the server last took the event
    sa.Column("claimed_by", sa.String(64)),  # the run that answers it
    sa.Column("claimed_at", UtcDateTime),
    sa.Column("answered_at", UtcDateTime),
    sa.Column("outcome", sa.Text),
)

arrivals = sa.Table(
    "arrivals",
    metadata,
    sa.Column("model", sa.String(40), primary_key=True),
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("modified_ns", sa.BigInteger, nullable=False),
    sa.Column("taken_at", UtcDateTime, nullable=False),
)

trials = sa.Table(
    "trials",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("model", sa.String(40), nullable=False),
    sa.Column("kind", sa.String(10), nullable=False),  # shadow, canary
    sa.Column("state", sa.String(10), nullable=False),  # running, passed, failed, stopped
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("model_uri", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("champion_version", sa.Integer, nullable=False),
    sa.Column("champion_sequence", sa.Integer, nullable=False),  # the promotion that it may take the place of
    sa.Column("rollout", sa.JSON, nullable=False),  # flows.spec.Rollout
    sa.Column("tallies", sa.JSON, nullable=False),  # what each process of the service counted
    sa.Column("evidence", sa.JSON, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime),
)
RUNNING = sa.text("state = 'running'")
sa.Index("one_trial", trials.c.model, unique=True, sqlite_where=RUNNING, postgresql_where=RUNNING)


CLOCKS_APART = timedelta(hours=1)  # of two hosts, at most; a time further ahead is of a clock that is set wrong


def now() -> datetime:
    """Return the present time, aware, in UTC."""
    return datetime.now(UTC)


def connect(settings: Settings, patience: float = PATIENCE_SECONDS) -> Engine:
    """Open the ledger and bring its schema up to date, once, under a lock.

    Six processes on a fresh home all succeed: one migrates, the others wait. A Postgres that does not answer is asked
    again for ``patience`` seconds, now and whenever the engine connects; raises UnavailableError after that.
    """
    engine = make_engine(settings.ledger, patience)
    if engine.dialect.name == "postgresql":  # one that is away is seen here, not by one after the other under the lock
        try:
            engine.connect().close()
        except sa.exc.OperationalError as error:
            engine.dispose()
            said = str(error.orig).splitlines()[0]
            raise UnavailableError(
                f"the ledger at {shown(settings.ledger)} does not answer ({said}); `evergreen doctor` says how to mend it"
            ) from error
    with locked(settings, "ledger", 120):
        migrate(engine)
    return engine


def migrate(engine: Engine) -> None:
    """Run the alembic migrations that the database lacks; one of a newer Evergreen is left as it is.

    Migrations only ever add, or loosen a rule, so that a version of the pipeline can be put back after a newer one has migrated.
    """
    from alembic import command

    current, head = revisions(engine)
    if current is None or (head is not None and current < head):
        config = _alembic()
        with write(engine) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def revisions(engine: Engine) -> tuple[str | None, str | None]:
    """Return the schema that the database has, None for an empty one, and the schema that this code writes."""
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return current, ScriptDirectory.from_config(_alembic()).get_current_head()


def _alembic() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


@contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """Open a writing transaction: committed at the end, rolled back on an error. Writers take turns, on any database."""
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(WRITERS)))
        yield connection
