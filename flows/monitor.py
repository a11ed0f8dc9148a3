"""Monitor: predictions meet their late labels, the champion is judged, drift measured, and a retraining decided on."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from pydantic import Field
from sqlalchemy.engine import Engine

from flows import database, events, ledger, outbox, run_records
from flows.causes import Cause
from flows.lookup import load_model
from flows.runs import recorded, run_name, stage
from flows.settings import Settings, load
from flows.spec import ModelSpec
from flows.steps import (
    decision,
    drift,
    feature_store,
    labels,
    links,
    observed,
    performance,
    pictures,
    reference,
    report,
    skew,
    storage,
)
from flows.steps.champion import reigning

read_predictions = stage(labels.read_newest, name="read-predictions", retries=2)
join_labels = stage(labels.join_labels, retries=2)
assess = stage(performance.assess)
compare = stage(drift.compare, name="compare-distributions")
measure_skew = stage(skew.measure, name="measure-skew")
draw = stage(report.draw, name="draw-pictures")
write_report = stage(report.write_report)


@flow(name="monitor", flow_run_name=run_name)
def monitor(
    model: str = "taxi", days: Annotated[int | None, Field(ge=1)] = None, retrain: bool = True
) -> dict[str, Any]:
    """Judge the champion on the newest ``days`` of events; raise what is a cause to train anew.

    The clock is that of the events: the newest prediction's event time ends the window, its length is
    ``spec.triggers.window_days`` by default, and it begins no earlier than the end of what the champion was fitted on. Drift
    is measured on the newest of them, ``spec.triggers.drift_days``, so that a sudden one is not diluted.
    Raises RefusedError without a champion, and ContractError if a column whose drift is watched is nowhere.

    Args:
        model: Name of the model.
        days: The newest days of events to look at, if not as many as the spec says.
        retrain: Train at once if that is the decision; else it is left to the triggers.
    """
    settings = load()
    spec = load_model(model, settings)
    engine = database.connect(settings)
    with recorded(engine, model, "monitor") as run:
        champion = reigning(engine, spec, "monitor")
        known = reference.read(spec, champion)
        check_watched(settings, spec, known.drift)
        window = days or spec.triggers.window_days
        predictions = read_predictions(settings, spec, champion.version, known.drift.end, window)
        joined = join_labels(spec, predictions, accepted_files(settings, engine, spec))
        found = assess(spec, joined, known.expected)
        rows = labels.whole_days(joined, spec.triggers.drift_days)
        moved = compare(known.drift, rows, spec.triggers, labels.labelled(rows))
        with storage.folder(settings, champion.model_uri) as bundle:
            served = measure_skew(settings, spec, predictions, bundle)
        findings = conclude(settings, engine, spec, champion, known, found, moved)
        findings = findings.model_copy(update={"skew": served, "stale_views": skew.stale_views(predictions)})
        drawn = draw(spec, findings)
        page = write_report(spec, findings, drawn, settings.docs / model)
        shown = storage.publish(settings, page)
        publish(findings, drawn, links.line(settings, model, champion.run_id, page))
        run.summary = report.summary(findings, shown)
        raised = tell(engine, spec, findings, shown)
    return run.summary | {"training": start_training(raised[0]) if findings.decision.retrain and retrain else None}


def check_watched(settings: Settings, spec: ModelSpec, known: drift.Reference) -> None:
    """Check that each column whose drift is watched is there: a misspelt one would switch drift off and say nothing.

    One that the champion does not know may be a feature that the next training will.
    """
    names = {column.name for column in known.columns}
    if names and not names.issuperset(spec.triggers.drift_columns):
        feature_store.check_names(feature_store.open_store(settings), spec)


def accepted_files(settings: Settings, engine: Engine, spec: ModelSpec) -> list[str]:
    """Return the files of the accepted partitions, in the home."""
    accepted = ledger.list_partitions(engine, spec.name, "accepted")
    return storage.locals_of(settings, [one.accepted_uri for one in accepted if one.accepted_uri])


def conclude(
    settings: Settings,
    engine: Engine,
    spec: ModelSpec,
    champion: ledger.Promotion,
    known: reference.Reference,
    found: performance.Performance,
    moved: list[drift.FeatureDrift],
) -> report.Findings:
    """Put what was measured beside what the ledger holds, and decide."""
    now = database.now()
    partitions = ledger.list_partitions(engine, spec.name)
    trainings = run_records.newest(engine, spec.name, 1000, "train")
    facts = decision.gather(spec.triggers, found, moved, champion, known.drift.end, partitions, trainings, now)
    begun = now - (facts.since_training or now - champion.at)
    told = observed.know(settings, spec, champion.version, known, accepted_files(settings, engine, spec), begun, now)
    facts = facts.model_copy(update={"known": told})
    return report.Findings(
        model=spec.name, version=champion.version, champion_since=champion.at, at=now, facts=facts,
        decision=decision.decide(facts, spec.triggers),
    )  # fmt: skip


def publish(findings: report.Findings, drawn: dict[str, bytes], where: str) -> None:
    """Show the findings, their pictures and links to ``where`` to read on, on the run's page in Prefect."""
    shown = [pictures.embedded(name, png) for name, png in drawn.items()]
    create_markdown_artifact(
        key=f"monitor-{findings.model.replace('_', '-')}",
        markdown="\n\n".join([report.markdown(findings), where, *shown]),
        description=f"{findings.model} version {findings.version}",
    )


def tell(engine: Engine, spec: ModelSpec, findings: report.Findings, page: str) -> list[Cause]:
    """Raise each cause that was found, by its event, and tell again of those that wait."""
    found = findings.facts.performance
    columns = [one.feature for one in findings.facts.drift if one.drifted]
    names: dict[events.Kind, tuple[str, dict[str, Any]]] = {
        "performance": (events.MODEL_DEGRADED, {"labelled": found.labelled if found else 0}),
        "distribution": (events.DATA_DRIFTED, {"columns": columns}),
        "staleness": (events.MODEL_STALE, {}),
    }
    raised = []
    for kind, reason in decision.findings(findings.facts, spec.triggers).items():
        event, details = names[kind]
        payload = {"version": findings.version, "report": page, **details}
        raised.append(outbox.raise_cause(engine, spec.name, kind, event, reason, payload))
    outbox.flush(engine, spec)
    warn(findings, page)
    return raised


def warn(findings: report.Findings, page: str) -> None:
    """Tell of training-serving skew: a fault to mend, and no cause to retrain."""
    if findings.skew.skewed:
        get_run_logger().warning(findings.skew.warning)
        payload = {
            "version": findings.version, "report": page, "reason": findings.skew.warning,
            "features": {one.feature: one.skew for one in findings.skew.features if one.skew},
        }  # fmt: skip
        emit_event(events.FEATURES_SKEWED, resource=events.resource(findings.model), payload=payload)


def start_training(cause: Cause) -> dict[str, Any] | None:
    """Answer this cause and all that wait here and now; None if a run that the triggers started was faster."""
    from flows.retrain import retrain

    result: dict[str, Any] = retrain(model=cause.model, trigger=cause.kind, reason=cause.reason, cause=cause.key)
    training: dict[str, Any] | None = result["training"]
    return training
