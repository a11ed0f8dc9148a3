"""The picture of a lineage graph: boxes in layers from data to predictions, as numbers that a template turns into SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flows.spec import Frozen
from flows.steps.graph import Graph, Kind, Node
from flows.steps.pages import number

WIDTH, MARGIN, GAP, LAYER_GAP = 1040.0, 4.0, 16.0, 44.0
LINE, PAD, HEAD = 17.0, 12.0, 24.0  # height of a line, space around, height of a box's title
CHARACTER = 6.6  # width of one, in a box's lines
MOST = 4  # of a kind that is drawn one by one; more are one box
# Kinds that are always one box: there are many of them, and what counts is all of them together.
TOGETHER: dict[Kind, str] = {
    "ingest": "Runs of ingest", "partition": "Partitions", "validation": "Validations", "featurize": "Runs of featurize",
    "step": "Steps",
    "gate": "Gates", "view": "Feature views", "promotion": "Promotions", "prediction": "Predictions", "trial": "Trials",
    "champion": "Champions before",
}  # fmt: skip
ALWAYS: tuple[Kind, ...] = ("ingest", "partition", "validation", "featurize", "step", "gate")
LAYERS: tuple[tuple[Kind, ...], ...] = (
    ("ingest", "partition"), ("validation", "featurize"), ("view",), ("service", "code", "libraries", "parameters"),
    ("training set", "training"), ("step", "champion"), ("gate",), ("version",), ("trial", "promotion"), ("prediction",),
)  # fmt: skip
SHARE: dict[Kind, float] = {"partition": 3.0, "validation": 3.0, "step": 3.0, "training": 1.5}  # of a layer's width


class Cell(Frozen):
    """One of many in a box: a small rectangle with a title of its own."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str
    label: str = ""


class Box(Frozen):
    """A box with its title, lines and cells; all numbers are in the picture's units."""

    id: str
    kind: Kind
    state: str
    title: str
    lines: tuple[str, ...]
    cells: tuple[Cell, ...]
    x: float
    y: float
    width: float
    height: float


class Picture(Frozen):
    """What is drawn: boxes, and the paths between them with their labels."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    paths: tuple[tuple[str, str], ...]


def draw(graph: Graph) -> Picture:
    """Return the picture of a graph, its layers from top to bottom."""
    boxes: list[Box] = []
    place: dict[str, Box] = {}
    top = MARGIN
    for kinds in LAYERS:
        groups = [group for kind in kinds for group in _groups(graph.of(kind), kind)]
        if not groups:
            continue
        room = WIDTH - 2 * MARGIN - GAP * (len(groups) - 1)
        shares = [SHARE.get(group[0].kind, 1.0) for group in groups]
        left, layer = MARGIN, []
        for group, share in zip(groups, shares, strict=True):
            width = room * share / sum(shares)
            layer.append((group, left, width))
            left += width + GAP
        height = max(_height(group, width) for group, _, width in layer)
        for group, x, width in layer:
            box = _box(group, x, top, width, height)
            boxes.append(box)
            place |= {node.id: box for node in group}
        top += height + LAYER_GAP
    return Picture(width=WIDTH, height=top - LAYER_GAP + MARGIN, boxes=tuple(boxes), paths=_paths(graph, place))


def _groups(nodes: Sequence[Node], kind: Kind) -> list[list[Node]]:
    if not nodes:
        return []
    return [list(nodes)] if kind in ALWAYS or len(nodes) > MOST else [[node] for node in nodes]


def _height(group: Sequence[Node], width: float) -> float:
    lines = len(_lines(group, width))
    cells = 30.0 if _has_cells(group) else 0.0
    return HEAD + PAD + LINE * lines + cells + (4.0 if lines or cells else 0.0)


def _has_cells(group: Sequence[Node]) -> bool:
    return group[0].kind in ("partition", "validation", "step", "gate")


def _box(group: Sequence[Node], x: float, y: float, width: float, height: float) -> Box:
    first = group[0]
    failed = [node for node in group if node.state == "failed"]
    title = first.title
    if first.kind in TOGETHER and (first.kind in ALWAYS or len(group) > 1):
        name = TOGETHER[first.kind]
        title = f"{len(group)} {name[0].lower()}{name[1:]}" if len(group) > 1 else name.replace("Runs", "Run")
    elif first.kind == "view":
        title = f"View {title}"
    return Box(
        id=first.id, kind=first.kind, x=round(x, 1), y=round(y, 1), width=round(width, 1), height=round(height, 1),
        state="failed" if failed else "passed" if first.state == "passed" else "",
        title=_cut(title, width - 2 * PAD, 7.4),
        lines=tuple(_lines(group, width)), cells=tuple(_cells(group, x, y + height - 38.0, width)),
    )  # fmt: skip


def _lines(group: Sequence[Node], width: float) -> list[str]:
    """Return what a box says beside its title, as much as it has room for."""
    return [_cut(text, width - 2 * PAD, CHARACTER) for text in _said(group)]


def _said(group: Sequence[Node]) -> list[str]:
    first, last, many = group[0].facts, group[-1].facts, len(group)
    match group[0].kind:
        case "partition":
            keys = sorted(node.title for node in group)
            return [f"{keys[0]} to {keys[-1]}", f"{sum(node.facts['accepted'] for node in group):,} rows accepted"]
        case "validation":
            passed = sum(node.state == "passed" for node in group)
            split = sum(bool(node.facts["split_off"]) for node in group)
            return [f"every check held on {passed}; rows split off from {split}"]
        case "ingest" | "featurize" | "prediction" if many > 1:
            return [group[0].title.split(" ", 1)[-1], f"to {group[-1].title.split(' ', 1)[-1]}"]
        case "ingest" | "featurize":
            return [f"{first['start']:%Y-%m-%d %H:%M} UTC", str(first["executor"])]
        case "prediction":
            return [f"{first['at']:%Y-%m-%d %H:%M:%S} UTC", f"answered {number(first['prediction'])}"]
        case "view" if many > 1:
            return [f"{many} views"]
        case "view":
            return [f"{len(first['fields'])} fields", f"{len(first['files'])} files" if first["files"] else "on demand"]
        case "service":
            return [f"{len(first['features'])} features", f"definitions {first['definitions_sha256'][:12]}"]
        case "code":
            changes = " + changes" if first["changed"] else ""
            commit = f"commit {first['commit'][:12]}{changes}" if first["commit"] else "no commit"
            return [commit, f"sources {first['sources_sha256'][:12]}"]
        case "libraries":
            return [f"Python {first['python']}", f"lock {(first['lock_sha256'] or 'none')[:12]}"]
        case "parameters":
            told = ("estimator", "seed", "threads", "trials")
            rest = ", ".join(f"{name} {value}" for name, value in first.items() if name not in told)
            return [first["estimator"].rpartition(".")[2], rest]
        case "training set":
            rows = f"{first['train_rows']:,} rows train, {first['judge_rows']:,} judge"
            return [rows, f"sha256 {first['sha256'][:12]}"]
        case "training":
            return [str(first["reason"]), f"by {first['executor']}"]
        case "step":
            seconds = (last["end"] - first["start"]).total_seconds()
            return [f"{first['start']:%Y-%m-%d %H:%M:%S} UTC, {seconds:.1f} s to the last"]
        case "champion" if many > 1:
            return [f"back to {group[-1].title}"]
        case "champion":
            return [f"made {first['made']:%Y-%m-%d %H:%M}", "champion then"]
        case "version":
            made = f"made {first['made']:%Y-%m-%d %H:%M} UTC, digest {first['digest'][:12]}"
            return [made, f"because: {first['reason']}"]
        case "promotion":
            newest = [f"the last: {group[-1].title}"] if many > 1 else []
            return [*newest, f"{last['at']:%Y-%m-%d %H:%M:%S} UTC", f"{last['who']}: {last['why']}"]
        case "trial":
            return [f"{first['state']}, beside version {first['beside']}", f"{first['who']}: {first['why']}"]
    return []


def _cells(group: Sequence[Node], x: float, y: float, width: float) -> list[Cell]:
    """Return a cell for each partition, validation, step or gate of a box, over its whole width."""
    if not _has_cells(group):
        return []
    room = width - 2 * PAD
    if group[0].kind == "step":
        start, end = group[0].facts["start"], max(node.facts["end"] for node in group)
        whole = max((end - start).total_seconds(), 1e-9)
        return [
            Cell(
                x=round(x + PAD + room * (node.facts["start"] - start).total_seconds() / whole, 1), y=round(y, 1),
                width=round(max(room * (node.facts["end"] - node.facts["start"]).total_seconds() / whole, 1.5), 1),
                height=26.0, kind="odd" if place % 2 else "even",
                title=_title(node),
            )
            for place, node in enumerate(group)
        ]  # fmt: skip
    step = room / len(group)
    rows = max((node.facts.get("accepted") or 0 for node in group), default=0) or 1
    cells = []
    for place, node in enumerate(group):
        tall = 6.0 + 20.0 * (node.facts["accepted"] / rows if node.kind == "partition" else 1.0)
        kind: str = node.state or ("quiet" if node.facts.get("use") == "features alone" else "even")
        kind = "some" if node.state == "passed" and node.facts.get("split_off") else kind
        cells.append(
            Cell(
                x=round(x + PAD + step * place, 1), y=round(y + 26.0 - tall, 1), height=round(tall, 1),
                width=round(max(step - min(2.0, step / 4), 0.5), 1), kind=kind, title=_title(node),
                label=_cut(node.title, step - 10.0, CHARACTER) if node.kind == "gate" else "",
            )
        )  # fmt: skip
    return cells


def _title(node: Node) -> str:
    if node.kind == "partition":
        return f"{node.title}: {node.facts['accepted']:,} rows, sha256 {node.facts['digest'][:12]}"
    if node.kind == "step":
        seconds = (node.facts["end"] - node.facts["start"]).total_seconds()
        return f"{node.title}: {seconds:.2f} s, {node.facts['executor']}"
    if node.kind == "gate":
        return (
            f"{node.title}: {number(node.facts['number'])}, {node.facts['direction']} {number(node.facts['threshold'])}"
        )
    return f"{node.id.partition(':')[2]}: {node.title}"


def _paths(graph: Graph, place: dict[str, Box]) -> tuple[tuple[str, str], ...]:
    """Return a curve for each two boxes that edges join, once, with what joins them."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for edge in graph.edges:
        a, b = place[edge.source], place[edge.target]
        if a is not b and (a.id, b.id) not in found:
            found[a.id, b.id] = (_curve(a, b), f"{a.title} → {b.title}: {edge.label}")
    return tuple(found.values())


def _curve(a: Box, b: Box) -> str:
    if a.y == b.y:  # side by side
        left, right = (a, b) if a.x < b.x else (b, a)
        y = a.y + a.height / 2
        start, end = left.x + left.width, right.x
        return f"M{start:.1f} {y:.1f}H{end:.1f}" if a is left else f"M{end:.1f} {y:.1f}H{start:.1f}"
    upper, lower = (a, b) if a.y < b.y else (b, a)
    x1, y1, x2, y2 = upper.x + upper.width / 2, upper.y + upper.height, lower.x + lower.width / 2, lower.y
    x1, x2 = _near(x1, x2, upper), _near(x2, x1, lower)
    bend = max((y2 - y1) / 2, 14.0)
    return f"M{x1:.1f} {y1:.1f}C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} {x2:.1f} {y2:.1f}"


def _near(own: float, other: float, box: Box) -> float:
    """Return where a curve leaves a box: towards the other one, not beyond a fifth of its width from its middle."""
    reach = box.width / 5
    return min(max(other, own - reach), own + reach)


def _cut(text: Any, width: float, character: float) -> str:
    most = max(int(width / character), 4)
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
