"""Trials that are chosen together find the same parameters wherever they are fitted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving_parts import training_set

from flows.models.taxi.spec import spec as taxi
from flows.spec import Training
from flows.steps.fitting import trial_error, tune

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


def test_tuning_never_ends_worse_than_what_the_spec_says(tmp_path: Path) -> None:
    data = training_set(tmp_path)
    found = tune(SPEC, data, 6)
    ours = trial_error(SPEC, data, {"depth": 4, "splitter": "best"}, SPEC.estimator)
    assert trial_error(SPEC, data, found, SPEC.estimator) <= ours
