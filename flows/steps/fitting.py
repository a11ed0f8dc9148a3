"""Fitting the researcher's estimator, and tuning it inside the training window."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flows.errors import ContractError, EvergreenError
from flows.lookup import resolve_callable
from flows.spec import ModelSpec
from flows.steps import metrics
from flows.steps.training_set import TrainingSet, matrix, read_part
from flows.steps.trusted import one_line

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Factory = Callable[[dict[str, Any]], Any]
Measure = Callable[[Sequence[dict[str, Any]]], list[float]]  # from sets of parameters to their validation errors
VALIDATION_SHARE = 0.2  # of the training rows, the newest, on which tuning compares


def make_estimator(path: str, params: dict[str, Any], build: Factory | None = None) -> Any:
    """Build an unfitted estimator with the researcher's factory, which ``path`` names; or with ``build``, if it is given.

    Raises ContractError if the factory fails, or does not return something with ``fit`` and ``predict``.
    """
    with blame(f"{path} failed with {params}"):
        estimator = (build or resolve_callable(path))(params)
    for method in ("fit", "predict", "get_params"):
        if not callable(getattr(estimator, method, None)):
            raise ContractError(
                f"{path} returned {type(estimator).__name__}, which has no {method}(); return a scikit-learn estimator"
            )
    return estimator


def fit(
    spec: ModelSpec,
    data: TrainingSet,
    params: dict[str, Any],
    estimator_path: str | None = None,
    build: Factory | None = None,
) -> Any:
    """Fit the estimator on the training part, with the spec's number of threads, and return it.

    ``build`` is a factory that has no path to be found by; ``estimator_path`` is only its name then.
    """
    rows = read_part(data, "train")
    return _fit(spec, estimator_path or spec.estimator, params, matrix(rows, data.features), rows["label"], build)


def tune(
    spec: ModelSpec, data: TrainingSet, trials: int, estimator_path: str | None = None, elsewhere: Measure | None = None
) -> dict[str, Any]:
    """Return the best parameters of some optuna trials, compared on the newest fifth of the training part.

    The part that judges the model is never seen here. ``spec.training.together`` are chosen at once, and measured at once by
    ``elsewhere``, if there is such a place. Same seed, same trials, same result, wherever they are fitted.
    """
    import optuna

    if spec.search_space is None:
        raise ContractError(f"{spec.name}: tuning needs spec.search_space, a suggest(trial) -> params")
    suggest, path, together = (
        resolve_callable(spec.search_space),
        estimator_path or spec.estimator,
        spec.training.together,
    )

    def suggested(trial: optuna.trial.BaseTrial) -> dict[str, Any]:
        with blame(f"{spec.search_space} failed"):
            return {**spec.params, **suggest(trial)}

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=spec.training.seed, constant_liar=together > 1)
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial(spec.params)  # never worse than what the spec says
    for begun in range(0, trials, together):
        asked = [study.ask() for _ in range(min(together, trials - begun))]
        tried = [suggested(trial) for trial in asked]
        if elsewhere is None or len(tried) == 1:
            errors = [trial_error(spec, data, params, path) for params in tried]
        else:
            errors = elsewhere(tried)
        for trial, error in zip(asked, errors, strict=True):
            study.tell(trial, error)
    # What optuna was asked for is not always what the estimator gets: ``suggest`` may derive one from the other.
    return {**spec.params, **suggest(optuna.trial.FixedTrial(study.best_params))}


def trial_error(spec: ModelSpec, data: TrainingSet, params: dict[str, Any], path: str) -> float:
    """Fit on the older part of what trains, and return the error on its newest fifth."""
    rows = read_part(data, "train")
    split = int(rows.num_rows * (1.0 - VALIDATION_SHARE))
    inputs, labels = matrix(rows, data.features), rows["label"].to_numpy()
    estimator = _fit(spec, path, params, inputs[:split], rows["label"][:split])
    with blame(f"{path} failed to predict with {params}"):
        predicted = metrics.predict(estimator, spec.task, inputs[split:])
    classes = getattr(estimator, "classes_", None)
    return metrics.error(spec.metric, metrics.row_losses(spec.metric, labels[split:], predicted, classes))


def _fit(
    spec: ModelSpec,
    path: str,
    params: dict[str, Any],
    inputs: pd.DataFrame,
    label: pa.ChunkedArray,
    build: Factory | None = None,
) -> Any:
    from threadpoolctl import threadpool_limits

    # A column without any value teaches nothing, and scikit-learn's trees fail on it: constant, it teaches nothing either.
    empty = [name for name in inputs if inputs[name].dtype.kind == "f" and inputs[name].isna().all()]
    inputs = inputs.assign(**dict.fromkeys(map(str, empty), 0.0)) if empty else inputs
    estimator = make_estimator(path, params, build)  # before the limit: it holds for libraries that are there already
    with threadpool_limits(limits=spec.training.threads), blame(f"{path}: fit failed with {params}"):
        fitted = estimator.fit(inputs, label.to_numpy())
    needed = ("predict",) if spec.task == "regression" else ("predict", "predict_proba", "classes_")
    for name in needed:
        if not hasattr(fitted, name):
            mend = (
                "let fit return the estimator itself"
                if name == "predict"
                else "a classifier is judged by its probabilities: wrap it in CalibratedClassifierCV, or take another"
            )
            raise ContractError(f"{path}: fit returned {type(fitted).__name__}, which has no {name}; {mend}")
    return fitted


@contextmanager
def blame(what: str) -> Iterator[None]:
    """Turn whatever the researcher's code raises into a ContractError of one line."""
    try:
        yield
    except EvergreenError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ContractError(f"{what} ({reason}); correct it or its parameters") from error
