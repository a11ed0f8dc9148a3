"""Lines of code, counted alike in Python and YAML: neither blank nor comment nor docstring."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path


def lines_of(paths: Iterable[Path]) -> float:
    """Return how many lines of code the files hold."""
    return float(sum(len(code_lines(path)) for path in paths))


def code_lines(path: Path) -> list[str]:
    """Return the lines of a Python or a YAML file that are neither blank nor comment nor docstring."""
    text = path.read_text(encoding="utf-8")
    told = set()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0] if node.body else None
                if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                    told |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    numbered = enumerate(text.splitlines(), 1)
    return [line for place, line in numbered if place not in told and line.strip() and not line.strip().startswith("#")]
