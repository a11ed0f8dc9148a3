"""A graph as plain data: nodes of the chain that made a version, edges from what was there before to what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from flows.spec import Frozen

Kind = Literal[
    "ingest", "partition", "validation", "featurize", "view", "service", "code", "libraries", "parameters", "training set",
    "training", "step", "champion", "gate", "version", "trial", "promotion", "prediction",
]  # fmt: skip


Verdict = Literal["", "passed", "failed"]


class Node(Frozen):
    """One thing of the chain; ``state`` says how it came out, where that means something."""

    id: str
    kind: Kind
    title: str
    state: Verdict = ""
    facts: dict[str, Any] = Field(default_factory=dict)


class Edge(Frozen):
    """From what was there before to what came of it; ``label`` is how."""

    source: str
    target: str
    label: str


class Graph(Frozen):
    """The whole chain of a version, or of a prediction of it."""

    model: str
    version: int
    request_id: str | None
    card: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    gaps: tuple[str, ...]

    def of(self, *kinds: Kind) -> list[Node]:
        """Return the nodes of some kinds, in their order."""
        return [node for node in self.nodes if node.kind in kinds]


@dataclass
class Draft:
    """A graph that is being built; what is added twice is there once."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: dict[tuple[str, str], Edge] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)

    def add(self, kind: Kind, name: object, title: str, state: Verdict = "", /, **facts: Any) -> str:
        """Add a node and return its id."""
        node = Node(id=f"{kind}:{name}".replace(" ", "-"), kind=kind, title=title, state=state, facts=facts)
        self.nodes.setdefault(node.id, node)
        return node.id

    def join(self, sources: str | Iterable[str], target: str, label: str) -> None:
        """Add edges from some nodes to one."""
        for source in [sources] if isinstance(sources, str) else sources:
            self.edges.setdefault((source, target), Edge(source=source, target=target, label=label))
