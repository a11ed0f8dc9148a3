"""Trials that are chosen together find the same parameters wherever they are fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from serving_parts import training_set
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeRegressor

from flows.errors import ContractError
from flows.models.taxi.spec import spec as taxi
from flows.spec import Training
from flows.steps import gates, reference
from flows.steps.champion import Champion
from flows.steps.evaluation import evaluate, predict
from flows.steps.fitting import fit, trial_error, tune
from flows.steps.probe import Probe

SPEC = taxi.model_copy(
    update={
        "params": {"half": 2},
        "estimator": "team.estimators:tree",
        "search_space": "team.estimators:suggest",
        "training": Training(together=3),
    }
)


def test_trials_are_measured_elsewhere_a_few_at_once_and_find_what_is_found_here(tmp_path: Path) -> None:
    data, asked = training_set(tmp_path), []

    def elsewhere(tried: Sequence[dict[str, Any]]) -> list[float]:
        asked.append(len(tried))
        return [trial_error(SPEC, data, params, SPEC.estimator) for params in tried]

    assert tune(SPEC, data, 7, elsewhere=elsewhere) == tune(SPEC, data, 7)
    assert asked == [3, 3]  # the last one alone is not worth the way


class Answers(DecisionTreeRegressor):
    """A tree whose predictions have a shape of their own, or fail."""

    def __init__(self, how: str = "column") -> None:
        super().__init__(max_depth=2)
        self.how = how

    def fit(self, inputs: Any, labels: Any) -> Any:
        return None if self.how == "nothing" else super().fit(inputs, labels)

    def predict(self, inputs: Any) -> Any:
        if self.how == "failure":
            raise KeyError("no such zone")
        return super().predict(inputs)[:, None]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("column", r"Answers\.predict of \d+ rows has the shape \(\d+, 1\); let it return \(\d+,\)"),
        ("failure", r"Answers was fitted, but failed to predict \(KeyError: 'no such zone'\)"),
        ("nothing", r"mine: fit returned NoneType, which has no predict; let fit return the estimator itself"),
    ],
)
def test_an_estimator_that_answers_nothing_of_use_is_named(tmp_path: Path, how: str, reason: str) -> None:
    data = training_set(tmp_path)
    with pytest.raises(ContractError, match=reason):
        predict(SPEC, fit(SPEC, data, {}, "mine", lambda _params: Answers(how)), data)


class Unsure(DecisionTreeRegressor):
    """A tree that answers the first rows, or all, with no number."""

    rows: int | None = 3

    def predict(self, inputs: Any) -> Any:
        found = super().predict(inputs)
        found[: self.rows] = math.nan
        return found


@pytest.mark.parametrize("rows", [3, None])
def test_an_estimator_that_answers_no_number_is_judged_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int | None
) -> None:
    monkeypatch.setattr(Unsure, "rows", rows)
    data = training_set(tmp_path)
    spec = SPEC.model_copy(update={"slices": ()})
    estimator = fit(spec, data, {}, "mine", lambda _params: Unsure(max_depth=2))
    train, judge = predict(spec, estimator, data)
    found = evaluate(spec, estimator, train, judge, Champion(), tmp_path / "pictures")
    assert (found.error, found.metrics["mae"], found.metrics["r2"]) == (math.inf, math.inf, -math.inf)
    loads = Probe(loaded=True, reason="", rows=9, difference=0.0, latency_ms=1.0)
    assert gates.failed(gates.judge_all(spec, found, loads, None))[0] == "baseline"
    assert (tmp_path / "pictures" / "judging.png").exists()
    assert reference.build(spec, data, estimator, train, judge).expected.error == math.inf


def test_a_classifier_without_probabilities_is_named(tmp_path: Path) -> None:
    data = training_set(tmp_path, classes=True)
    spec = SPEC.model_copy(update={"task": "multiclass"})
    with pytest.raises(ContractError, match="Pipeline, which has no predict_proba; a classifier is judged by"):
        fit(spec, data, {}, "mine", lambda _params: make_pipeline(SimpleImputer(), LinearSVC()))


def test_tuning_never_ends_worse_than_what_the_spec_says(tmp_path: Path) -> None:
    data = training_set(tmp_path)
    found = tune(SPEC, data, 6)
    ours = trial_error(SPEC, data, {"depth": 4, "splitter": "best"}, SPEC.estimator)
    assert trial_error(SPEC, data, found, SPEC.estimator) <= ours
