"""The trials of challengers in the ledger: shadow and canary, at most one at a time for a model.

A trial leaves the champion alone. It ends once, by compare-and-set, with its evidence: passed or failed by its flow,
failed by the service, or stopped by a person or by another promotion. Every function is one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from flows.database import now, trials, write
from flows.errors import ConflictError
from flows.ledger import Promotion, Record
from flows.spec import Rollout

Kind = Literal["shadow", "canary"]
End = Literal["passed", "failed", "stopped"]


class Trial(Record):
    """One version beside the champion; ``tallies`` are what each process of the service counted, by its name."""

    id: int
    model: str
    kind: Kind
    state: Literal["running", "passed", "failed", "stopped"]
    version: int
    run_id: str
    model_uri: str
    digest: str
    champion_version: int
    champion_sequence: int
    rollout: Rollout
    tallies: dict[str, dict[str, Any]]
    evidence: dict[str, Any]
    who: str
    why: str
    outcome: str | None
    started_at: datetime
    ended_at: datetime | None

    def as_promotion(self) -> Promotion:
        """Return the promotion that the trial would become, by which its files are found and checked."""
        return Promotion(
            id=0, model=self.model, sequence=self.champion_sequence + 1, kind="promote", version=self.version,
            previous_version=self.champion_version, run_id=self.run_id, model_uri=self.model_uri, digest=self.digest,
            who=self.who, why=self.why, evidence=self.evidence, at=self.started_at,
        )  # fmt: skip


def begin(
    engine: Engine,
    *,
    kind: Kind,
    champion: Promotion,
    version: int,
    run_id: str,
    model_uri: str,
    digest: str,
    rollout: Rollout,
    who: str,
    why: str,
) -> Trial:
    """Begin a trial of a version beside a champion; raises ConflictError if another trial of the model runs."""
    try:
        with write(engine) as connection:
            running_now = _select(connection, _runs(champion.model))
            if running_now:
                raise ConflictError(_busy(running_now[0]))
            identity = connection.execute(
                trials.insert().values(
                    model=champion.model, kind=kind, state="running", version=version, run_id=run_id,
                    model_uri=model_uri, digest=digest, champion_version=champion.version,
                    champion_sequence=champion.sequence, rollout=rollout.model_dump(mode="json"), tallies={},
                    evidence={}, who=who, why=why, started_at=now(),
                )
            ).inserted_primary_key  # fmt: skip
            assert identity is not None
            return _select(connection, trials.c.id == identity[0])[0]
    except sa.exc.IntegrityError as error:  # the index decided, on a database that lets two insert at once
        raise ConflictError(f"{champion.model}: another trial began first; see `evergreen trial`") from error


def end(engine: Engine, trial_id: int, state: End, outcome: str, evidence: Mapping[str, Any]) -> bool:
    """End a trial that runs; return False, and change nothing, if it had ended before."""
    values = {"state": state, "outcome": outcome, "evidence": dict(evidence), "ended_at": now()}
    one = sa.and_(trials.c.id == trial_id, trials.c.state == "running")
    with write(engine) as connection:
        return bool(connection.execute(trials.update().where(one).values(values)).rowcount)


def refuse_passed(engine: Engine, trial_id: int, outcome: str) -> None:
    """Make a passed trial a failed one: what should have followed was refused."""
    one = sa.and_(trials.c.id == trial_id, trials.c.state == "passed")
    with write(engine) as connection:
        connection.execute(trials.update().where(one).values(state="failed", outcome=outcome))


def report(engine: Engine, trial_id: int, process: str, tally: Mapping[str, Any]) -> None:
    """Keep what a process of the service has counted so far; what others have counted stays."""
    with write(engine) as connection:
        found = _select(connection, trials.c.id == trial_id)
        if found:
            tallies = {**found[0].tallies, process: dict(tally)}
            connection.execute(trials.update().where(trials.c.id == trial_id).values(tallies=tallies))


def running(engine: Engine, model: str) -> Trial | None:
    """Return the trial of a model that runs."""
    with engine.connect() as connection:
        found = _select(connection, _runs(model))
    return found[0] if found else None


def get(engine: Engine, trial_id: int) -> Trial:
    """Return a trial as it is now."""
    with engine.connect() as connection:
        return _select(connection, trials.c.id == trial_id)[0]


def listed(engine: Engine, model: str) -> list[Trial]:
    """Return all trials of a model, newest first."""
    with engine.connect() as connection:
        return _select(connection, trials.c.model == model)


def has_tried(engine: Engine, model: str, version: int) -> bool:
    """Say whether a version is on trial, or was and did not pass: it is not promoted, nor tried again, by itself."""
    mine = sa.and_(trials.c.model == model, trials.c.version == version, trials.c.state != "passed")
    with engine.connect() as connection:
        return bool(_select(connection, mine))


def _busy(trial: Trial) -> str:
    return (
        f"{trial.model}: version {trial.version} is on trial as {trial.kind}; wait for its end, or stop it with "
        "`evergreen trial --stop`"
    )


def _runs(model: str) -> sa.ColumnElement[bool]:
    return sa.and_(trials.c.model == model, trials.c.state == "running")


def _select(connection: Connection, where: sa.ColumnElement[bool]) -> list[Trial]:
    rows = connection.execute(sa.select(trials).where(where).order_by(trials.c.id.desc())).mappings()
    return [Trial.model_validate(dict(row)) for row in rows]
