"""The causes of trainings in the ledger: recorded once, kept until they are sent, claimed by one run, answered by it.

An event may come twice, or never; a cause is here until a training has answered it. Every function is one transaction.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from flows.database import CLOCKS_APART, causes, now, runs, write
from flows.events import Kind
from flows.ledger import Record

FORGOTTEN = timedelta(hours=6)  # a claim so old is given up: its run may have been killed where nobody can tell


class Cause(Record):
    """Why a training may be due. ``key`` is what makes it count once; ``payload`` holds what the event tells."""

    id: int
    key: str
    model: str
    kind: Kind
    event: str
    reason: str
    payload: dict[str, Any]
    at: datetime
    sent_at: datetime | None
    claimed_by: str | None
    claimed_at: datetime | None
    answered_at: datetime | None
    outcome: str | None


def record(
    engine: Engine,
    *,
    model: str,
    kind: Kind,
    event: str,
    reason: str,
    payload: dict[str, Any] | None = None,
    key: str | None = None,
) -> Cause:
    """Record a cause and return it.

    With a ``key`` that is known already, the cause is as it was. Without one, a cause of the same kind that still waits
    is brought up to date, so that a state that lasts is one cause, however often it is found.
    """
    values = {"reason": reason, "payload": payload or {}, "event": event}
    with write(engine) as connection:
        if key is None:
            waiting = _select(connection, _waits(model), causes.c.kind == kind)
            if waiting:
                connection.execute(
                    causes.update().where(causes.c.id == waiting[0].id).values(sent_at=None, at=now(), **values)
                )
                return _select(connection, causes.c.id == waiting[0].id)[0]
        else:
            known = _select(connection, causes.c.key == key)
            if known:
                return known[0]
        name = key or str(uuid.uuid4())
        connection.execute(causes.insert().values(key=name, model=model, kind=kind, at=now(), **values))
        return _select(connection, causes.c.key == name)[0]


def waiting(engine: Engine, model: str) -> list[Cause]:
    """Return the causes that no run has claimed, oldest first; those older than the last training are answered by it.

    It does not matter who started that training. Causes whose run ended without an answer are among those returned, and
    count as never sent: their event was taken by a run that was killed.
    """
    trained = sa.and_(
        runs.c.model == model, runs.c.flow == "train", runs.c.state == "completed",
        runs.c.started_at <= now() + CLOCKS_APART,  # one of a wrong clock would answer all that is to come
    )  # fmt: skip
    with engine.connect() as connection:
        last = connection.execute(sa.select(sa.func.max(runs.c.started_at)).where(trained)).scalar()
    if last:
        settle(engine, model, last, f"answered by the training of {last:%Y-%m-%d %H:%M} UTC")
    ended = sa.select(runs.c.id).where(runs.c.state != "running")
    lost = sa.or_(causes.c.claimed_by.in_(ended), causes.c.claimed_at < now() - FORGOTTEN)
    with write(engine) as connection:
        open_claim = sa.and_(causes.c.model == model, causes.c.answered_at.is_(None), causes.c.claimed_by.is_not(None))
        connection.execute(
            causes.update().where(open_claim, lost).values(claimed_by=None, claimed_at=None, sent_at=None)
        )
        return _select(connection, _waits(model))


def claim(engine: Engine, ids: Sequence[int], run_id: str) -> list[Cause]:
    """Claim causes for a run and return those that it has: each is claimed by one run only."""
    free = sa.and_(causes.c.id.in_(ids), causes.c.claimed_by.is_(None), causes.c.answered_at.is_(None))
    with write(engine) as connection:
        connection.execute(causes.update().where(free).values(claimed_by=run_id, claimed_at=now()))
        return _select(connection, _claimed(run_id))


def claimed(engine: Engine, run_id: str) -> list[Cause]:
    """Return the causes that a run has claimed and not answered: not empty in a run that was broken off and goes on."""
    with engine.connect() as connection:
        return _select(connection, _claimed(run_id))


def release(engine: Engine, run_id: str) -> None:
    """Give back what a run has claimed and not answered."""
    with write(engine) as connection:
        connection.execute(causes.update().where(_claimed(run_id)).values(claimed_by=None, claimed_at=None))


def answer(engine: Engine, run_id: str, outcome: str) -> None:
    """Record what came of the causes that a run has claimed."""
    with write(engine) as connection:
        connection.execute(causes.update().where(_claimed(run_id)).values(answered_at=now(), outcome=outcome))


def settle(engine: Engine, model: str, before: datetime, outcome: str) -> None:
    """Answer the causes that waited when a training began: it saw all that they tell of."""
    with write(engine) as connection:
        old = sa.and_(_waits(model), causes.c.at < before)
        connection.execute(causes.update().where(old).values(answered_at=now(), outcome=outcome))


def mark_sent(engine: Engine, cause_id: int) -> None:
    """Record that the server took the event of a cause."""
    with write(engine) as connection:
        connection.execute(causes.update().where(causes.c.id == cause_id).values(sent_at=now()))


def mark_unsent(engine: Engine, model: str) -> None:
    """Record that the causes that wait have to be told again: the run that their event started left them to another."""
    with write(engine) as connection:
        connection.execute(causes.update().where(_waits(model)).values(sent_at=None))


def listed(engine: Engine, model: str) -> list[Cause]:
    """Return all causes of a model, newest first."""
    with engine.connect() as connection:
        return _select(connection, causes.c.model == model)[::-1]


def _waits(model: str) -> sa.ColumnElement[bool]:
    return sa.and_(causes.c.model == model, causes.c.answered_at.is_(None), causes.c.claimed_by.is_(None))


def _claimed(run_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(causes.c.claimed_by == run_id, causes.c.answered_at.is_(None))


def _select(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Cause]:
    rows = connection.execute(sa.select(causes).where(*where).order_by(causes.c.at, causes.c.id)).mappings()
    return [Cause.model_validate(dict(row)) for row in rows]
