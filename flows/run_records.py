"""The flow runs in the ledger: who began which when and why, how each ended, and what it has to tell.

Every function takes an engine and is one transaction; what it returns is plain frozen data.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from flows.database import now, runs, write
from flows.ledger import Record

State = Literal["running", "completed", "failed", "crashed", "cancelled"]
OF_AN_END = ("error", "stages", "resumed")  # in a summary: what tells of one attempt alone


class Run(Record):
    """One flow run, as far as a person asks for it."""

    id: str
    model: str
    flow: str
    reason: str
    state: State
    executor: str
    summary: dict[str, Any]
    started_at: datetime
    ended_at: datetime | None


def start(engine: Engine, *, run_id: str, model: str, flow: str, reason: str, executor: str) -> dict[str, Any]:
    """Record that a flow run began; a retry of the same run begins again, with what it had to tell before, which is returned."""
    with write(engine) as connection:
        before = connection.scalar(sa.select(runs.c.summary).where(runs.c.id == run_id))
        told = {name: value for name, value in (before or {}).items() if name not in OF_AN_END}
        values = {
            "model": model, "flow": flow, "reason": reason, "state": "running", "executor": executor, "summary": told,
            "started_at": now(), "ended_at": None,
        }  # fmt: skip
        if before is None:
            connection.execute(runs.insert().values(id=run_id, **values))
        else:
            connection.execute(runs.update().where(runs.c.id == run_id).values(values))
    return told


def end(engine: Engine, run_id: str, state: State, summary: dict[str, Any]) -> None:
    """Record how a flow run ended."""
    with write(engine) as connection:
        connection.execute(
            runs.update().where(runs.c.id == run_id).values(state=state, summary=summary, ended_at=now())
        )


def note(engine: Engine, run_id: str, summary: dict[str, Any]) -> None:
    """Record what a run that is under way has to tell already; it stands where the run is killed."""
    with write(engine) as connection:
        connection.execute(runs.update().where(runs.c.id == run_id).values(summary=summary))


def under_way(engine: Engine, model: str) -> list[Run]:
    """Return the runs of a model that have begun and not ended, as far as they could say so, oldest first."""
    query = sa.select(runs).where(runs.c.model == model, runs.c.state == "running").order_by(runs.c.started_at)
    with engine.connect() as connection:
        return [Run.model_validate(dict(row)) for row in connection.execute(query).mappings()]


def last_completed(engine: Engine, model: str, flow: str) -> Run | None:
    """Return the newest run of a model's flow that came to its end."""
    wanted = sa.and_(runs.c.model == model, runs.c.flow == flow, runs.c.state == "completed")
    query = sa.select(runs).where(wanted).order_by(runs.c.started_at.desc()).limit(1)
    with engine.connect() as connection:
        found = connection.execute(query).mappings().first()
    return Run.model_validate(dict(found)) if found else None


def since_completed(engine: Engine, model: str, flow: str) -> list[Run]:
    """Return the runs of a model's flow from the newest one on that came to its end, newest first."""
    last = last_completed(engine, model, flow)
    wanted = [runs.c.model == model, runs.c.flow == flow, *([runs.c.started_at >= last.started_at] if last else [])]
    with engine.connect() as connection:
        rows = connection.execute(sa.select(runs).where(*wanted).order_by(runs.c.started_at.desc())).mappings()
        return [Run.model_validate(dict(row)) for row in rows]


def newest(engine: Engine, model: str, limit: int | None = 10, flow: str | None = None) -> list[Run]:
    """Return the newest runs of a model, or of one of its flows, newest first; all of them if there is no limit."""
    wanted = runs.c.model == model if flow is None else sa.and_(runs.c.model == model, runs.c.flow == flow)
    query = sa.select(runs).where(wanted).order_by(runs.c.started_at.desc()).limit(limit)
    with engine.connect() as connection:
        return [Run.model_validate(dict(row)) for row in connection.execute(query).mappings()]
