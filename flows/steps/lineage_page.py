"""The page of a lineage: the graph as a picture that needs nothing from elsewhere, and each of its nodes in words."""

from __future__ import annotations

from pathlib import Path

from flows.steps import graph_drawing, pages
from flows.steps.graph import Graph


def write(graph: Graph, path: Path) -> Path:
    """Write the page of a graph and return its path."""
    card = Path(graph.card)
    return pages.write(
        path,
        "lineage.html.j2",
        graph=graph,
        picture=graph_drawing.draw(graph),
        version=graph.of("version")[0],
        code=graph.of("code")[0].facts,
        card=card.as_uri() if card.is_absolute() else graph.card,
        validations={node.id.partition(":")[2]: node.facts for node in graph.of("validation")},
    )
