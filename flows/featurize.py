"""Featurize: accepted partitions become feature values at each tick, registered and materialized with Feast."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger

from flows import database, ledger, run_records
from flows.lookup import load_model
from flows.runs import recorded, run_name, stage
from flows.settings import load
from flows.steps import feature_plan, feature_store, feature_tables, online_file, stages
from flows.steps.keeping import KeptTables
from flows.steps.own_code import code_hash
from flows.steps.stages import Plain

apply_definitions = stage(feature_store.apply_definitions, name="apply", retries=2)
compute = stage(feature_tables.compute, name="compute", keep=KeptTables())
materialize = stage(feature_store.materialize, name="materialize", keep=Plain(None), retries=2)
write_again = stage(feature_store.materialize, name="write-again", retries=2)
mark_featurized = stage(ledger.mark_featurized)


@flow(name="featurize", flow_run_name=run_name)
def featurize(model: str = "taxi", again: bool = False) -> dict[str, Any]:
    """Bring the feature tables and the online store up to date with the accepted partitions.

    Where a view is new, or its expression has changed since the last time, all ticks are computed anew.

    One run at a time works on a model. A run that broke off is gone on with by the next: partitions are marked as
    featurized last, and computing or materializing a tick again would change nothing.

    Args:
        model: Name of the model.
        again: Make what is damaged or gone of the feature tables anew, and write all that they hold to the online store once
            more, which may have been emptied, damaged or replaced.
    """
    home = load()
    spec = load_model(model, home)
    engine = database.connect(home)
    with recorded(engine, model, "featurize") as run, feature_store.held_still(home, model):
        if again:
            online_file.remove_damaged(home)
        definitions = apply_definitions(home, spec)
        accepted = ledger.list_partitions(engine, model, "accepted")
        changed = feature_plan.recomputed(spec, run_records.since_completed(engine, model, "featurize"))
        if changed:
            get_run_logger().warning("; ".join(f"{one.what}: {one.detail}" for one in changed))
        if changed or (again and feature_tables.remove_damaged(home, spec)):
            accepted = [one.model_copy(update={"featurized_at": None}) for one in accepted]
        replaced, refused = (ledger.list_partitions(engine, model, status) for status in ("replaced", "quarantined"))
        planned = feature_tables.plan(spec, accepted, replaced=replaced, refused=refused)
        code = code_hash(["flows.steps.feature_tables", spec.feature_tables.partition(":")[0]])
        noted = {"expressions": feature_plan.digests(spec)}
        data = [(one.id, one.digest, one.accepted_sha256) for one in accepted]
        key = stages.key_of(planned.ticks, planned.new, data, definitions, code, noted)
        run.work = stages.open_work(home, f"{model}-features", key)
        run_records.note(engine, run.id, noted)  # before a value is written: this run may break off
        run.summary = noted
        ledger.mark_begun(engine, [one for one in accepted if one.id in planned.new and one.featurized_at is None])
        written = compute(home, spec, planned)
        if planned.ticks:
            materialize(home, spec, planned.ticks[0], planned.ticks[-1])
        rows = {one.id: one.accepted_sha256 for one in (*accepted, *refused)}  # an ingest may make them anew meanwhile
        mark_featurized(engine, planned.new, planned.moment, rows)
        whole = feature_tables.span(spec, accepted)
        if again and whole:
            write_again(home, spec, *whole)
        run.work.remove()
        run.summary = {
            **noted, "partitions": len(planned.new), "ticks": len(planned.ticks), "rows": written,
            "definitions": definitions,
        }  # fmt: skip
    return run.summary
