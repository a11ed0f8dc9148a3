"""What changed from one version to another, from their records alone: pure, and told in words and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flows.spec import Frozen
from flows.steps.lineage import Lineage
from flows.steps.pages import number
from flows.steps.version_record import VersionRecord

MOST_NAMED = 6  # of a kind, in a sentence


class Change(Frozen):
    """One value in two versions; None where a version does not have it."""

    name: str
    before: Any
    after: Any


class Figure(Frozen):
    """One number of the evaluation in two versions, and which of its rows it is of: those judged or those trained on."""

    name: str
    part: str
    before: float | None
    after: float | None


class SliceChange(Frozen):
    """The error of a slice in two versions, each on the rows that judged it, with the champion's error beside the second."""

    name: str
    rows: tuple[int, int]
    before: float | None
    after: float | None
    champion: float | None


class GateChange(Frozen):
    """The verdict of a gate in two versions."""

    name: str
    before: str
    after: str
    numbers: tuple[float | None, float | None]
    reason: str


class Difference(Frozen):
    """All that changed from ``before`` to ``after``; ``words`` says it in sentences, the most important first."""

    model: str
    before: int
    after: int
    words: tuple[str, ...]
    partitions: tuple[Change, ...]
    data: tuple[Change, ...]
    views: tuple[Change, ...]
    features: tuple[Change, ...]
    parameters: tuple[Change, ...]
    spec: tuple[Change, ...]
    code: tuple[Change, ...]
    libraries: tuple[Change, ...]
    figures: tuple[Figure, ...]
    importance: tuple[Figure, ...]
    slices: tuple[SliceChange, ...]
    gates: tuple[GateChange, ...]
    same_rows: tuple[float, float] | None


def compare(before: VersionRecord, after: VersionRecord) -> Difference:
    """Return what changed from one version to another."""
    a, b = before.lineage, after.lineage
    found: dict[str, Any] = {
        "partitions": _changes(*({p.key: f"r{p.revision} {p.digest}" for p in one.partitions} for one in (a, b))),
        "data": _changes(_data(a), _data(b)),
        "views": _changes(*({view.name: view.sha256 for view in one.views} for one in (a, b))),
        "features": _changes(*({name: name for name in one.features} for one in (a, b))),
        "parameters": _changes(_parameters(a), _parameters(b)),
        "spec": _changes(_flat(a.spec), _flat(b.spec)) if a.spec and b.spec else (),
        "code": _changes(a.code.files, b.code.files),
        "libraries": _changes(_libraries(a), _libraries(b)),
    }
    ours, theirs = before.evidence, after.evidence
    judged = after.lineage.champion_version == before.version.version and not after.origin
    same_rows = (theirs["champion_error"], theirs["error"]) if judged and theirs["champion_error"] is not None else None
    found |= {
        "figures": tuple(
            Figure(name=name, part=part, before=ours[key].get(name), after=theirs[key].get(name))
            for part, key in (("judge", "metrics"), ("train", "train_metrics"))
            for name in dict.fromkeys([*ours[key], *theirs[key]])
        ),
        "importance": _importance(ours["importance"], theirs["importance"]),
        "slices": _slices(ours["slices"], theirs["slices"]),
        "gates": _gates(ours.get("gates") or [], theirs.get("gates") or []),
    }  # fmt: skip
    metric = a.spec.get("metric", {}).get("name", "error")
    return Difference(
        model=before.version.model, before=before.version.version, after=after.version.version, same_rows=same_rows,
        words=tuple(_words(before, after, found, same_rows, metric)), **found,
    )  # fmt: skip


def _words(
    before: VersionRecord,
    after: VersionRecord,
    found: Mapping[str, Any],
    same_rows: tuple[float, float] | None,
    metric: str,
) -> list[str]:
    a, b, numbers = before.lineage, after.lineage, (before.version.version, after.version.version)
    said = [f"Version {numbers[1]} was trained because: {b.reason}."]
    if same_rows:
        said.append(
            f"On the same {after.evidence['judge_rows']:,} rows its {metric} is {number(same_rows[1])}, that of version "
            f"{numbers[0]} {number(same_rows[0])}: {_percent(*same_rows)}."
        )
    else:
        pair = before.evidence["error"], after.evidence["error"]
        said.append(
            f"Its {metric} is {number(pair[1])}, that of version {numbers[0]} was {number(pair[0])}; each on its own newest "
            "rows, so the two are not of the same data."
        )
    said.append(_of_partitions(found["partitions"], a, b))
    said.append(_named("features", found["features"], "The features are the same."))
    if found["views"]:
        said.append(_named("definitions of feature views", found["views"], ""))
    elif a.feature_definitions_sha256 != b.feature_definitions_sha256:
        said.append("The definitions of the features changed.")
    said.append(_values("parameters", found["parameters"], "The parameters are the same."))
    settings = [change for change in found["spec"] if not change.name.startswith("params.")]
    if settings:
        said.append(_values("the spec", settings, ""))
    if a.code.files and b.code.files:
        said.append(_named("modules", found["code"], "The code that makes a version is the same, file by file."))
    elif a.code.sources_sha256 != b.code.sources_sha256:
        said.append("The code that makes a version changed; a record is from before its files were named.")
    said.append(_values("libraries and machine", found["libraries"], "The libraries and the machine are the same."))
    turned = [f"{one.name} ({one.before} → {one.after})" for one in found["gates"] if one.before != one.after]
    if turned:
        said.append(f"Gates with another verdict: {', '.join(turned)}.")
    return said


def _of_partitions(changes: Sequence[Change], a: Lineage, b: Lineage) -> str:
    added = [one.name for one in changes if one.before is None]
    gone = [one.name for one in changes if one.after is None]
    revised = [one.name for one in changes if one.before is not None and one.after is not None]
    parts = [
        f"{len(names)} {what} ({_some(names)})"
        for names, what in ((added, "more"), (gone, "gone"), (revised, "revised"))
        if names
    ]
    rows = f"{a.train_rows + a.judge_rows:,} rows before, {b.train_rows + b.judge_rows:,} now"
    return f"Partitions: {'; '.join(parts) if parts else 'the same'}; {rows}."


def _named(what: str, changes: Sequence[Change], none: str) -> str:
    kinds = {
        "new": [one.name for one in changes if one.before is None],
        "gone": [one.name for one in changes if one.after is None],
        "changed": [one.name for one in changes if one.before is not None and one.after is not None],
    }
    parts = [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names]
    return f"{what[0].upper()}{what[1:]}: {'; '.join(parts)}." if parts else none


def _values(what: str, changes: Sequence[Change], none: str) -> str:
    told = [f"{one.name} {_value(one.before)} → {_value(one.after)}" for one in changes]
    more = f" and {len(told) - MOST_NAMED} more" if len(told) > MOST_NAMED else ""
    return f"{what[0].upper()}{what[1:]}: {', '.join(told[:MOST_NAMED])}{more}." if told else none


def _some(names: Sequence[str]) -> str:
    if len(names) > MOST_NAMED:
        return f"{names[0]} to {names[-1]}" if names == sorted(names) else f"{', '.join(names[:MOST_NAMED])}, …"
    return ", ".join(names)


def _value(value: Any) -> str:
    return "none" if value is None else str(value)


def _percent(before: float, after: float) -> str:
    if not before:
        return "no share can be given of nothing"
    share = after / before - 1
    if abs(share) < 0.0005:  # which would be printed as 0.0%
        return "the same" if share == 0 else "next to the same"
    return f"{abs(share):.1%} {'less' if share < 0 else 'more'}"


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    names = dict.fromkeys([*before, *after])
    return tuple(
        Change(name=name, before=before.get(name), after=after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    )


def _data(one: Lineage) -> dict[str, Any]:
    moments = {name: f"{getattr(one.window, name):%Y-%m-%d %H:%M} UTC" for name in ("start", "split", "end")}
    return {
        "rows that train": one.train_rows, "rows that judge": one.judge_rows, **moments,
        "training set sha256": one.training_set_sha256, "definitions sha256": one.feature_definitions_sha256,
    }  # fmt: skip


def _parameters(one: Lineage) -> dict[str, Any]:
    return {"estimator": one.estimator, **one.params, "seed": one.seed, "threads": one.threads, "trials": one.trials}


def _libraries(one: Lineage) -> dict[str, Any]:
    machine = one.code.machine.model_dump(mode="json") if one.code.machine else {}
    instructions = " ".join(machine.pop("instructions", []))
    return {
        "commit": one.code.commit, "lock file sha256": one.code.lock_sha256, "python": one.code.python, **one.code.libraries,
        **machine, **({"instructions": instructions} if instructions else {}),
    }  # fmt: skip


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {key: one for part, inner in value.items() for key, one in _flat(inner, f"{name}.{part}").items()}
    return {name.removeprefix("."): value}


def _importance(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[Figure, ...]:
    names = dict.fromkeys([*after, *before])
    found = [Figure(name=name, part="judge", before=before.get(name), after=after.get(name)) for name in names]
    return tuple(sorted(found, key=lambda one: -max(one.before or 0, one.after or 0)))


def _slices(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> tuple[SliceChange, ...]:
    was, now = ({f"{one['column']} = {one['value']}": one for one in parts} for parts in (before, after))
    return tuple(
        SliceChange(
            name=name, rows=(was.get(name, {}).get("rows", 0), now.get(name, {}).get("rows", 0)),
            before=was.get(name, {}).get("error"), after=now.get(name, {}).get("error"),
            champion=now.get(name, {}).get("champion"),
        )
        for name in dict.fromkeys([*was, *now])
    )  # fmt: skip


def _gates(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> tuple[GateChange, ...]:
    was, now = ({one["gate"]: one for one in gates} for gates in (before, after))
    return tuple(
        GateChange(
            name=name, before=_verdict(was.get(name)), after=_verdict(now.get(name)),
            numbers=(was.get(name, {}).get("number"), now.get(name, {}).get("number")),
            reason=(now.get(name) or was[name])["reason"],
        )
        for name in dict.fromkeys([*was, *now])
    )  # fmt: skip


def _verdict(gate: Mapping[str, Any] | None) -> str:
    return "not judged" if gate is None else "passed" if gate["passed"] else "failed"
