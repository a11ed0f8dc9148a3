"""Train: the newest window becomes a training set, an estimator, its verdicts, and a challenger if all gates pass."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, tags
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from pydantic import Field
from sqlalchemy.engine import Engine

from flows import approval, database, events, ledger, trials
from flows.lookup import load_model
from flows.promote import outdated, promote
from flows.rollout import begin_trial
from flows.runs import TAG, Record, recorded, root_run, run_name, stage
from flows.settings import Settings, load
from flows.spec import ModelSpec
from flows.steps import (
    bundling,
    card,
    champion,
    evaluation,
    feature_record,
    feature_store,
    fitting,
    gates,
    lineage,
    links,
    pictures,
    probe,
    reference,
    registry,
    run_log,
    spark_fitting,
    stages,
    training_set,
)
from flows.steps.keeping import KeptEstimator, KeptFile, KeptPredictions, KeptTrainingSet
from flows.steps.stages import Plain
from flows.steps.storage import at_hand

choose_window = stage(training_set.choose_window)
build_training_set = stage(training_set.build, name="build-training-set", keep=KeptTrainingSet())
tune = stage(fitting.tune, keep=Plain(dict[str, Any]))
fit = stage(fitting.fit, keep=KeptEstimator())
predict = stage(evaluation.predict, keep=KeptPredictions())
evaluate = stage(evaluation.evaluate, keep=Plain(evaluation.Evaluation, "pictures/*"))
save_bundle = stage(bundling.write_manifest, name="save-bundle", keep=Plain(str, "bundle/*"))
write_reference = stage(reference.write_for, name="write-reference", keep=KeptFile())
probe_in = stage(probe.probe_in, name="probe", keep=Plain(probe.Probe))
judge = stage(gates.judge_all, name="judge", keep=Plain(list[gates.Verdict]))
write_card = stage(card.write, name="write-card")
log_run = stage(run_log.log_run, keep=Plain(tuple[str, str, str]), retries=2, retry_delay_seconds=2)
register = stage(registry.register, keep=Plain(registry.Version), retries=2, retry_delay_seconds=2)


@flow(name="train", flow_run_name=run_name)
def train(
    model: str = "taxi",
    reason: str = "on demand",
    force: bool = False,
    judge_days: Annotated[int | None, Field(ge=1)] = None,
    estimator: str | None = None,
    trials: Annotated[int | None, Field(ge=0)] = None,
    approve: bool = False,
) -> dict[str, Any]:
    """Train on the newest window, judge on its newest part, and register what passes every gate.

    A run that was killed is gone on with by its retry, or by another run of the same. A version that passes is promoted if
    the spec says so.

    Args:
        model: Name of the model.
        reason: Why; kept with the version.
        force: Train even if a version was made of exactly the same data, code and parameters.
        judge_days: How many of the newest days judge, if not as many as the spec says.
        estimator: Another estimator factory than the spec's, as package.module:build.
        trials: Tuning trials inside the training window, if not as many as the spec says.
        approve: Let a person decide on the promotion: the run waits for the answer in Prefect.
    """
    home = load()
    spec = load_model(model, home)
    engine = database.connect(home)
    factory, tries = estimator or spec.estimator, spec.training.trials if trials is None else trials
    mode = "approve" if approve else spec.promotion
    with recorded(engine, model, "train", reason) as run, stages.one_at_a_time(home, model):
        store = feature_store.open_store(home)
        feature_store.check_names(store, spec)
        definitions, views = feature_record.definition_hash(store, spec), feature_record.view_records(store, spec)
        accepted = ledger.list_partitions(engine, model, "accepted")
        window = choose_window(spec, accepted, timedelta(days=judge_days) if judge_days else None)
        partitions = [partition for partition in accepted if partition.id in window.partition_ids]
        older = training_set.made_otherwise(partitions)
        known = [*partitions, *lineage.beside(spec, accepted, window, views)]
        mark = lineage.fingerprint(spec, known, window, definitions, factory, tries)
        made = None if force else find_made(home, engine, spec, mark)
        if made:
            run.summary = {
                "version": made.version, "run_id": made.run_id, "failed": [], "reason": made.reason, "unchanged": True,
            }  # fmt: skip
        else:
            reigning = champion.load(home, spec, engine)
            work = stages.open_work(home, model, stages.key_of(mark, reigning.digest, root_run(run) if force else None))
            run.work = work
            data = build_training_set(home, store, spec, partitions, window, work.folder)
            elsewhere = spark_fitting.measuring(home, spec, data, factory) if home.compute_url else None
            params = tune(spec, data, tries, factory, elsewhere) if tries else dict(spec.params)
            fitted = fit(spec, data, params, factory)
            trained, judged = predict(spec, fitted, data)
            with probe.started(home) as prober:  # gets ready while the figures are made
                found = evaluate(spec, fitted, trained, judged, reigning, work.folder / "pictures")
                digest = save_bundle(spec, fitted, judged, work.bundle)
                probe.ask(prober, work.bundle, digest)
                write_reference(spec, data, fitted, trained, judged, work.bundle)
                opened = probe_in(prober)
            verdicts = judge(spec, found, opened, reigning.request_schema)
            failed = gates.failed(verdicts)
            record = lineage.trace(
                spec, data=data, accepted=at_hand(home, accepted), views=views, stages=run.stages, fingerprint=mark,
                reason=reason, run_id=run.id, executor=run.executor, feature_definitions_sha256=definitions, estimator=factory,
                params=params, trials=tries, champion_version=reigning.version,
            )  # fmt: skip
            evidence = gates.evidence(found, verdicts, champion=reigning.version)
            page = write_card(spec, record, evidence, work.folder / "pictures", work.folder / registry.CARD)
            run_id, model_id, kept = log_run(
                home, spec, lineage=record, evidence=evidence, bundle=work.bundle, pictures=work.folder / "pictures",
                card=page, metrics=gates.figures(found, verdicts), passed=not failed, digest=digest, work_key=work.key,
            )  # fmt: skip
            run.summary = {
                "version": None, "run_id": run_id, "failed": failed, "refusals": gates.refusals(verdicts), "reason": reason,
                "older_rows": older, **gates.brief(found),
            }  # fmt: skip
            show(spec, verdicts, run, work.folder / "pictures", links.line(home, model, run_id))
            if not failed:
                above = ledger.highest_version(engine, model)
                made = register(home, spec, record, run_id, model_id, kept, digest, above)
                run.summary["version"] = made.version
                payload = {"version": made.version, "run_id": run_id, "reason": reason}
                emit_event(events.MODEL_REGISTERED, resource=events.resource(model), payload=payload)
    outcome = hand_over(home, engine, spec, run.summary["version"], run.summary["reason"], mode)
    if run.work:
        run.work.remove()
    return {**run.summary, **outcome}


def find_made(home: Settings, engine: Engine, spec: ModelSpec, fingerprint: str) -> registry.Version | None:
    """Return the version that an earlier run made of exactly the same data, code and parameters, None if there is none.

    One that waits for its promotion and was judged against another champion has to be made anew.
    """
    made = next((one for one in registry.versions(home, spec.name) if one.fingerprint == fingerprint), None)
    if made and waits(engine, made):
        reigning = ledger.champion(engine, spec.name)
        if registry.read_evidence(made).get("champion") != (reigning.version if reigning else None):
            return None
    return made


def waits(engine: Engine, version: registry.Version) -> bool:
    """Say whether a version may still be promoted without a new reason: it never was, no trial of it runs or has ended
    otherwise than well, and nobody has refused it.

    So a run that broke off between registering and promoting ends as it would have, and a version that served and was
    rolled back stays where it is.
    """
    if trials.has_tried(engine, version.model, version.version):
        return False
    history = ledger.list_promotions(engine, version.model)
    return version.version > max((promotion.version for promotion in history), default=0) and not version.refused


@tags(TAG)
def hand_over(
    home: Settings, engine: Engine, spec: ModelSpec, version: int | None, reason: str, mode: str
) -> dict[str, Any]:
    """Promote a registered version if that needs nobody, ask a person, or put it on trial; return what came of it.

    The first version of all has nobody to be compared with and is promoted. While another is on trial a version waits: for
    the next training, which tries its own, or it again if nothing is new, or for a person.
    """
    if version is None or mode == "manual":
        return {"promoted": False}
    made = registry.get_version(home, spec.name, version)
    if not waits(engine, made):
        return {"promoted": False}
    if mode == "approve":
        return approval.request(made, reason, promote)
    if mode in ("shadow", "canary") and ledger.champion(engine, spec.name) is not None:
        busy = trials.running(engine, spec.name)
        if busy and not outdated(engine, busy):
            return {"promoted": False, "waits_for": busy.version}
        kind: trials.Kind = "shadow" if mode == "shadow" else "canary"
        begun = begin_trial(spec.name, version, kind=kind, why=reason, automatic=True)
        return {"promoted": False, "trial": begun["kind"]}
    promote(spec.name, version, why=reason, automatic=True)
    return {"promoted": True}


def show(spec: ModelSpec, verdicts: list[gates.Verdict], run: Record, folder: Path, where: str) -> None:
    """Put the verdicts, the pictures of the evaluation and links to ``where`` more is on the run's page in Prefect."""
    drawn = [pictures.embedded(file.stem, file.read_bytes()) for file in sorted(folder.glob("*.png"))]
    create_markdown_artifact(
        key=f"gates-{spec.name.replace('_', '-')}",
        markdown="\n\n".join([gates.markdown(verdicts), where, *drawn]),
        description=f"MLflow run {run.summary['run_id']}",
    )
