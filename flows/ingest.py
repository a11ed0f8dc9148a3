"""Ingest: land what arrived by period, judge each partition, accept it or put it into quarantine, and say so."""

from __future__ import annotations

import uuid
from typing import Any

from prefect import flow, get_client, get_run_logger
from prefect.events import emit_event
from prefect.runtime import flow_run
from sqlalchemy.engine import Engine

from flows import arrivals, database, events, ledger, outbox
from flows.errors import BrokenCheckError, CancelledError, EvergreenError, UnavailableError
from flows.featurize import featurize as update_features
from flows.ledger import Partition
from flows.locks import locked
from flows.lookup import load_model
from flows.runs import recorded, run_name, stage
from flows.secret import shown
from flows.settings import Settings, load
from flows.spec import ModelSpec
from flows.steps import decision, docs, judging, landing
from flows.steps.in_memory import connect
from flows.steps.periods import Kind, parse_kind
from flows.steps.sources import SUFFIXES

PATIENCE_SECONDS = 600


def _may_pass(_task: Any, _run: Any, state: Any) -> bool:
    """Say whether trying again may help: it does for a server that was away, not for a wrong call."""
    return isinstance(state.result(raise_on_failure=False), UnavailableError)


land = stage(landing.land, retries=2, retry_delay_seconds=[1, 10], retry_condition_fn=_may_pass)
decide = stage(judging.decide, task_run_name="decide {partition.key}")
write_index = stage(docs.write_index)


@flow(name="ingest", flow_run_name=run_name)
def ingest(
    source: str | None = None,
    model: str = "taxi",
    partition_by: str | None = None,
    featurize: bool = False,
    again: bool = False,
) -> list[dict[str, Any]]:
    """Land a source and decide on its partitions; return a summary of each, those that were known before included.

    When enough partitions were accepted, the cause of a training is raised. One run at a time works on a model. A run that
    broke off is made good by the next one of the same source: what has landed is not landed again, what is not decided is
    decided. Raises UsageError for a source, model or period that is not there, and BrokenCheckError if a check could not be
    evaluated, after all other partitions were decided.

    Args:
        source: Parquet or CSV file, folder, glob, http(s) or s3 URL; without one, the new files of the landing folder.
        model: Name of the model.
        partition_by: day, week or month, if another than the model's.
        featurize: Bring the features up to date as well.
        again: Take it as it is: rows that a later revision has replaced become the newest once more, and what is there of
            another part of the period is replaced as well.
    """
    home = load()
    spec = load_model(model, home)
    engine = database.connect(home)
    kind = parse_kind(partition_by or spec.partition_by)
    hide_secrets(source)
    with recorded(engine, model, "ingest") as run:
        with locked(home, f"ingest-{model}", PATIENCE_SECONDS):
            partitions, broken = take(home, spec, engine, kind, source, again)
            write_index(home, spec, ledger.list_partitions(engine, model))
        run.summary = judging.counts(partitions)
        if featurize:
            update_features(model=model)
        raise_if_enough(engine, spec)
        if broken:
            raise told(broken, partitions)
    return [judging.summary(partition) for partition in partitions]


def hide_secrets(source: str | None) -> None:
    """Take user, password and query of a URL out of the parameters that the server keeps and shows for this run.

    A retry of the run then has to be given the address anew.
    """
    harmless = shown(source) if source else source
    if harmless != source and flow_run.id:
        with get_client(sync_client=True) as client:
            client.update_flow_run(uuid.UUID(flow_run.id), parameters={**flow_run.parameters, "source": harmless})


def take(
    home: Settings, spec: ModelSpec, engine: Engine, kind: Kind, source: str | None, again: bool
) -> tuple[list[Partition], list[EvergreenError]]:
    """Land and judge a source, or each new file of the landing folder; return the partitions, and errors of the rest."""
    if source is not None:
        return land_and_judge(home, spec, engine, kind, source, again)
    found: dict[int, Partition] = {}
    broken: list[EvergreenError] = []
    folder = home.landing(spec.name)
    left = arrivals.foreign(folder)
    if left:
        ends = ", ".join(SUFFIXES)
        get_run_logger().warning(f"{folder}: {len(left)} files do not end in {ends} and are left ({left[0]!r})")
    unnamed = arrivals.unnamed(folder)
    if unnamed:
        get_run_logger().warning(f"{len(unnamed)} files have names that are not in UTF-8; rename them ({unnamed[0]!r})")
    for arrival in arrivals.whole(arrivals.untaken(engine, spec.name, folder)):
        try:
            partitions, errors = land_and_judge(home, spec, engine, kind, arrival.path, again)
        except CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, one file must not keep the others out)
            errors = [error if isinstance(error, EvergreenError) else unforeseen(arrival.path, error)]
        else:
            found |= {partition.id: partition for partition in partitions}
        broken += errors
        if not errors:
            arrivals.take(engine, spec.name, arrival)
    return list(found.values()), broken


def land_and_judge(
    home: Settings, spec: ModelSpec, engine: Engine, kind: Kind, source: str, again: bool = False, origin: str = ""
) -> tuple[list[Partition], list[EvergreenError]]:
    """Land a source and decide on its undecided partitions, with an event for each; return them, and errors of the rest.

    ``origin`` is what the ledger calls the source, if not by its own name.
    """
    broken: list[EvergreenError] = []
    with connect(home.home) as connection:
        landed = land(source, spec, home, engine, kind, connection, again, origin)
        partitions = landed.partitions
        bench = judging.Bench(connection, spec, home, engine, landed)
        for number, partition in enumerate(partitions):
            if judging.is_open(partition, bench):
                try:
                    partitions[number] = decide(bench, partition)
                except BrokenCheckError as error:
                    broken.append(error)
                else:
                    announce(partitions[number])
    return partitions, broken


def unforeseen(path: str, error: Exception) -> BrokenCheckError:
    """Return an error that nobody foresaw as one that names the file that it came from."""
    first = (str(error).splitlines() or [""])[0]
    found = BrokenCheckError(f"{path} could not be taken (unforeseen {type(error).__name__}: {first}); move it away")
    found.__cause__ = error
    return found


def told(broken: list[EvergreenError], partitions: list[Partition]) -> EvergreenError:
    """Return the errors as one, which also says what was decided on the other partitions."""
    found = judging.counts(partitions)
    rest = (
        f"; of the rest {found.get('accepted', 0)} partitions are accepted, {found.get('quarantined', 0)} quarantined"
    )
    kind = type(broken[0]) if len(broken) == 1 else BrokenCheckError
    error = kind("; ".join(map(str, broken)) + (rest if partitions else ""))
    error.__cause__ = broken[0]
    return error


def raise_if_enough(engine: Engine, spec: ModelSpec) -> None:
    """Raise the cause of a training if enough was accepted since the last; tell again of the causes that wait."""
    facts = outbox.weigh(engine, spec, [])
    reason = decision.enough_data(facts, spec.triggers)
    if reason:
        payload = {"partitions": list(facts.new_keys), "rows": facts.new_rows}
        outbox.raise_cause(engine, spec.name, "new data", events.DATA_READY, reason, payload)
    outbox.flush(engine, spec)


def announce(partition: Partition) -> None:
    """Emit the event of a decision; a revision that a newer one has replaced has none."""
    names = {"accepted": events.PARTITION_ACCEPTED, "quarantined": events.PARTITION_QUARANTINED}
    if partition.status in names:
        emit_event(
            event=names[partition.status],
            resource=events.resource(partition.model),
            payload={"partition": partition.key, **judging.summary(partition)},
        )
