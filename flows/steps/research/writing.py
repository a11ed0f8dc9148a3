"""Values as Python source: parameters, calls that make an estimator again, the imports that they need."""

from __future__ import annotations

import importlib
import inspect
import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flows.errors import ContractError

WIDTH = 110  # of a line, its indentation included


class UnwritableError(ContractError):
    """A value of which no source can be written; the message says which and what to do."""


@dataclass(frozen=True)
class Name:
    """Something that is imported: ``from module import name``, or ``import module`` where ``name`` is empty."""

    module: str
    name: str
    bound: str

    def text(self) -> str:
        """Return its import statement."""
        if not self.name:
            return f"import {self.module}" + ("" if self.bound == self.module.split(".")[0] else f" as {self.bound}")
        return f"from {self.module} import {self.name}" + ("" if self.bound == self.name else f" as {self.bound}")


@dataclass
class Written:
    """Source under way: the names that it imports."""

    imports: dict[str, Name] = field(default_factory=dict)

    def name(self, value: Any) -> str:
        """Return the name of an importable class or function, and import it; raises UnwritableError if it has none."""
        found = importable(value)
        if found is None:
            what = getattr(value, "__qualname__", None) or repr(value)[:80]
            raise UnwritableError(f"{what} cannot be imported by a name; put it into a module of the model's package")
        known = self.imports.setdefault(found.bound, found)
        if known != found:
            raise UnwritableError(f"{found.name} is in {known.module} and in {found.module}; use one of them")
        return found.bound

    def value(self, value: Any, indent: int = 0, used: int = 0) -> str:
        """Return the source of a value that begins ``used`` columns into its line, whose further lines are indented by
        ``indent``; raises UnwritableError for what has none."""
        return _laid_out(self._tree(value), indent, used)

    def _tree(self, value: Any) -> Any:
        value = bare(value)
        if value is None or isinstance(value, bool | int | float | str):
            return _leaf(value)
        if isinstance(value, list | tuple):
            opened, closed = "[]" if isinstance(value, list) else ("(", ",)" if len(value) == 1 else ")")
            return opened, [self._tree(one) for one in value], closed
        if isinstance(value, Mapping):
            return "{", [(f"{_flat(self._tree(key))}: ", self._tree(one)) for key, one in value.items()], "}"
        if callable(getattr(value, "get_params", None)) and not isinstance(value, type):
            changed = changed_params(value)
            return f"{self.name(type(value))}(", [(f"{name}=", self._tree(one)) for name, one in changed.items()], ")"
        if callable(value):
            return self.name(value)
        raise UnwritableError(
            f"a {type(value).__name__} cannot be written as source; make it in a function build(params)"
        )


def changed_params(estimator: Any) -> dict[str, Any]:
    """Return the parameters of an estimator that are not the defaults of its class."""
    known = inspect.signature(type(estimator).__init__).parameters
    return {
        name: value
        for name, value in estimator.get_params(deep=False).items()
        if name not in known or repr(known[name].default) != repr(value)
    }


def bare(value: Any) -> Any:
    """Return a value with Python's own numbers in place of numpy's, in lists, tuples and dicts as well."""
    if type(value) in (list, tuple):
        return type(value)(map(bare, value))
    if type(value) is dict:
        return {key: bare(one) for key, one in value.items()}
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () else value


def is_plain(value: Any) -> bool:
    """Say whether a value is a finite number, a text, a truth value, None, or lists, tuples and dicts of such."""
    value = bare(value)
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(one) for key, one in value.items())
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def _leaf(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if value.isprintable() else repr(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def _flat(tree: Any) -> str:
    if isinstance(tree, str):
        return tree
    opened, parts, closed = tree
    texts = [part[0] + _flat(part[1]) if _labelled(part) else _flat(part) for part in parts]
    return f"{opened}{', '.join(texts)}{closed}"


def _laid_out(tree: Any, indent: int, used: int) -> str:
    """Return a tree on one line if it fits, otherwise with a line for each part, as ruff formats it."""
    flat = _flat(tree)
    if isinstance(tree, str) or len(flat) + used <= WIDTH or not tree[1]:
        return flat
    opened, parts, closed = tree
    inner = indent + 4
    lines = []
    for part in parts:
        label, one = part if _labelled(part) else ("", part)
        lines.append(" " * inner + label + _laid_out(one, inner, inner + len(label) + 1) + ",")
    return "\n".join([opened, *lines, " " * indent + closed.lstrip(",")])


def _labelled(part: Any) -> bool:
    return isinstance(part, tuple) and len(part) == 2  # a tree has three parts


def importable(value: Any, bound: str | None = None) -> Name | None:
    """Return how a class, a function or a name of ``typing`` is imported, from the most public place; None if it is not."""
    name = getattr(value, "__name__", None) or getattr(value, "_name", None)
    module = getattr(value, "__module__", None) or ("numpy" if type(value).__name__ == "ufunc" else None)
    if not isinstance(name, str) or not isinstance(module, str) or module == "__main__":
        return None
    parts = module.split(".")
    for place in [*(".".join(parts[:count]) for count in range(1, len(parts) + 1)), "typing"]:
        try:
            found = sys.modules.get(place) or importlib.import_module(place)
        except ImportError:
            continue
        if getattr(found, name, None) is value:
            return Name(place, name, bound or name)
    return None


def import_lines(names: Iterable[Name], own: Iterable[str]) -> str:
    """Return a block of sorted imports: the standard library's, others', and those of the packages in ``own``."""
    groups: dict[int, dict[str, list[Name]]] = {}
    for one in names:
        top = one.module.split(".")[0]
        kind = 0 if one.module == "__future__" else 1 if top in sys.stdlib_module_names else 3 if top in set(own) else 2
        groups.setdefault(kind, {}).setdefault(one.module if one.name else "", []).append(one)
    blocks = []
    for kind in sorted(groups):
        lines = sorted(one.text() for one in groups[kind].pop("", []))
        for module in sorted(groups[kind]):
            found = sorted(
                groups[kind][module], key=lambda one: (not one.name.isupper(), one.name[0].islower(), one.name)
            )
            parts = [one.name if one.bound == one.name else f"{one.name} as {one.bound}" for one in found]
            line = f"from {module} import {', '.join(parts)}"
            if len(line) > WIDTH + 10:
                line = "\n".join([f"from {module} import (", *(f"    {part}," for part in parts), ")"])
            lines.append(line)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def stacked(title: str, imports: str, *parts: str) -> str:
    """Return the text of a module: its title, its imports, and parts two lines apart, as ruff formats them."""
    head = "\n\n".join(filter(None, [title, imports]))
    body = "\n\n\n".join(filter(None, parts))
    first = next((line for line in body.splitlines() if line and not line.startswith("#")), "")
    apart = "\n\n\n" if first.startswith(("def ", "class ", "async ", "@")) else "\n\n"
    return f"{head}{apart if head else ''}{body}\n"
