"""The compiled form of a fitted model: plain numbers that answer what scikit-learn would, without it and in float64.

It is one file, ``compiled.npz``: JSON for the steps before the model and the arrays of the model itself. It holds no
code, is read without pickle, and needs no compiler: neither where it is made nor where it serves.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from flows.errors import ContractError
from flows.spec import Frozen
from flows.steps.trees import Floats, Tables, Trees, Walk

COMPILED = "compiled.npz"
PROGRAM = "program"
TOLERANCE = 1e-6  # relative, of the compiled form against scikit-learn
MAX_COMPILED_BYTES = 2**29
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can hold: the same form is the same bytes

Values = tuple[float, ...]


class Part(Frozen):
    """A part of the program; missing numbers are NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Impute(Part):
    """Missing values of each column become its value here."""

    kind: Literal["impute"] = "impute"
    values: Values


class Scale(Part):
    """Each column becomes (value - shift) / by."""

    kind: Literal["scale"] = "scale"
    shift: Values
    by: Values


class Look(Part):
    """One column of keys becomes the rows of a table; without a row for what is unknown or missing, that is an error."""

    kind: Literal["look"] = "look"
    keys: Values  # ascending
    table: tuple[Values, ...]  # one row a key
    unknown: Values | None
    missing: Values | None


class Branch(Part):
    """Some columns and what is done with them."""

    columns: tuple[int, ...]
    steps: tuple[Step, ...]


class Parallel(Part):
    """Branches side by side; their columns follow one another."""

    kind: Literal["parallel"] = "parallel"
    branches: tuple[Branch, ...]


Step = Annotated[Impute | Scale | Look | Parallel, Field(discriminator="kind")]


class Linear(Part):
    """A linear model: one row of coefficients an output."""

    kind: Literal["linear"] = "linear"
    coefficients: tuple[Values, ...]


class Ensemble(Part):
    """Trees, in the arrays of the file; ``float32`` if inputs are rounded to it first, as scikit-learn's forests do."""

    kind: Literal["trees"] = "trees"
    float32: bool
    width: int = Field(gt=0)


class Program(Part):
    """What is computed of a row: words become their place in ``words``, then the steps, then the model, then the head."""

    words: dict[int, tuple[str, ...]]  # of the columns that hold text
    steps: tuple[Step, ...]
    model: Annotated[Linear | Ensemble, Field(discriminator="kind")]
    offset: Values
    divisor: float = Field(default=1.0, gt=0)  # of the sum: a forest's mean
    head: Literal["identity", "exp", "sigmoid", "softmax"]
    values: bool  # the first output alone, as values (n,)
    finite: Literal["all", "or missing", "any"]  # which numbers the model takes; others are an error


class Compiled:
    """A compiled form, ready to answer."""

    def __init__(self, program: Program, trees: Trees | None = None) -> None:
        self.program = program
        self.trees = trees
        self._words = {
            column: {word: float(n) for n, word in enumerate(words)} for column, words in program.words.items()
        }
        self._steps = _chain(program.steps)
        self._offset = np.array(program.offset)
        self._linear = np.array(program.model.coefficients).T if isinstance(program.model, Linear) else None
        self._float32 = isinstance(program.model, Ensemble) and program.model.float32
        self._trees: Tables | Walk | None = None
        if isinstance(program.model, Ensemble):
            if trees is None:
                raise ValueError("the trees are missing")
            trees.check(program.model.width)
            if trees.value.shape[1] != len(program.offset):
                raise ValueError("the trees have another number of outputs than the program")
            self._trees = Tables(trees, program.model.width) if Tables.fit(trees) else Walk(trees)
        # A row of numbers that goes to the tables as it is needs no array.
        plain = not program.steps and not program.words and not self._float32 and program.finite == "any"
        self._direct = self._trees if plain and isinstance(self._trees, Tables) else None

    def predict(self, rows: Sequence[Sequence[Any]]) -> Floats:
        """Return values (n,) for regression, probabilities (n, classes) otherwise, of rows of values in the features' order.

        Raises ValueError where scikit-learn would: a missing value that the model cannot take, or an unknown category.
        """
        if self._direct is not None and len(rows) == 1:
            return self._finish(self._direct.one(rows[0], self._offset)[None, :])
        if self._words:
            rows = [self._coded(row) for row in rows]
        return self.predict_numbers(np.array(rows, dtype=np.float64))

    def predict_numbers(self, inputs: Floats) -> Floats:
        """Return what ``predict`` does for numbers (n, features), text in them by its place."""
        for step in self._steps:
            inputs = step(inputs)
        if self._float32:
            with np.errstate(over="ignore"):
                inputs = inputs.astype(np.float32).astype(np.float64)
        finite = self.program.finite
        if (finite == "all" and not np.isfinite(inputs).all()) or (finite == "or missing" and np.isinf(inputs).any()):
            raise ValueError("a feature is missing or infinite, and the model cannot take that")
        if self._linear is not None:
            with np.errstate(over="ignore"):
                return self._finish(inputs @ self._linear + self._offset)
        assert self._trees is not None
        if len(inputs) == 1 and isinstance(self._trees, Tables):
            return self._finish(self._trees.one(inputs[0].tolist(), self._offset)[None, :])
        return self._finish(self._trees.sums(inputs, self._offset))

    def _coded(self, row: Sequence[Any]) -> list[Any]:
        coded = list(row)
        for column, places in self._words.items():
            word = coded[column]
            coded[column] = _NAN if word is None or word != word else places.get(word, -1.0)
        return coded

    def _finish(self, raw: Floats) -> Floats:
        head = self.program.head
        if self.program.divisor != 1.0:
            raw = raw / self.program.divisor
        if head == "exp":
            raw = np.exp(raw)
        elif head == "sigmoid":
            small = np.exp(-np.abs(raw[:, 0]))
            share = np.where(raw[:, 0] >= 0, 1.0, small) / (1.0 + small)
            raw = np.column_stack([1.0 - share, share])
        elif head == "softmax":
            raw = np.exp(raw - raw.max(axis=1, keepdims=True))
            raw /= raw.sum(axis=1, keepdims=True)
        return raw[:, 0] if self.program.values else raw

    def predict_columns(self, columns: Sequence[Sequence[Any]]) -> Floats:
        """Return what ``predict`` does, of one sequence of values a feature."""
        if len(columns[0]) == 1:
            return self.predict([[column[0] for column in columns]])
        if self._words:
            return self.predict(list(zip(*columns, strict=True)))
        return self.predict_numbers(np.array(columns, dtype=np.float64).T)


_NAN = float("nan")


def dump(compiled: Compiled) -> bytes:
    """Return a form as the bytes of its file; the same form is always the same bytes."""
    program = json.dumps(compiled.program.model_dump(mode="json"), allow_nan=True).encode()
    arrays: dict[str, NDArray[Any]] = {PROGRAM: np.frombuffer(program, np.uint8)}
    arrays |= compiled.trees.arrays() if compiled.trees else {}
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.getvalue())
    return target.getvalue()


def load(data: bytes, width: int, where: str) -> Compiled:
    """Read a form for so many features from the bytes of its file, whose hash was compared.

    Raises ContractError if they are no such form; ``where`` is what the message calls them.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_COMPILED_BYTES:
                raise ValueError(f"it unpacks to more than {MAX_COMPILED_BYTES} bytes")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        program = Program.model_validate_json(arrays.pop(PROGRAM).tobytes())
        compiled = Compiled(program, Trees(**arrays) if arrays else None)
        if max(program.words, default=0) >= width:
            raise ValueError("it names more columns than there are")
        compiled.predict([[None] * width]) if program.finite == "any" else compiled.predict([[0.0] * width])
    except Exception as error:  # whatever a crafted file makes zipfile, numpy or pydantic raise
        told = " ".join(str(error).split())[:200]
        raise ContractError(f"{where} is no compiled form ({type(error).__name__}: {told}); train again") from error
    return compiled


def difference(ours: Floats, theirs: Floats) -> float:
    """Return the largest difference from scikit-learn's answers, relative to each; infinite for another shape or NaN.

    Where an answer is next to nothing, it is compared with a billionth of the mean magnitude of its column.
    """
    if ours.shape != theirs.shape:
        return float("inf")
    if not ours.size:
        return 0.0
    scale = np.maximum(np.abs(theirs), 1e-9 * np.abs(theirs).mean(axis=0))
    gap = np.abs(ours - theirs)
    relative = np.divide(gap, scale, out=np.where(gap == 0, 0.0, np.inf), where=scale > 0)
    return float(np.where(np.isnan(relative), np.inf, relative).max())


def _chain(steps: Sequence[Any]) -> list[Callable[[Floats], Floats]]:
    return [_function(step) for step in steps]


def _function(step: Any) -> Callable[[Floats], Floats]:
    """Return a step of the program as a function from a matrix to a matrix."""
    if isinstance(step, Impute):
        values = np.array(step.values)
        return lambda inputs: np.where(np.isnan(inputs), values, inputs)
    if isinstance(step, Scale):
        shift, by = np.array(step.shift), np.array(step.by)
        return lambda inputs: (inputs - shift) / by
    if isinstance(step, Look):
        return _looker(step)
    branches = [(list(branch.columns), _chain(branch.steps)) for branch in step.branches]

    def parallel(inputs: Floats) -> Floats:
        parts = []
        for columns, chain in branches:
            part = inputs[:, columns]
            for function in chain:
                part = function(part)
            parts.append(part)
        return np.concatenate(parts, axis=1)

    return parallel


def _looker(step: Look) -> Callable[[Floats], Floats]:
    keys = np.array(step.keys)
    width = len(step.table[0])
    absent = (_NAN,) * width
    table = np.array([*step.table, step.unknown or absent, step.missing or absent])
    unknown, gone = len(keys), len(keys) + 1

    def look(inputs: Floats) -> Floats:
        value = inputs[:, 0]
        place = np.minimum(keys.searchsorted(value), unknown - 1)
        missing = np.isnan(value)
        place = np.where(missing, gone, np.where(keys[place] == value, place, unknown))
        if (step.unknown is None and (place == unknown).any()) or (step.missing is None and missing.any()):
            raise ValueError("a category was not there in training, and the model cannot take that")
        return table.take(place, axis=0)

    return look
