"""Train: the newest window becomes a training set, an estimator, its verdicts, and a challenger if all gates pass."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from sqlalchemy.engine import Engine

from flows import database, events, ledger
from flows.promote import promote
from flows.runs import Record, recorded, stage
from flows.settings import Settings, load
from flows.spec import ModelSpec, load_model
from flows.steps import (
    bundle,
    champion,
    evaluation,
    feature_store,
    fitting,
    gates,
    lineage,
    probe,
    reference,
    registry,
    training_set,
)

choose_window = stage(training_set.choose_window)
build_training_set = stage(training_set.build, name="build-training-set")
tune = stage(fitting.tune)
fit = stage(fitting.fit)
predict = stage(evaluation.predict)
evaluate = stage(evaluation.evaluate)
save_bundle = stage(bundle.save_bundle)
write_reference = stage(reference.write_for, name="write-reference")
probe_bundle = stage(probe.probe_bundle, name="probe")
judge = stage(gates.judge_all, name="judge")
log_run = stage(registry.log_run, retries=2, retry_delay_seconds=2)
register = stage(registry.register, retries=2, retry_delay_seconds=2)


@flow(name="train")
def train(
    model: str = "taxi",
    reason: str = "on demand",
    force: bool = False,
    judge_days: int | None = None,
    estimator: str | None = None,
    trials: int | None = None,
) -> dict[str, Any]:
    """Train on the newest window, judge on its newest part, and register what passes every gate.

    ``estimator`` is another factory than the spec's, as ``package.module:build``; ``trials`` overrides the spec's number
    of tuning trials. If a version was made of exactly the same (data, code, parameters), nothing is trained unless
    ``force``. A version that passes is promoted if the spec says so.
    """
    home = load()
    spec = load_model(model, home)
    engine = database.connect(home)
    factory, tries = estimator or spec.estimator, spec.training.trials if trials is None else trials
    with (
        recorded(engine, model, "train", reason) as run,
        tempfile.TemporaryDirectory(dir=home.home, prefix="train-") as folder,
    ):
        store = feature_store.open_store(home)
        definitions = feature_store.definition_hash(store, spec)
        accepted = ledger.list_partitions(engine, model, "accepted")
        window = choose_window(spec, accepted, timedelta(days=judge_days) if judge_days else None)
        partitions = [partition for partition in accepted if partition.id in window.partition_ids]
        mark = lineage.fingerprint(spec, partitions, window, definitions, factory, tries)
        known = None if force else find_made(home, engine, spec, mark)
        if known:
            run.summary = known
            return known

        work = Path(folder)
        reigning = champion.load(home, spec, engine)
        data = build_training_set(store, spec, partitions, window, work)
        params = tune(spec, data, tries, factory) if tries else dict(spec.params)
        fitted = fit(spec, data, params, factory)
        trained, judged = predict(spec, fitted, data)
        found = evaluate(spec, fitted, trained, judged, reigning.bundle, reigning.version, work / "pictures")
        digest = save_bundle(spec, fitted, data, work / "bundle")
        write_reference(spec, data, fitted, trained, judged, work / "bundle")
        opened = probe_bundle(work / "bundle", digest, home)
        verdicts = judge(spec, found, opened, reigning.request_schema)
        failed = gates.failed(verdicts)
        record = lineage.trace(
            spec, data=data, partitions=partitions, stages=run.stages, fingerprint=mark, reason=reason, run_id=run.id,
            executor=run.executor, feature_definitions_sha256=definitions, estimator=factory, params=params, trials=tries,
            champion_version=reigning.version,
        )  # fmt: skip
        evidence = gates.evidence(found, verdicts, champion=reigning.version)
        run_id, model_id, kept = log_run(
            home, spec, lineage=record, evidence=evidence, bundle=work / "bundle", pictures=work / "pictures",
            metrics=gates.figures(found, verdicts), passed=not failed, digest=digest,
        )  # fmt: skip
        run.summary = {"version": None, "run_id": run_id, "failed": failed, "reason": reason, **gates.brief(found)}
        show(spec, verdicts, run)
        if not failed:
            made = register(home, spec, record, run_id, model_id, kept, digest)
            run.summary["version"] = made.version
            payload = {"version": made.version, "run_id": run_id, "reason": reason}
            emit_event(events.MODEL_REGISTERED, resource=events.resource(model), payload=payload)
    promoted = run.summary["version"] is not None and spec.promotion == "automatic"
    if promoted:
        promote(model, run.summary["version"], why=reason, automatic=True)
    return {**run.summary, "promoted": promoted}


def find_made(home: Settings, engine: Engine, spec: ModelSpec, fingerprint: str) -> dict[str, Any] | None:
    """Return the outcome of an earlier run that made a version of the very same; one that was never promoted is now.

    So a run that broke off between registering and promoting ends as it would have. A version that served and was
    rolled back stays where it is; one that was judged against another champion has to be made anew.
    """
    made = next((one for one in registry.versions(home, spec.name) if one.fingerprint == fingerprint), None)
    if made is None:
        return None
    history = ledger.list_promotions(engine, spec.name)
    waiting = made.version > max((promotion.version for promotion in history), default=0)
    if waiting and registry.read_evidence(made).get("champion") != (history[0].version if history else None):
        return None
    if waiting and spec.promotion == "automatic":
        promote(spec.name, made.version, why=made.reason, automatic=True)
    return {
        "version": made.version, "run_id": made.run_id, "failed": [], "reason": made.reason, "unchanged": True,
        "promoted": waiting and spec.promotion == "automatic",
    }  # fmt: skip


def show(spec: ModelSpec, verdicts: list[gates.Verdict], run: Record) -> None:
    """Put the verdicts on the run's page in Prefect."""
    create_markdown_artifact(
        key=f"gates-{spec.name.replace('_', '-')}",
        markdown=gates.markdown(verdicts),
        description=f"MLflow run {run.summary['run_id']}",
    )
