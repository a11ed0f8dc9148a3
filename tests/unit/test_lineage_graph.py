"""The lineage graph as data: the whole chain, and each gap by its name; its picture and its page."""

import re

import pytest
from lineage_parts import hours, partition, promotion, record, run

from flows.steps import graph_drawing, lineage_page
from flows.steps.graph import Graph
from flows.steps.lineage_facts import Answered, Facts
from flows.steps.lineage_graph import build

ANSWER = Answered(
    request_id="abc", row=0, at=hours(124.5), version=2, role="served", prediction=7.5, request={"miles": 2}, unknown=()
)


def facts(**values) -> Facts:
    """Return the facts of version 2, promoted, rolled back and promoted again, with one answer of its second reign."""
    whole = {
        "record": record(2, champion=1), "ancestors": (record(1),), "partitions": (partition(1), partition(2)),
        "runs": (run("ingest", 100), run("featurize", 101), run("train", 110, "run-2")),
        "promotions": (
            promotion(1, 1, None), promotion(2, 2, 1), promotion(3, 1, 2, "rollback"), promotion(4, 2, 1),
        ),
        "answered": (ANSWER,),
    }  # fmt: skip
    return Facts(**(whole | values))


def behind(graph: Graph, node: str) -> set[str]:
    """Return the kinds of all nodes that lead to a node."""
    found, waiting = set(), [node]
    while waiting:
        one = waiting.pop()
        for edge in graph.edges:
            if edge.target == one and edge.source not in found:
                found.add(edge.source)
                waiting.append(edge.source)
    return {name.partition(":")[0] for name in found}


def test_from_an_answer_the_chain_leads_back_to_all_that_made_it():
    graph = build(facts())
    assert graph.gaps == ()
    assert behind(graph, "prediction:abc:0") == {
        "ingest", "partition", "validation", "featurize", "view", "service", "code", "libraries", "parameters", "training-set",
        "training", "step", "champion", "gate", "version", "promotion",
    }  # fmt: skip
    assert [edge.source for edge in graph.edges if edge.target == "prediction:abc:0"] == ["promotion:4"]


def test_every_edge_joins_nodes_that_are_there_and_every_node_is_joined():
    graph = build(facts())
    names = {node.id for node in graph.nodes}
    ends = {name for edge in graph.edges for name in (edge.source, edge.target)}
    assert ends == names


def test_the_promotions_of_a_version_and_what_took_it_back_follow_each_other():
    graph = build(facts())
    assert [node.title for node in graph.of("promotion")] == [
        "promote to version 2", "rollback to version 1", "promote to version 2"
    ]  # fmt: skip
    assert ("promotion:2", "promotion:3") in {(edge.source, edge.target) for edge in graph.edges}
    assert {edge.target for edge in graph.edges if edge.source == "version:2"} == {"promotion:2", "promotion:4"}


@pytest.mark.parametrize(
    ("change", "gap"),
    [
        ({"partitions": (partition(1),)}, "partition 2024-01-02 r1 is not in the ledger"),
        ({"partitions": (partition(1), partition(2, digest="0" * 64))}, "2024-01-02 r1 has another hash in the ledger"),
        ({"runs": (run("featurize", 101), run("train", 110, "run-2"))}, "no run of ingest in the ledger took in"),
        ({"runs": (run("ingest", 100), run("featurize", 101))}, "the training run run-2 is not in the ledger"),
        ({"ancestors": ()}, "version 1, the champion that it was judged against, cannot be read"),
        ({"record": record(2, days=(), champion=1)}, "the record names no partition"),
        ({"record": record(2, champion=1, stages=()), "runs": ()}, "the record names no training step"),
        ({"promotions": ()}, "version 2 answered abc without a promotion or a trial"),
        ({"promotions": (promotion(1, 2, None).model_copy(update={"digest": "0" * 64}),)}, "served other files"),
    ],
)
def test_what_is_missing_is_named(change, gap):
    assert any(gap in found for found in build(facts(**change)).gaps)


def test_the_champions_before_are_a_chain():
    graph = build(facts(record=record(3, champion=2), ancestors=(record(2, champion=1), record(1)), answered=()))
    edges = {(edge.source, edge.target) for edge in graph.edges if edge.label == "judged against"}
    assert edges == {("champion:2", "gate:champion"), ("champion:1", "champion:2")}


def test_the_boxes_of_champions_before_say_all_that_they_have_to_say():
    before = (record(3, champion=2), record(2, champion=1), record(1))
    graph = build(facts(record=record(4, champion=3), ancestors=before, promotions=(), answered=()))
    boxes = [box for box in graph_drawing.draw(graph).boxes if box.kind == "champion"]
    assert len(boxes) == 3
    assert not [text for box in boxes for text in (box.title, *box.lines) if "…" in text]


def test_in_the_picture_every_node_has_a_box_and_no_two_boxes_touch():
    graph = build(facts())
    picture = graph_drawing.draw(graph)
    assert {box.kind for box in picture.boxes} == {node.kind for node in graph.nodes}
    for place, a in enumerate(picture.boxes):
        assert a.x >= 0
        assert a.x + a.width <= picture.width
        assert a.y + a.height <= picture.height
        for b in picture.boxes[place + 1 :]:
            apart = a.x + a.width < b.x or b.x + b.width < a.x or a.y + a.height < b.y or b.y + b.height < a.y
            assert apart, (a.title, b.title)


def test_many_partitions_are_one_box_with_a_cell_each():
    days = tuple(range(1, 29))
    graph = build(facts(record=record(2, days=days, champion=1), partitions=tuple(map(partition, days))))
    (box,) = [box for box in graph_drawing.draw(graph).boxes if box.kind == "partition"]
    assert (box.title, len(box.cells)) == ("28 partitions", 28)
    assert all(box.x <= cell.x and cell.x + cell.width <= box.x + box.width for cell in box.cells)


def test_the_page_needs_nothing_from_elsewhere_and_escapes_what_it_shows(tmp_path):
    graph = build(facts(record=record(2, champion=1, reason="<script>alert(1)</script>")))
    page = lineage_page.write(graph, tmp_path / "page.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "<script" not in page
    targets = set(re.findall(r'<a href="#([^"]+)"', page))
    assert targets <= set(re.findall(r'id="([^"]+)"', page))
    assert "The chain is whole" in page
