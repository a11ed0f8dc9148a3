"""Label: labels that came in a table of their own meet the landed rows that they are of, which are judged once more."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import database, ledger
from flows.errors import UnavailableError
from flows.featurize import featurize as update_features
from flows.ingest import PATIENCE_SECONDS, hide_secrets, land_and_judge, raise_if_enough, told, write_index
from flows.locks import locked
from flows.lookup import load_model
from flows.runs import recorded, run_name, stage
from flows.settings import load
from flows.steps import filling, judging
from flows.steps.files import scratch
from flows.steps.in_memory import connect

fill = stage(filling.fill)


@flow(name="label", flow_run_name=run_name)
def label(source: str, model: str = "taxi", on: list[str] | None = None, featurize: bool = False) -> dict[str, Any]:
    """Fill the labels of a source into the landed rows, and decide on the partitions that change as on any revision.

    A period that was quarantined because it had no label yet is accepted this way. Running again does nothing more. Raises
    UsageError as ``filling.fill`` does; after all other partitions were decided, BrokenCheckError if a check could not be
    evaluated, and UnavailableError if labels may be of landed rows that are gone.

    Args:
        source: Parquet or CSV file, folder, glob, http(s) or s3 URL of labels.
        model: Name of the model.
        on: Columns that tell which row is meant, if others than the model's key.
        featurize: Bring the features up to date as well.
    """
    home = load()
    spec = load_model(model, home)
    engine = database.connect(home)
    hide_secrets(source)
    with recorded(engine, model, "label") as run, scratch(home.home, "labels") as folder:
        with locked(home, f"ingest-{model}", PATIENCE_SECONDS):
            known = ledger.list_partitions(engine, model)
            with connect(home.home) as connection:
                found = fill(connection, spec, home, known, source, tuple(on or ()), folder)
            partitions, broken = [], []
            for one in found.partitions:
                # What a table of labels says last counts, though it may be what stood there before another one.
                decided, errors = land_and_judge(
                    home, spec, engine, one.kind, str(one.file), again=True, origin=found.origin
                )
                partitions += decided
                broken += errors
            write_index(home, spec, ledger.list_partitions(engine, model))
        if found.lost:
            broken.append(
                UnavailableError(
                    f"{found.labels - found.met:,} labels belong to no landed row that is there, and the landed rows of "
                    f"{', '.join(found.lost)} are gone: restore a backup, or land them again"
                )
            )
        rows = sum(one.rows for one in found.partitions)
        run.summary = {"labels": found.labels, "met": found.met, "rows": rows, **judging.counts(partitions)}
        if featurize:
            update_features(model=model)
        raise_if_enough(engine, spec)
        if broken:
            raise told(broken, partitions)
    summaries = [judging.summary(partition) for partition in partitions]
    return {"labels": found.labels, "met": found.met, "rows": rows, "others": found.others, "partitions": summaries}
