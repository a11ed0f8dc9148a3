"""Compiling: a fitted scikit-learn pipeline becomes its compiled form, if it is of the kinds that can.

It reads the fitted attributes of scikit-learn's estimators, private ones too. What it makes is compared with
scikit-learn's own answers before it may serve, so an attribute that changes its meaning costs speed, not correctness.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flows.steps.compiled import Branch, Compiled, Ensemble, Impute, Linear, Look, Parallel, Program, Scale
from flows.steps.fitted_trees import CannotCompileError, boosted, grown

LINEAR = ("LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV", "HuberRegressor")
MISSING = float("inf")  # no category of a finite number
FORESTS = ("RandomForest", "ExtraTrees")


def compile_estimator(
    estimator: Any, names: Sequence[str], kinds: Sequence[str], words: dict[str, list[str]]
) -> Compiled:
    """Return the compiled form of an estimator that was fitted on a frame of these columns.

    ``kinds`` are "float" or "string"; ``words`` holds the texts that stand in each text column, more do no harm.
    Raises CannotCompileError.
    """
    known = _known_words(estimator)
    vocabulary = {
        column: tuple(sorted({*words.get(name, ()), *known}))
        for column, (name, kind) in enumerate(zip(names, kinds, strict=True))
        if kind == "string"
    }
    steps, model = _unpack(estimator)
    columns: list[Any] = list(names)
    found: list[Any] = []
    for step in steps:
        one, columns = _step(step, columns, {names[column]: vocabulary[column] for column in vocabulary})
        found += one
    return _model(model, columns, found, vocabulary, names)


def _unpack(estimator: Any) -> tuple[list[Any], Any]:
    """Return the steps before the model, and the model."""
    if type(estimator).__name__ != "Pipeline":
        return [], estimator
    steps, model = _unpack(estimator.steps[-1][1])
    return [*(step for _, step in estimator.steps[:-1]), *steps], model


def _known_words(estimator: Any) -> set[str]:
    """Return all texts that the encoders inside know; which column they are of does not matter."""
    found: set[str] = set()
    pending = [estimator]
    while pending:
        one = pending.pop()
        for categories in getattr(one, "categories_", ()):
            found |= {value for value in categories if isinstance(value, str)}
        pending += [step for _, step in getattr(one, "steps", ())]
        pending += [part[1] for part in getattr(one, "transformers_", ())]
        if getattr(one, "_preprocessor", None) is not None:
            pending.append(one._preprocessor)
    return found


def _step(step: Any, columns: list[Any], words: dict[str, tuple[str, ...]]) -> tuple[list[Any], list[Any]]:
    """Return a transformer as steps of the program, and the names of the columns after it (None for made ones)."""
    kind = type(step).__name__
    if _changes_nothing(step):
        return [], columns
    if kind == "Pipeline":
        found: list[Any] = []
        for _, inner in step.steps:
            one, columns = _step(inner, columns, words)
            found += one
        return found, columns
    if kind == "ColumnTransformer":
        return _columns(step, columns, words)
    if kind in ("OrdinalEncoder", "OneHotEncoder"):
        return _encoder(step, kind, columns, words)
    if any(column in words for column in columns):
        raise CannotCompileError(f"{kind} on text")
    if kind == "SimpleImputer":
        values = np.asarray(step.statistics_, dtype=np.float64)
        missing = step.missing_values
        if step.add_indicator or np.isnan(values).any() or not (isinstance(missing, float) and np.isnan(missing)):
            raise CannotCompileError(
                "SimpleImputer with an indicator, an empty column, or another mark of what is missing"
            )
        return [Impute(values=values.tolist())], columns
    ones = np.ones(len(columns))
    if kind == "StandardScaler":
        shift = step.mean_ if step.with_mean else 0 * ones
        by = step.scale_ if step.with_std else ones
    elif kind == "RobustScaler":
        shift = step.center_ if step.with_centering else 0 * ones
        by = step.scale_ if step.with_scaling else ones
    elif kind == "MinMaxScaler" and not step.clip:
        shift, by = -step.min_ / step.scale_, ones / step.scale_
    elif kind == "MaxAbsScaler":
        shift, by = 0 * ones, step.scale_
    else:
        raise CannotCompileError(kind)
    return [Scale(shift=np.asarray(shift).tolist(), by=np.asarray(by).tolist())], columns


def _changes_nothing(step: Any) -> bool:
    if isinstance(step, str):
        return step == "passthrough"
    if type(step).__name__ != "FunctionTransformer":
        return False
    function = getattr(step.func, "func", step.func)  # HistGradientBoosting hands its numbers through a partial of this
    return function is None or getattr(function, "__qualname__", "") == "check_array"


def _columns(step: Any, columns: list[Any], words: dict[str, tuple[str, ...]]) -> tuple[list[Any], list[Any]]:
    places: dict[str, list[int]] = step._transformer_to_input_indices
    branches, after = [], []
    for name, transformer, _ in step.transformers_:
        chosen = list(places.get(name, []))
        if transformer == "drop" or not chosen:
            continue
        steps, made = _step(transformer, [columns[place] for place in chosen], words)
        branches.append(Branch(columns=tuple(chosen), steps=tuple(steps)))
        after += made
    return [Parallel(branches=tuple(branches))], after


def _encoder(
    step: Any, kind: str, columns: list[Any], words: dict[str, tuple[str, ...]]
) -> tuple[list[Any], list[Any]]:
    """Return an encoder as one table a column: a key's row is its code, or a 1 in its own column."""
    one_hot = kind == "OneHotEncoder"
    if getattr(step, "_infrequent_enabled", False) or (one_hot and step.drop is not None):
        raise CannotCompileError(f"{kind} with infrequent or dropped categories")
    branches, after = [], []
    for place, (column, categories) in enumerate(zip(columns, step.categories_, strict=True)):
        width = len(categories) if one_hot else 1
        rows = {
            _key(value, column, words): tuple(np.eye(width)[code].tolist()) if one_hot else (float(code),)
            for code, value in enumerate(categories)
        }
        missing = rows.pop(MISSING, None)
        unknown = None
        if step.handle_unknown == "ignore":
            unknown = (0.0,) * width
        elif step.handle_unknown == "use_encoded_value":
            unknown = (float(step.unknown_value),)
        elif step.handle_unknown != "error":
            raise CannotCompileError(f"{kind} with handle_unknown={step.handle_unknown!r}")
        if missing is not None and not one_hot and column not in words:  # None among texts is a category like others
            missing = (float(step.encoded_missing_value),)
        keys = sorted(rows)
        if not keys:
            raise CannotCompileError(f"{kind} on a column without values")
        look = Look(
            keys=tuple(keys), table=tuple(rows[key] for key in keys), unknown=unknown,
            missing=unknown if missing is None else missing,
        )  # fmt: skip
        branches.append(Branch(columns=(place,), steps=(look,)))
        after += [None] * width
    return [Parallel(branches=tuple(branches))], after


def _key(value: Any, column: str | None, words: dict[str, tuple[str, ...]]) -> float:
    """Return a category as the number that stands for it in the input, infinity for what is missing there.

    A column without a name was made by a step before, and holds numbers.
    """
    if value is None or (value != value and column not in words):
        return MISSING
    if column in words and not isinstance(value, str):
        raise CannotCompileError("an encoder of a column of texts and numbers")
    return float(words[column].index(value)) if column in words else float(value)


def _model(
    model: Any, columns: list[Any], steps: list[Any], words: dict[int, tuple[str, ...]], names: Sequence[str]
) -> Compiled:
    kind = type(model).__name__
    classifies = hasattr(model, "classes_")
    text = {names[column] for column in words}
    if kind.startswith("HistGradientBoosting"):
        if model._preprocessor is not None:
            made, columns = _step(model._preprocessor, columns, {names[column]: words[column] for column in words})
            steps = [*steps, *made]
        trees, offset, head = boosted(model)
        finite, divisor = "any", 1.0
    elif kind in LINEAR or (kind == "LogisticRegression" and classifies):
        _numbers_only(columns, text)
        weights = np.atleast_2d(model.coef_)
        offset = np.broadcast_to(np.asarray(model.intercept_, dtype=np.float64).ravel(), len(weights))
        linear = Linear(coefficients=weights.tolist())
        head = "identity" if not classifies else "sigmoid" if len(weights) == 1 else "softmax"
        return Compiled(_program(words, steps, linear, offset, head, classifies, "all"))
    elif kind.startswith(("GradientBoosting", "DecisionTree", "ExtraTree", *FORESTS)):
        trees, offset, head, finite, divisor = grown(model, kind, classifies)
    else:
        raise CannotCompileError(kind)
    _numbers_only(columns, text)
    ensemble = Ensemble(float32=not kind.startswith("Hist"), width=len(columns))
    return Compiled(_program(words, steps, ensemble, offset, head, classifies, finite, divisor), trees)


def _program(
    words: dict[int, tuple[str, ...]], steps: list[Any], model: Any, offset: Any, head: Any, classifies: bool, finite: Any,
    divisor: float = 1.0,
) -> Program:  # fmt: skip
    return Program(
        words=words, steps=tuple(steps), model=model, offset=np.asarray(offset).tolist(), head=head,
        values=not classifies, finite=finite, divisor=divisor,
    )  # fmt: skip


def _numbers_only(columns: list[Any], text: set[str]) -> None:
    if any(column in text for column in columns):
        raise CannotCompileError("a model on text")
