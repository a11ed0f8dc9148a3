"""The lineage of a version as a graph: what it was made of, by whom, how it was judged, what became of it.

``build`` is a pure function from what was read to nodes and edges; text, JSON and page draw the same graph. What should be
there and is not is named in ``gaps``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from flows.ledger import Partition
from flows.run_records import Run
from flows.steps.graph import Draft, Graph, Kind, Verdict
from flows.steps.lineage import PastPartition, Stage, UsedPartition
from flows.steps.lineage_facts import Facts
from flows.steps.version_record import VersionRecord

ENDS: dict[str, Verdict] = {"passed": "passed", "failed": "failed"}  # of a trial


def build(facts: Facts) -> Graph:
    """Return the graph of a version from what was read."""
    draft, record = Draft(), facts.record
    version = _version(draft, record)
    trained = _training_set(draft, record, *_partitions(draft, facts))
    steps = _training(draft, facts, trained)
    draft.join(steps[-1:], version, "registered")
    _gates(draft, facts, steps, version)
    history = _promotions(draft, facts, version)
    _predictions(draft, facts, version, history)
    return Graph(
        model=record.version.model, version=record.version.version, card=record.card,
        request_id=facts.answered[0].request_id if facts.answered else None, nodes=tuple(draft.nodes.values()),
        edges=tuple(draft.edges.values()), gaps=tuple(draft.gaps),
    )  # fmt: skip


def _version(draft: Draft, record: VersionRecord) -> str:
    made, lineage = record.version, record.lineage
    if record.origin:
        draft.gaps.append(f"it was copied ({record.origin}): partitions and runs are in the ledger of that place")
    return draft.add(
        "version", made.version, f"{made.model} version {made.version}", reason=lineage.reason, made=made.created_at,
        mlflow_run=made.run_id, digest=made.digest, fingerprint=made.fingerprint, refused=made.refused or None,
        folder=made.folder, card=record.card or None, copied_from=record.origin or None,
    )  # fmt: skip


def _partitions(draft: Draft, facts: Facts) -> tuple[list[str], list[str]]:
    """Add partitions with their validation and the runs that took them in; return whose rows count, and all of them."""
    known = {(one.key, one.revision): one for one in facts.partitions}
    lineage = facts.record.lineage
    used = [_partition(draft, facts, one, known.get((one.key, one.revision))) for one in lineage.partitions]
    if not used:
        draft.gaps.append("the record names no partition")
    past = [_partition(draft, facts, one, known.get((one.key, one.revision))) for one in lineage.past]
    return used, [*past, *used]


def _partition(draft: Draft, facts: Facts, one: PastPartition, landed: Partition | None) -> str:
    name, copied = f"{one.key}:r{one.revision}", bool(facts.record.origin)
    if landed is None and not copied:
        draft.gaps.append(f"partition {one.key} r{one.revision} is not in the ledger")
    if landed is not None and landed.digest != one.digest and not copied:
        draft.gaps.append(f"partition {one.key} r{one.revision} has another hash in the ledger")
    landed = None if copied else landed
    node = draft.add(
        "partition", name, f"{one.key} r{one.revision}", use="rows" if isinstance(one, UsedPartition) else "features alone",
        rows=landed.rows if landed else None, accepted=one.accepted_rows,
        rejected=landed.rejected_rows if landed else None, digest=one.digest, accepted_sha256=one.accepted_sha256 or None,
        source=landed.source if landed else None, landed=landed.landed_at if landed else None,
        featurized=landed.featurized_at if landed else None, status=landed.status if landed else None,
    )  # fmt: skip
    validation = one.validation if isinstance(one, UsedPartition) else landed.validation if landed else {}
    checks = validation.get("checks", [])
    if not checks and not copied:
        draft.gaps.append(f"partition {one.key} r{one.revision} has no validation result")
    bad = [check["rule"] for check in checks if check["verdict"] == "failed"]
    judged = draft.add(
        "validation", name, f"{len(checks) - len(bad)} of {len(checks)} checks", "failed" if bad else "passed",
        failed=bad, split_off=[f"{c['rule']}: {c['observed']}" for c in checks if c["verdict"] == "rows rejected"],
        rules=validation.get("rules"), decided=landed.decided_at if landed else None,
        page=landed.docs_uri if landed else None,
    )  # fmt: skip
    draft.join(node, judged, "judged")
    if landed is not None:
        took = _run_at(facts.runs, "ingest", landed.decided_at)
        if took is None:
            draft.gaps.append(f"no run of ingest in the ledger took in partition {one.key} r{one.revision}")
        else:
            draft.join(_run(draft, "ingest", took), node, "landed")
    return judged


def _training_set(draft: Draft, record: VersionRecord, rows: Sequence[str], known: Sequence[str]) -> str:
    lineage = record.lineage
    written: dict[str, list[str]] = {}
    for file in lineage.feature_files:
        written.setdefault(file.view, []).append(f"{file.name} {file.sha256}")
    service = draft.add(
        "service", lineage.feature_service, lineage.feature_service, features=list(lineage.features),
        definitions_sha256=lineage.feature_definitions_sha256,
    )  # fmt: skip
    if not lineage.views:
        draft.gaps.append("the record is from before views and files of features were recorded")
    for view in lineage.views:
        files = written.get(view.name, [])
        node = draft.add(
            "view", view.name, view.name, fields=list(view.fields), definition_sha256=view.sha256, ttl=view.ttl, files=files,
            computed="from stored tables" if files else "on demand, from the request",
        )  # fmt: skip
        draft.join(known if files else [], node, "rolled up")
        draft.join(node, service, "part of")
    window = lineage.window
    made = draft.add(
        "training set", "set", "Training set", sha256=lineage.training_set_sha256, train_rows=lineage.train_rows,
        judge_rows=lineage.judge_rows, start=window.start, split=window.split, end=window.end,
    )  # fmt: skip
    draft.join(rows, made, "rows")
    draft.join(service, made, "joined as known at the time")
    return made


def _training(draft: Draft, facts: Facts, trained: str) -> list[str]:
    """Add the run with its steps and what it ran with; return the steps in order."""
    lineage = facts.record.lineage
    code = lineage.code
    ran = draft.add(
        "code", "code", "Code", commit=code.commit, changed=code.changed, sources_sha256=code.sources_sha256,
        modules=len(code.files) or None, files=[f"{name} {digest}" for name, digest in code.files.items()],
    )  # fmt: skip
    libraries = draft.add(
        "libraries", "libraries", "Libraries", lock_sha256=code.lock_sha256, python=code.python, **code.libraries,
        machine=code.machine.model_dump(mode="json") if code.machine else None,
    )  # fmt: skip
    parameters = draft.add(
        "parameters", "parameters", "Parameters", estimator=lineage.estimator, **lineage.params, seed=lineage.seed,
        threads=lineage.threads, trials=lineage.trials,
    )  # fmt: skip
    run = next((one for one in facts.runs if one.id == lineage.run_id), None)
    if run is None and not facts.record.origin:
        draft.gaps.append(f"the training run {lineage.run_id} is not in the ledger")
    stages = {stage.name: stage for stage in lineage.stages}
    for stage in (run.summary.get("stages") or []) if run else []:
        stages.setdefault(stage["name"], Stage.model_validate(stage))
    if not stages:
        draft.gaps.append("the record names no training step")
    whole = draft.add(
        "training", lineage.run_id, "Training run", reason=lineage.reason, executor=lineage.executor,
        state=run.state if run else None,
        start=min((one.start for one in stages.values()), default=None),
        end=max((one.end for one in stages.values()), default=None),
    )  # fmt: skip
    for source, label in ((ran, "ran"), (libraries, "with"), (parameters, "with"), (trained, "fitted and judged on")):
        draft.join(source, whole, label)
    steps = [
        draft.add("step", one.name, one.name, start=one.start, end=one.end, executor=one.executor, run=one.run_id)
        for one in sorted(stages.values(), key=lambda one: one.start)
    ]
    for before, after in zip([whole, *steps], steps, strict=False):
        draft.join(before, after, "then")
    for view in list(draft.nodes.values()):  # the runs that wrote the feature tables
        if view.kind == "view" and view.facts["files"]:
            for one in _featurizations(facts):
                draft.join(_run(draft, "featurize", one), view.id, "computed")
    return steps


def _gates(draft: Draft, facts: Facts, steps: Sequence[str], version: str) -> None:
    record = facts.record
    verdicts = record.evidence.get("gates") or []
    if not verdicts:
        draft.gaps.append("the record has no gates")
    gates = [
        draft.add(
            "gate", gate["gate"], gate["gate"], "passed" if gate["passed"] else "failed", number=gate["number"],
            threshold=gate["threshold"], direction=gate["direction"], reason=gate["reason"],
        )
        for gate in verdicts
    ]  # fmt: skip
    for gate in gates:
        draft.join([step for step in steps if step == "step:judge"], gate, "judged")
        draft.join(gate, version, "passed" if draft.nodes[gate].state == "passed" else "failed")
    reigning = record.lineage.champion_version
    if reigning is not None and not record.origin and not facts.ancestors:
        draft.gaps.append(f"version {reigning}, the champion that it was judged against, cannot be read any more")
    child = gates or [version]
    for one in facts.ancestors:
        parent = draft.add(
            "champion",
            one.version.version,
            f"version {one.version.version}",
            reason=one.lineage.reason,
            digest=one.version.digest,
            mlflow_run=one.version.run_id,
            made=one.version.created_at,
        )
        draft.join(parent, next((g for g in child if g == "gate:champion"), child[0]), "judged against")
        child = [parent]


def _promotions(draft: Draft, facts: Facts, version: str) -> dict[int, str]:
    """Add the version's trials, its promotions, and what took it back; return the promotions by their sequence."""
    own, number = {}, facts.record.version.version
    for trial in facts.trials:
        if trial.version == number:
            node = draft.add(
                "trial", trial.id, trial.kind, ENDS.get(trial.state, ""),
                state=trial.state, beside=trial.champion_version, who=trial.who, why=trial.why, start=trial.started_at,
                end=trial.ended_at, outcome=trial.outcome,
            )  # fmt: skip
            draft.join(version, node, "tried")
    for before, promotion in zip([None, *facts.promotions], facts.promotions, strict=False):
        if number not in (promotion.version, promotion.previous_version):
            continue
        node = draft.add(
            "promotion", promotion.sequence, f"{promotion.kind} to version {promotion.version}", version=promotion.version,
            previous_version=promotion.previous_version, who=promotion.who, why=promotion.why, at=promotion.at,
            run=promotion.run_id, digest=promotion.digest,
        )  # fmt: skip
        if promotion.version == number:
            own[promotion.sequence] = node
            draft.join(version, node, "promoted" if promotion.kind == "promote" else "rolled back to")
            if promotion.digest != facts.record.version.digest:
                draft.gaps.append(f"promotion {promotion.sequence} served other files than those that were registered")
        if before and f"promotion:{before.sequence}" in draft.nodes:
            draft.join(f"promotion:{before.sequence}", node, "followed by")
    return own


def _predictions(draft: Draft, facts: Facts, version: str, own: dict[int, str]) -> None:
    number = facts.record.version.version
    for one in facts.answered:
        if one.version != number:
            continue
        node = draft.add(
            "prediction", f"{one.request_id}:{one.row}", f"row {one.row}", request_id=one.request_id, at=one.at,
            role=one.role, prediction=one.prediction, request=one.request, unknown=list(one.unknown),
        )  # fmt: skip
        tried = [t for t in facts.trials if t.version == number and t.started_at <= one.at]
        served = [p for p in facts.promotions if p.sequence in own and p.at <= one.at]
        if served and one.role != "shadow":
            draft.join(own[served[-1].sequence], node, "answered")
        elif tried:
            draft.join(f"trial:{tried[-1].id}", node, "answered")
        else:
            draft.join(version, node, "answered")
            draft.gaps.append(
                f"version {number} answered {one.request_id} without a promotion or a trial in the ledger"
            )


def _featurizations(facts: Facts) -> list[Run]:
    names = {(one.key, one.revision) for one in (*facts.record.lineage.past, *facts.record.lineage.partitions)}
    times = {one.featurized_at for one in facts.partitions if (one.key, one.revision) in names}
    found = {run.id: run for at in times if (run := _run_at(facts.runs, "featurize", at))}
    return sorted(found.values(), key=lambda run: run.started_at)


def _run(draft: Draft, kind: Kind, run: Run) -> str:
    return draft.add(
        kind, run.id, f"{kind} {run.started_at:%Y-%m-%d %H:%M}", "passed" if run.state == "completed" else "failed",
        start=run.started_at, end=run.ended_at, executor=run.executor,
    )  # fmt: skip


def _run_at(runs: Sequence[Run], flow: str, moment: datetime | None) -> Run | None:
    """Return the run of a flow that was under way at a moment: partitions do not name the runs that took them in."""
    if moment is None:
        return None
    under_way = [
        run
        for run in runs
        if run.flow == flow and run.started_at <= moment and (not run.ended_at or moment <= run.ended_at)
    ]
    return under_way[-1] if under_way else None
