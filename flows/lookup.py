"""How a model is found by its name, and what its spec names by a dotted path."""

from __future__ import annotations

import importlib
import importlib.util
import sysconfig
import traceback
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from flows.errors import ContractError, EvergreenError, UsageError
from flows.settings import Settings
from flows.spec import NAME, ModelSpec

STANDARD = sysconfig.get_path("stdlib")


def resolve(path: str) -> Any:
    """Import what a dotted path (``package.module:attribute``) names.

    Raises ContractError if the module or the attribute is not there, or the module fails.
    """
    module, _, attribute = path.partition(":")
    if not attribute:
        raise ContractError(f"{path!r} is not a dotted path; write it as package.module:attribute")
    try:
        return getattr(import_code(module), attribute)
    except AttributeError as error:
        raise ContractError(f"{path} cannot be imported ({error}); correct the path or install its package") from error


def import_code(module: str) -> ModuleType:
    """Import a module of a model; raises ContractError that says where, if it is not there or fails."""
    try:
        return importlib.import_module(module)
    except EvergreenError:
        raise
    except ImportError as error:
        raise ContractError(
            f"{module} cannot be imported ({error}); correct the path or install its package"
        ) from error
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, (error.title, *problem["loc"])))
        said = problem["msg"].removeprefix("Value error, ")
        raise ContractError(f"{_place_of(error, module)}: {field}: {said}; correct it") from error
    except Exception as error:  # the researcher's code may raise anything
        first = (str(error).splitlines() or [""])[0]
        raise ContractError(f"{_place_of(error, module)}: {type(error).__name__}: {first}; correct it") from error


def _place_of(error: Exception, module: str) -> str:
    """Return the file and line of a module that fails, or of one that it imports and no library has."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(error.filename)}, line {error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if (
            not frame.filename.startswith(("<", __file__, STANDARD))
            and "site-packages" not in Path(frame.filename).parts
        ):
            return f"{_shown(frame.filename)}, line {frame.lineno}"
    return module


def _shown(file: str) -> str:
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def resolve_callable(path: str) -> Callable[..., Any]:
    """Import a function by its dotted path; raises ContractError if it cannot be called."""
    found = resolve(path)
    if not callable(found):
        raise ContractError(f"{path} is not a function; name a function there")
    return found  # type: ignore[no-any-return]  # it is callable: seen above


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
