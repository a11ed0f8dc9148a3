"""A model's files with an experiment's code in them: the factory replaced, the rest kept, the spec's parameters set.

Works on texts and runs none of them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from flows.errors import RefusedError
from flows.steps.research.writing import Name, Written, import_lines, stacked

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def merged(old: str, new: str, path: str, own: set[str]) -> str:
    """Return the text of an estimator module in which all that ``new`` defines stands in the place of the old factory.

    ``path`` is the factory's, as ``module:name``. Definitions of the same names are replaced, imports joined; those that
    served the old factory alone are left out, and what ``new`` imports from the module itself is what stands there.
    Raises RefusedError if both import one name from different places, ``new`` does not define the factory, or the module
    not what ``new`` takes from it.
    """
    module, _, factory = path.partition(":")
    before, after = ast.parse(old), ast.parse(new)
    defined = {name for node in after.body for name in _bound(node)}
    if factory not in defined:
        raise RefusedError(
            f"the experiment's code defines no {factory}; run the experiment again, the spec has changed"
        )
    gone = [node for node in before.body if _bound(node) and set(_bound(node)) <= defined | {factory}]
    kept = [node for node in before.body if node not in gone and not _is_import(node)]
    place = next((node.lineno for node in gone if factory in _bound(node)), len(old.splitlines()) + 1)
    fresh_imports = list(_imports(after))
    itself = {one.name for one in fresh_imports if one.module == module}
    if missing := itself - {name for node in kept for name in _bound(node)}:
        raise RefusedError(
            f"{module} defines no {', '.join(sorted(missing))}, which the experiment's code takes from there"
        )
    start = max([place, *((node.end_lineno or 0) + 1 for node in kept if itself & set(_bound(node)))])
    others = [one for one in fresh_imports if one.module != module]
    imports = _joined(before, [*kept, *_body(after)], [*gone, *kept], others)
    lines = _without(old.splitlines(), [*gone, *filter(_is_import, before.body)], place)
    first = 0 if ast.get_docstring(before) is None else before.body[0].end_lineno or 0
    fresh = new.splitlines()[_start(_body(after)[0]) - 1 :]
    parts = (lines[:first], lines[first : start - 1], fresh, lines[start - 1 :])
    title, above, middle, below = ("\n".join(part).strip("\n") for part in parts)
    return stacked(title, import_lines(imports, own), above, middle, below)


def with_params(text: str, params: dict[str, Any]) -> str | None:
    """Return the text of a spec module with other ``params`` in its ModelSpec(...); None if it has no such literal."""
    calls = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "ModelSpec"
    ]
    if len(calls) != 1:
        return None
    named = {keyword.arg: keyword for keyword in calls[0].keywords}
    lines = text.encode().splitlines(keepends=True)
    if "params" in named:
        value = named["params"].value
        if not isinstance(value, ast.Dict):
            return None
        start, stop = (value.lineno, value.col_offset), (value.end_lineno, value.end_col_offset)
        made = ""
    elif "estimator" in named:
        at = named["estimator"].value
        start = stop = (at.end_lineno or 0, at.end_col_offset or 0)
        made = f",\n{' ' * named['estimator'].col_offset}params="
    else:
        return None
    line = lines[start[0] - 1]
    indent = len(line) - len(line.lstrip())
    made += Written().value(params, indent, start[1])
    head = b"".join(lines[: start[0] - 1]) + line[: start[1]]
    tail = lines[(stop[0] or 0) - 1][stop[1] :] + b"".join(lines[stop[0] :])
    return (head + made.encode() + tail).decode()


def _joined(before: ast.Module, stays: list[ast.stmt], was: list[ast.stmt], fresh: list[Name]) -> list[Name]:
    """Return the imports of a module and fresh ones that are of use, or were of none to begin with."""
    used, earlier = _used(stays), _used(was)
    found: dict[str, Name] = {}
    for name in _imports(before):
        if name.bound in used or name.bound not in earlier:
            found[name.bound] = name
    rest = _used([node for node in stays if node in before.body])
    for name in fresh:
        known = found.get(name.bound, name)
        if known != name and name.bound in rest:
            raise RefusedError(
                f"the model's code imports {name.bound} from {known.module}, the experiment's from {name.module}; rename one"
            )
        found[name.bound] = name
    return list(found.values())


def _imports(module: ast.Module) -> Iterator[Name]:
    for node in module.body:
        if isinstance(node, ast.Import):
            for one in node.names:
                yield Name(one.name, "", one.asname or one.name.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            for one in node.names:
                yield Name("." * node.level + (node.module or ""), one.name, one.asname or one.name)


def _used(nodes: list[ast.stmt]) -> set[str]:
    """Return the names that statements use; a text that could be one counts, as in ``__all__`` or an annotation."""
    found: set[str] = set()
    for statement in nodes:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                found.add(node.value)
    return found


def _bound(node: ast.stmt) -> list[str]:
    """Return the names that a definition or an assignment at the top of a module gives."""
    if isinstance(node, Definition):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [one.id for one in targets if isinstance(one, ast.Name)]


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _body(module: ast.Module) -> list[ast.stmt]:
    return [node for node in module.body if not _is_import(node) and not _is_text(node)]


def _start(node: ast.stmt) -> int:
    decorators = node.decorator_list if isinstance(node, Definition) else []
    return min([node.lineno, *(one.lineno for one in decorators)])


def _without(lines: list[str], nodes: list[ast.stmt], place: int) -> list[str]:
    """Return as many lines, those of some statements empty, and of the comments that stand right above the factory."""
    found = list(lines)
    for node in nodes:
        first, last = _start(node), node.end_lineno or node.lineno
        found[first - 1 : last] = [""] * (last - first + 1)
        while first > 1 and place in range(node.lineno, last + 1) and found[first - 2].startswith("#"):
            first -= 1
            found[first - 1] = ""
    return found
