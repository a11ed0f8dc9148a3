"""The SQL ledger: which partitions there are, and which version serves.

Every function takes an engine and is one transaction; what it returns is plain frozen data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict
from sqlalchemy.engine import Engine, RowMapping

from flows.database import now, partitions, promotions, trials, write
from flows.errors import ConflictError

LABELLED_UNTIL = "labelled_until"  # among a partition's statistics
ROWS = "rows"  # in its validation: the hash of what made its event rows
BY = "by"  # there too: the command that brought the rows, ingest or label
FEATURED = "featured"  # there too: first and last event of rows that the features know, or may know after a kill


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
    accepted_sha256: str | None = None
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

    @property
    def labelled_until(self) -> datetime | None:
        """Return the time of the newest event with a label; where that was not recorded yet, of the newest event."""
        if self.last_event is None or LABELLED_UNTIL not in self.statistics:
            return self.last_event
        found = self.statistics[LABELLED_UNTIL]
        return min(datetime.fromisoformat(found), self.last_event) if found else None

    @property
    def featured(self) -> tuple[datetime, datetime] | None:
        """Return the times of the first and the last of its rows, or of those that it had, in the feature tables."""
        if self.featurized_at is None and FEATURED in self.validation:
            first, last = map(datetime.fromisoformat, self.validation[FEATURED])
            return first, last
        if self.featurized_at and self.first_event and self.last_event:
            return self.first_event, self.last_event
        return None


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


# --- partitions ---------------------------------------------------------------------------------------------------


def find_partition(engine: Engine, model: str, key: str, digest: str) -> Partition | None:
    """Return the newest revision of a partition that holds exactly these rows, if they have landed before."""
    with engine.connect() as connection:
        row = connection.execute(_revisions(model, key, digest)).mappings().first()
    return Partition.model_validate(dict(row)) if row else None


def _revisions(model: str, key: str, digest: str) -> sa.Select[Any]:
    own = partitions.c
    mine = sa.and_(own.model == model, own.key == key, own.digest == digest)
    return sa.select(partitions).where(mine).order_by(own.revision.desc())


def add_partition(
    engine: Engine,
    *,
    model: str,
    key: str,
    digest: str,
    source: str,
    uri: str,
    rows: int,
    reasons: Sequence[str] = (),
    again: bool = False,
    by: str = "ingest",
) -> Partition:
    """Record a landed partition as the next revision of its key; the same rows again return the earlier record.

    With ``again`` rows that another revision has replaced become the next one. ``reasons`` are what reading already found
    against it, ``by`` is the command that brought it.
    """
    with write(engine) as connection:
        known = connection.execute(_revisions(model, key, digest)).mappings().first()
        if known is None or (again and known["status"] == "replaced"):
            last = connection.scalar(
                sa.select(sa.func.max(partitions.c.revision)).where(
                    partitions.c.model == model, partitions.c.key == key
                )
            )
            values = {
                "model": model, "key": key, "revision": (last or 0) + 1, "digest": digest, "source": source,
                "status": "landed", "uri": uri, "rows": rows, "reasons": list(reasons), "validation": {BY: by},
                "landed_at": now(),
            }  # fmt: skip
            identity = connection.execute(partitions.insert().values(values)).inserted_primary_key
            assert identity is not None
            known = connection.execute(sa.select(partitions).where(partitions.c.id == identity[0])).mappings().one()
    return Partition.model_validate(dict(known))


def decide_partition(
    engine: Engine,
    partition_id: int,
    status: Literal["accepted", "quarantined"],
    *,
    is_same: bool = False,
    **values: Any,
) -> Partition:
    """Accept or quarantine a landed partition; accepting a revision replaces the accepted one before it, atomically.

    A revision that is decided late, after a newer one was accepted, does not come back: it is ``replaced`` at once. With
    ``is_same`` the accepted rows are those that it had: they are no news, and the features know them.
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
        held = Partition.model_validate(dict(row)).featured
        if not is_same and row["accepted_sha256"] != values.get("accepted_sha256"):
            # They were made anew, by code that has changed since, or are refused now: the features know the old ones.
            values["featurized_at"] = None
        if held and (row["featurized_at"] is None or "featurized_at" in values):
            known = [moment.isoformat() for moment in held]
            values["validation"] = {**values.get("validation", {}), FEATURED: known}
        decided_at = row["decided_at"] if is_same else now()
        connection.execute(
            partitions.update().where(own.id == partition_id).values(status=decided, decided_at=decided_at, **values)
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


def mark_begun(engine: Engine, begun: Sequence[Partition]) -> None:
    """Record, before a value is written, that the feature tables may hold these partitions, if the run is killed."""
    own = partitions.c
    with write(engine) as connection:
        for one in begun:
            if one.first_event is None or one.last_event is None:
                continue
            row = connection.execute(sa.select(partitions).where(own.id == one.id)).mappings().one()
            now_known = Partition.model_validate(dict(row))
            low, high = now_known.featured or (one.first_event, one.last_event)
            span = [min(low, one.first_event).isoformat(), max(high, one.last_event).isoformat()]
            validation = {**now_known.validation, FEATURED: span}
            connection.execute(partitions.update().where(own.id == one.id).values(validation=validation))


def mark_featurized(
    engine: Engine, ids: Sequence[int], moment: datetime, rows: Mapping[int, str | None] | None = None
) -> None:
    """Record that the feature tables hold these partitions, as far as there were ticks at a moment.

    One whose accepted rows are no longer those with the hash that ``rows`` says, by its id, waits for its features still.
    """
    own = partitions.c
    with write(engine) as connection:
        known = connection.execute(sa.select(own.id, own.accepted_sha256).where(own.id.in_(ids))).all()
        same = [number for number, digest in known if rows is None or rows.get(number) == digest]
        connection.execute(partitions.update().where(own.id.in_(same)).values(featurized_at=moment))


def newest_featurized(engine: Engine, model: str) -> datetime | None:
    """Return the time of the newest event that the feature tables know of."""
    table = partitions.c
    query = sa.select(sa.func.max(table.last_event)).where(table.model == model, table.featurized_at.is_not(None))
    with engine.connect() as connection:
        found: datetime | None = connection.scalar(query)
    return found


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


def highest_version(engine: Engine, model: str) -> int:
    """Return the highest number of a version that was promoted or on trial, 0 if none was."""
    with engine.connect() as connection:
        found = [
            connection.scalar(sa.select(sa.func.max(table.c.version)).where(table.c.model == model))
            for table in (promotions, trials)
        ]
    return max(one or 0 for one in found)


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
