"""Ingest: land a source by period, judge each partition, accept it or put it into quarantine, and say so."""

from __future__ import annotations

from typing import Any

from filelock import FileLock
from prefect import flow
from prefect.events import emit_event

from flows import database, events, ledger
from flows.errors import BrokenCheckError, UnavailableError
from flows.ledger import Partition
from flows.runs import recorded, stage
from flows.settings import load
from flows.spec import load_model
from flows.steps import docs, judging, landing
from flows.steps.periods import parse_kind
from flows.steps.reading import connect

PATIENCE_SECONDS = 600


def _may_pass(_task: Any, _run: Any, state: Any) -> bool:
    """Say whether trying again may help: it does for a server that was away, not for a wrong call."""
    return isinstance(state.result(raise_on_failure=False), UnavailableError)


land = stage(landing.land, retries=2, retry_delay_seconds=[1, 10], retry_condition_fn=_may_pass)
decide = stage(judging.decide, task_run_name="decide {partition.key}")
write_index = stage(docs.write_index)


@flow(name="ingest")
def ingest(source: str, model: str = "taxi", partition_by: str | None = None) -> list[dict[str, Any]]:
    """Land a source and decide on its partitions; return a summary of each, those that were known before included.

    One run at a time works on a model. A run that broke off is made good by the next one of the same source: what has
    landed is not landed again, what is not decided is decided. Raises UsageError for a source, model or period that is
    not there, and BrokenCheckError if a check could not be evaluated, after all other partitions were decided.
    """
    home = load()
    spec = load_model(model, home)
    engine = database.connect(home)
    kind = parse_kind(partition_by or spec.partition_by)
    with (
        recorded(engine, model, "ingest") as run,
        FileLock(home.home / f"ingest-{model}.lock", PATIENCE_SECONDS),
        connect(home.home) as connection,
    ):
        landed = land(source, spec, home, engine, kind, connection)
        partitions = landed.partitions
        bench = judging.Bench(connection, spec, home, engine, landed)
        broken = []
        for number, partition in enumerate(partitions):
            if judging.is_open(partition, bench):
                try:
                    partitions[number] = decide(bench, partition)
                except BrokenCheckError as error:
                    broken.append(str(error))
                else:
                    announce(partitions[number])
        write_index(home, spec, ledger.list_partitions(engine, model))
        run.summary = judging.counts(partitions)
        if broken:
            raise BrokenCheckError("; ".join(broken))
    return [judging.summary(partition) for partition in partitions]


def announce(partition: Partition) -> None:
    """Emit the event of a decision; a revision that came too late to be used says nothing."""
    names = {"accepted": events.PARTITION_ACCEPTED, "quarantined": events.PARTITION_QUARANTINED}
    if partition.status in names:
        emit_event(
            event=names[partition.status],
            resource=events.resource(partition.model),
            payload={"partition": partition.key, **judging.summary(partition)},
        )
