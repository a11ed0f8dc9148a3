"""What a person is shown of a lineage, of a reproduction and of the difference of two versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flows.steps.pages import moment, number
from flows.terminal import BAD, GOOD, QUIET, console, line, table

if TYPE_CHECKING:
    from flows.steps.graph import Graph
    from flows.steps.reproduction import Reproduction
    from flows.steps.reproduction_causes import Cause
    from flows.steps.version_diff import Change, Difference

SHORT = 12  # digits of a hash


def show_graph(graph: Graph) -> None:
    """Show the chain from what became of the version back to its data."""
    (version,) = graph.of("version")
    line(f"{version.title}, made {moment(version.facts['made'])} because: {version.facts['reason']}", "bold")
    for gap in graph.gaps:
        line(f"gap: {gap}", BAD)
    answered = graph.of("prediction")
    if answered:
        rows = [
            (
                node.title,
                moment(node.facts["at"]),
                node.facts["role"],
                number(node.facts["prediction"]),
                _row(node.facts),
            )
            for node in answered
        ]
        console.print(table(["answer", "at", "role", "prediction", "request"], rows))
    became = [
        *((one.title, one.facts["state"], one.facts["start"], one.facts["who"], one.facts["why"]) for one in graph.of("trial")),
        *((one.title, "", one.facts["at"], one.facts["who"], one.facts["why"]) for one in graph.of("promotion")),
    ]  # fmt: skip
    if became:
        console.print(
            table(["became", "", "at", "by", "why"], [(a, b, moment(at), who, why) for a, b, at, who, why in became])
        )
    else:
        line("never promoted", QUIET)
    gates = [
        (one.title, one.state, number(one.facts["number"]), f"{one.facts['direction']} {number(one.facts['threshold'])}",
         one.facts["reason"])
        for one in graph.of("gate")
    ]  # fmt: skip
    console.print(table(["gate", "verdict", "number", "threshold", "reason"], gates))
    line(_parents(graph))
    (training,) = graph.of("training")
    steps = [
        (one.title, f"{one.facts['start']:%Y-%m-%d %H:%M:%S}", f"{(one.facts['end'] - one.facts['start']).total_seconds():.2f}",
         one.facts["executor"])
        for one in graph.of("step")
    ]  # fmt: skip
    console.print(
        table(["step", "start, UTC", "seconds", "executor"], steps, f"Training run {training.id.split(':')[1]}")
    )
    _made_of(graph)
    checks = {node.id.partition(":")[2]: node for node in graph.of("validation")}
    partitions = [
        (one.title, one.facts["use"], number(one.facts["accepted"]), number(one.facts["rejected"]),
         f"{checks[one.id.partition(':')[2]].title} passed", one.facts["digest"][:SHORT],
         (one.facts["accepted_sha256"] or "-")[:SHORT])
        for one in graph.of("partition")
    ]  # fmt: skip
    console.print(
        table(["partition", "for", "rows", "rejected", "validation", "rows sha256", "file sha256"], partitions)
    )
    line(f"{len(graph.nodes)} things, {len(graph.edges)} links; the whole hashes: --json")
    if graph.card:
        line(f"model card: {graph.card}", QUIET)


def _made_of(graph: Graph) -> None:
    (made,), (code,), (libraries,), (parameters,), (service,) = (
        graph.of(kind) for kind in ("training set", "code", "libraries", "parameters", "service")
    )
    facts = made.facts
    commit = f"{code.facts['commit'] or 'outside a checkout'}{' with changes' if code.facts['changed'] else ''}"
    hidden = ("lock_sha256", "machine")
    rows = [
        ("training set", f"{facts['train_rows']:,} rows train, {facts['judge_rows']:,} judge; sha256 {facts['sha256'][:SHORT]}; "
         f"{moment(facts['start'])} to {moment(facts['end'])}, split at {moment(facts['split'])}"),
        ("features", f"{len(service.facts['features'])} of {service.title}; "
         f"definitions {service.facts['definitions_sha256'][:SHORT]}"),
        ("parameters", ", ".join(f"{name} {value}" for name, value in parameters.facts.items())),
        ("code", f"commit {commit}; sources {code.facts['sources_sha256'][:SHORT]}"),
        ("libraries", ", ".join(f"{name} {value}" for name, value in libraries.facts.items() if name not in hidden)),
        ("lock file", (libraries.facts["lock_sha256"] or "none")[:SHORT]),
    ]  # fmt: skip
    console.print(table(["made of", ""], rows))


def _parents(graph: Graph) -> str:
    parents = [node.title for node in graph.of("champion")]
    if not parents:
        return "There was no champion to be judged against."
    return f"Judged against {parents[0]}" + (
        f", that against {', that against '.join(parents[1:])}." if parents[1:] else "."
    )


def _row(facts: dict[str, object]) -> str:
    request = facts["request"]
    return ", ".join(f"{name} {value}" for name, value in request.items()) if isinstance(request, dict) else ""


def show_causes(causes: Sequence[Cause]) -> None:
    """Show what is not as the record says, before anything is made again."""
    if causes:
        console.print(
            table(
                ["differs", "what", "recorded", "here"],
                [(one.kind, one.what, one.recorded, one.here) for one in causes],
            )
        )
    else:
        line("Data, features, code, libraries and threads are as the record says.")


def show_reproduction(found: Reproduction) -> None:
    """Show what was made again, and whether it is the same; what differed before was shown by ``show_causes``."""
    if found.checks:
        rows = [
            (one.what, "same" if one.same else "differs", _brief(one.recorded), _brief(one.here))
            for one in found.checks
        ]
        console.print(table(["made again", "", "recorded", "here"], rows))
    name = f"{found.model} version {found.version}"
    if found.same:
        line(f"{name} comes out again, to the bit" + (", in spite of what differs" if found.causes else ""), GOOD)
        return
    line(f"{name} {'comes out otherwise' if found.made else 'could not be made again'}; causes:", BAD)
    for cause in found.causes:
        change = (
            f": {cause.recorded or 'not there'} → {cause.here or 'not there'}" if cause.recorded or cause.here else ""
        )
        line(f"  {cause.kind}: {cause.what}{change}")
    if found.commit and any(cause.kind in ("code", "library") for cause in found.causes):
        line(f"To have its code and libraries: git switch --detach {found.commit} && uv sync --frozen", QUIET)


def show_difference(found: Difference) -> None:
    """Show what changed, in words and tables."""
    for text in found.words:
        line(text)
    rows = [
        (one.name, "newest" if one.part == "judge" else "training", number(one.before), number(one.after))
        for one in found.figures
    ]
    versions = [f"version {found.before}", f"version {found.after}"]
    console.print(table(["figure", "rows", *versions], rows))
    if found.slices:
        parts = [(one.name, number(one.before), number(one.after), number(one.champion)) for one in found.slices]
        console.print(table(["slice", *versions, "its champion, same rows"], parts))
    gates = [(one.name, one.before, one.after, *map(number, one.numbers)) for one in found.gates]
    console.print(table(["gate", *versions, f"number {found.before}", f"number {found.after}"], gates))
    changes = [
        *_rows("data", found.data), *_rows("partition", found.partitions), *_rows("feature", found.features),
        *_rows("view", found.views), *_rows("parameter", found.parameters), *_rows("spec", found.spec),
        *_rows("module", found.code), *_rows("library", found.libraries),
    ]  # fmt: skip
    console.print(table(["changed", "what", *versions], changes))


def _rows(kind: str, changes: Sequence[Change]) -> list[tuple[object, ...]]:
    return [(kind, one.name, _brief(one.before), _brief(one.after)) for one in changes]


def _brief(value: object) -> str:
    """Return a value for a cell; of a hash its beginning."""
    words = ("-" if value is None else str(value)).split(" ")
    return " ".join(word[:SHORT] if len(word) == 64 else word for word in words)
