"""The code behind a stage: the files of our own that some modules import, found without running them."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

OURS = ("flows", "feature_repo", "deployments")
INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def code_hash(modules: Iterable[str]) -> str:
    """Return the sha256 of the modules' files and of all that they import from us, wherever the checkout lies.

    A module that is a library's, or not there, adds nothing.
    """
    files = own_files(modules)
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name].read_bytes() + b"\0")
    return digest.hexdigest()


def own_files(modules: Iterable[str]) -> dict[str, Path]:
    """Return the files of modules and of what they import, directly or not, within the function or above it, by name.

    Ours is what lies in Evergreen's packages or is not installed: a library counts by its version. The packages that a
    module lies in belong to it, for Python runs them first.
    """
    found: dict[str, Path] = {}
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        file = None if name in seen else origin(name)
        seen.add(name)
        if file is not None:
            found[name] = file
            waiting += [name.rpartition(".")[0]] if "." in name else []
            waiting += _imported(file.read_bytes(), name, file.name == "__init__.py")
    return found


def imported_files(source: str) -> dict[str, Path]:
    """Return the files of our own that the text of a module imports, directly or not, by name."""
    return own_files(_imported(source.encode(), "", False))


def origin(name: str) -> Path | None:
    """Return the Python file of a module of ours, None if it is not there, or a library's. Nothing is imported."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or (spec.origin is None and not spec.submodule_search_locations):
        return None
    if not rest and spec.origin:
        return _ours(top, Path(spec.origin))
    for place in spec.submodule_search_locations or ():
        path = Path(place, *rest)
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                return _ours(top, file)
    return None


def _ours(top: str, file: Path) -> Path | None:
    installed = any(file.resolve().is_relative_to(place) for place in INSTALLED)
    return file if file.suffix == ".py" and (top in OURS or not installed) else None


@lru_cache(maxsize=1000)
def _imported(source: bytes, name: str, is_package: bool) -> tuple[str, ...]:
    """Return the names that a module imports, those that may be modules and may be attributes included."""
    found: dict[str, None] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if is_package else name.split(".")[:-1]
                parts = [*package[: len(package) - node.level + 1], *filter(None, [base])]
                base = ".".join(parts)
            found[base] = None
            found |= dict.fromkeys(f"{base}.{alias.name}" for alias in node.names)
    return tuple(found)
