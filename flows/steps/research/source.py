"""The researcher's estimator as it was given, and as a module of its own that training could use: its code, found and checked."""

from __future__ import annotations

import ast
import builtins
import inspect
import json
import re
import symtable
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from types import CodeType, FunctionType, ModuleType
from typing import Any

from flows.errors import UsageError
from flows.lookup import resolve_callable
from flows.spec import ModelSpec
from flows.steps.own_code import OURS, imported_files, origin
from flows.steps.research.writing import (
    Name,
    UnwritableError,
    Written,
    bare,
    changed_params,
    import_lines,
    importable,
    is_plain,
    stacked,
)

ADDRESS = re.compile(r" at 0x[0-9a-f]+")
NUMPY = re.compile(r"np\.(?:\w+\(([^()]*)\)|(True|False)_)")  # its numbers, which are written as Python's
TITLE = '"""The researcher\'s training code."""'


@dataclass(frozen=True)
class Given:
    """An estimator as it was given: how it is made and called, with which parameters.

    ``code`` is a module whose factory makes the same of the same parameters; None if there is none, ``why`` says why.
    ``imports`` are the modules of our own that it imports, each with the sha256 of its text.
    """

    name: str
    build: Callable[[dict[str, Any]], Any]
    params: dict[str, Any]
    code: str | None
    why: str = ""
    imports: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Return the sha256 of code and parameters, empty if there is no code."""
        return digest_of(self.code.encode(), self.params_text.encode()) if self.code else ""

    @property
    def params_text(self) -> str:
        """Return the parameters as JSON."""
        return json.dumps(self.params, indent=1) + "\n"


def digest_of(code: bytes, params: bytes) -> str:
    """Return the sha256 of an experiment's code and of its parameters as JSON."""
    return sha256(code + b"\0" + params).hexdigest()


def text_digest(text: str) -> str:
    """Return the sha256 of a module's text, whatever the ends of its lines were in the file."""
    return sha256(text.encode()).hexdigest()


def take(spec: ModelSpec, estimator: Any, params: Mapping[str, Any] | None) -> Given:
    """Return what an estimator is made by: it is an unfitted estimator, a function ``build(params)``, or the dotted path of one.

    Parameters of a function are the spec's unless given; those of an estimator are set on a copy of it. Raises UsageError
    for anything else.
    """
    if isinstance(estimator, str):
        return _function(spec, estimator, resolve_callable(estimator), params)
    if not isinstance(estimator, type) and all(
        callable(getattr(estimator, one, None)) for one in ("fit", "get_params")
    ):
        return _object(spec, estimator, dict(params or {}))
    if isinstance(estimator, type) or not callable(estimator):
        what = estimator.__name__ if isinstance(estimator, type) else type(estimator).__name__
        raise UsageError(f"{what} is no estimator; give one that is made, as Ridge(), or a function build(params)")
    return _function(spec, getattr(estimator, "__qualname__", type(estimator).__name__), estimator, params)


def _object(spec: ModelSpec, estimator: Any, params: dict[str, Any]) -> Given:
    from sklearn.base import clone

    name = type(estimator).__name__
    try:
        made = clone(estimator).set_params(**params)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name} cannot be copied with {params} ({error}); correct its parameters") from error
    changed = bare(changed_params(made))
    simple = _lasting(changed)

    def build(given: dict[str, Any]) -> Any:
        return clone(made).set_params(**given)

    given = Given(name, build, changed if simple else {}, None)
    return _checked(spec, given, lambda factory: _object_code(made, simple, factory, spec))


def _lasting(params: dict[str, Any]) -> bool:
    """Say whether parameters are after JSON what they were: the records of experiments and versions hold them so."""
    return is_plain(params) and json.loads(json.dumps(params)) == params


def _object_code(made: Any, simple: bool, factory: str, spec: ModelSpec) -> str:
    """Return a module whose factory makes an estimator: of its parameters if they are plain, otherwise as it is."""
    written = Written()
    name = written.name(type(made))
    value = f"{name}(**params)" if simple else written.value(made, 4, 11)
    _shipped(written.imports.values(), spec)
    imports = import_lines([*written.imports.values(), Name("typing", "Any", "Any")], _own(spec))
    argument = "params" if simple else "_params"
    body = f'''def {factory}({argument}: dict[str, Any]) -> {name}:
    """Return an unfitted estimator; missing feature values reach it as NaN."""
    return {value}'''
    return stacked(TITLE, imports, body)


def _function(spec: ModelSpec, name: str, function: Any, params: Mapping[str, Any] | None) -> Given:
    given = Given(name, function, bare(dict(spec.params if params is None else params)), None)
    return _checked(spec, given, lambda factory: _function_code(function, factory, given.params, spec))


def _function_code(function: Any, factory: str, params: dict[str, Any], spec: ModelSpec) -> str:
    """Return a module with a function, all that it names, and the factory's name for it."""
    if not _lasting(params):
        raise UnwritableError("its parameters are not all numbers, texts and lists of them, so no record can hold them")
    found = _Collected(getattr(function, "__module__", None))
    found.add(function)
    _shipped(found.written.imports.values(), spec)
    named = "" if function.__name__ == factory else f"{factory} = {function.__name__}"
    imports = import_lines(found.written.imports.values(), _own(spec))
    return stacked(TITLE, imports, "\n".join(found.constants), *found.functions, named)


@dataclass
class _Collected:
    """Functions of one module and what they name, in the order in which they are needed."""

    module: str | None
    written: Written = field(default_factory=Written)
    constants: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def add(self, function: Any) -> None:
        """Add a function and all that it names outside of itself; raises UnwritableError for what no source is known of."""
        text = source_of(function)
        self.seen.add(function.__name__)
        for name in _globals(text):
            if name in self.seen or (name in vars(builtins) and name not in function.__globals__):
                continue
            if name not in function.__globals__:
                raise UnwritableError(f"{function.__name__} names {name}, which is not there")
            self._add_named(name, function.__globals__[name], text)
        self.functions.append(text)

    def _add_named(self, name: str, value: Any, text: str) -> None:
        if isinstance(value, ModuleType):
            self._import(Name(_submodule(name, value, text), "", name))
        elif isinstance(value, FunctionType) and value.__module__ == self.module and value.__name__ == name:
            self.add(value)
        elif is_plain(value):
            self.seen.add(name)
            self.constants.append(f"{name} = {self.written.value(value, 0, len(name) + 3)}")
        else:
            found = importable(value, name)
            if found is None:
                raise UnwritableError(
                    f"{name} ({type(value).__name__}) has no source; put it into a module, or into the function"
                )
            self._import(found)

    def _import(self, name: Name) -> None:
        self.seen.add(name.bound)
        self.written.imports[name.bound] = name


def source_of(function: Any) -> str:
    """Return the source of a plain function; raises UnwritableError if it is none, is not known, or is not what runs."""
    if not isinstance(function, FunctionType):
        raise UnwritableError(
            f"a {type(function).__name__} has no source of its own; give a function that is written with def"
        )
    if function.__name__ == "<lambda>":
        raise UnwritableError("a lambda has no source of its own; write it as a function with def")
    if function.__closure__ or function.__qualname__ != function.__name__:
        raise UnwritableError(
            f"{function.__qualname__} is made within another function; define it at the top of a module or cell"
        )
    try:
        text = inspect.getsource(function).rstrip()
        # All of the file or cell: how a call of a module's attribute is compiled depends on the imports around it.
        whole = compile("".join(inspect.findsource(function)[0]), "source", "exec", dont_inherit=True)
    except (OSError, TypeError, SyntaxError) as error:
        raise UnwritableError(
            f"the source of {function.__name__} is not known; define it in a file or a cell"
        ) from error
    runs = function.__code__
    place = (runs.co_name, runs.co_firstlineno)
    code = next((one for one in _codes(whole) if (one.co_name, one.co_firstlineno) == place), None)
    if code is None or not _same(code, runs):
        raise UnwritableError(f"the source of {function.__name__} has changed since it was loaded; load it again")
    return text


def _codes(code: CodeType) -> Iterator[CodeType]:
    return (one for one in code.co_consts if isinstance(one, CodeType))


def _same(one: CodeType, other: CodeType) -> bool:
    """Say whether two functions do the same, wherever they stand."""
    consts = [[part for part in code.co_consts if not isinstance(part, CodeType)] for code in (one, other)]
    inner = list(zip(_codes(one), _codes(other), strict=False))
    parts = [(code.co_code, code.co_names, code.co_varnames) for code in (one, other)]
    return parts[0] == parts[1] and repr(consts[0]) == repr(consts[1]) and all(_same(*pair) for pair in inner)


def _globals(text: str) -> list[str]:
    """Return the names that a function takes from its module, those of annotations and decorators included, sorted."""
    top = symtable.symtable(text, "source", "exec")
    found = {one.get_name() for one in top.get_symbols() if one.is_referenced() and not one.is_assigned()}
    waiting = list(top.get_children())
    while waiting:
        table = waiting.pop()
        found |= {one.get_name() for one in table.get_symbols() if one.is_global()}
        waiting += table.get_children()
    return sorted(found)


def _submodule(name: str, module: ModuleType, text: str) -> str:
    """Return the longest module that is reached from a name by its dots: ``sklearn.linear_model`` of ``sklearn``."""
    if name != module.__name__:
        return module.__name__
    longest = name
    for node in ast.walk(ast.parse(text)):
        value: Any = module
        path = [name]
        chain = ast.unparse(node).split(".") if isinstance(node, ast.Attribute) else []
        if not chain or chain[0] != name:
            continue
        for part in chain[1:]:
            value = getattr(value, part, None)
            if not isinstance(value, ModuleType):
                break
            path.append(part)
        longest = max(longest, ".".join(path), key=len)
    return longest


def _shipped(names: Iterable[Name], spec: ModelSpec) -> None:
    """Raise UnwritableError for an import that the model's module could not make: of a file that is no library's and not of
    the model's package, or of the factory that the code will replace."""
    module, _, factory = spec.estimator.partition(":")
    for one in names:
        top = one.module.split(".")[0]
        if one.module == module and (one.name in ("", factory) or one.bound != one.name):
            raise UnwritableError(
                f"it takes {one.name or one.bound} from {module}, in whose place it would stand; write that out in your code"
            )
        if top not in _own(spec) and origin(one.module) is not None:
            raise UnwritableError(f"it imports {one.module}, a file of your own; put it into the model's package")


def _own(spec: ModelSpec) -> set[str]:
    return {*OURS, spec.estimator.split(".")[0].partition(":")[0]}


def _checked(spec: ModelSpec, given: Given, write: Callable[[str], str]) -> Given:
    """Return what was given with its code, if that makes the very same estimator."""
    factory = spec.estimator.partition(":")[2]
    try:
        code = write(factory)
        scope: dict[str, Any] = {"__name__": "adopted"}
        exec(compile(code, "adopted", "exec", dont_inherit=True), scope)  # noqa: S102 (the researcher's own code, in their own process)
        if _described(scope[factory](given.params)) != _described(given.build(given.params)):
            raise UnwritableError("its code, run by itself, makes another estimator; let it name nothing that changes")
    except UnwritableError as error:
        return Given(given.name, given.build, given.params, None, str(error))
    except Exception as error:  # noqa: BLE001 (whatever the researcher's code raises when it stands alone)
        return Given(
            given.name,
            given.build,
            given.params,
            None,
            f"its code does not run by itself ({type(error).__name__}: {error})",
        )
    files = imported_files(code).items()
    imports = {name: text_digest(file.read_text(encoding="utf-8")) for name, file in files}
    return replace(given, code=code, imports=imports)


def _described(estimator: Any) -> str:
    try:
        text = estimator.__repr__(N_CHAR_MAX=10**6)
    except TypeError:
        text = repr(estimator)
    text = f"{type(estimator).__module__}.{' '.join(text.split())}"
    return NUMPY.sub(lambda found: found[1] or found[2], ADDRESS.sub("", text))
