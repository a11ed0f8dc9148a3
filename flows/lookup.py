"""How a model is found by its name, and what its spec names by a dotted path."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any

from flows.errors import ContractError, UsageError
from flows.settings import Settings
from flows.spec import NAME, ModelSpec


def resolve(path: str) -> Any:
    """Import what a dotted path (``package.module:attribute``) names.

    Raises ContractError if the module or the attribute is not there.
    """
    module, _, attribute = path.partition(":")
    if not attribute:
        raise ContractError(f"{path!r} is not a dotted path; write it as package.module:attribute")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ContractError(f"{path} cannot be imported ({error}); correct the path or install its package") from error


def resolve_callable(path: str) -> Callable[..., Any]:
    """Import a function by its dotted path; raises ContractError if it cannot be called."""
    found = resolve(path)
    if not callable(found):
        raise ContractError(f"{path} is not a function; name a function there")
    return found  # type: ignore[no-any-return]


def load_model(name: str, settings: Settings) -> ModelSpec:
    """Return the spec of a model by its name, looked up in the packages of the settings.

    Raises UsageError for a name that is not one, or that no package has.
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"model name {name!r} is not allowed; use lower-case letters, digits and underscores")
    for package in settings.model_packages:
        if _found(package) and _found(f"{package}.{name}"):
            spec = resolve(f"{package}.{name}.spec:spec")
            if not isinstance(spec, ModelSpec) or spec.name != name:
                raise ContractError(f"{package}.{name}.spec:spec must be a ModelSpec named {name!r}")
            return spec
    missing = [package for package in settings.model_packages if not _found(package)]
    where = f"; {', '.join(missing)} cannot be imported: put its folder on PYTHONPATH" if missing else ""
    raise UsageError(
        f"no model {name!r} in {', '.join(settings.model_packages)}; known are: {', '.join(known_models(settings))}{where}"
    )


def _found(module: str) -> ModuleSpec | None:
    """Return where a module is, None if it, or a package that it is in, cannot be imported."""
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None


def known_models(settings: Settings) -> list[str]:
    """Return the names of all models in the packages of the settings."""
    import pkgutil

    names: set[str] = set()
    for package in settings.model_packages:
        found = _found(package)
        for entry in pkgutil.iter_modules(found.submodule_search_locations if found else []):
            if entry.ispkg:
                names.add(entry.name)
    return sorted(names)
