"""How sure an error is: by hours where there are some, by rows where all are of a few moments."""

from types import SimpleNamespace

import numpy as np
import pytest

from flows.errors import ContractError
from flows.spec import Metric
from flows.steps import metrics, observed, rollout

RMSE = Metric(name="rmse")


@pytest.mark.parametrize("hours", [1, 3, 9])
@pytest.mark.parametrize("rows", [60, 400, 4000])
def test_rows_of_a_few_moments_are_as_sure_as_they_are_many(hours, rows):
    """Of monthly rows the interval had no width, and every difference was sure."""
    rng = np.random.default_rng(0)
    losses, moments = np.square(rng.normal(size=rows)), np.arange(rows) % hours
    low, high = metrics.block_interval(RMSE, losses, None, moments, 0.95, 0)
    expected = 2 * 1.96 / np.sqrt(2 * rows)  # of the root of a mean of squares of normal numbers
    assert high - low == pytest.approx(expected, rel=0.25)
    low, high = rollout.unpaired_interval(RMSE, losses, moments, losses[::-1], moments, 0.95, 0)
    assert low < 0 < high
    _, spread = observed._error(RMSE, losses, moments)
    assert spread == pytest.approx(1 / np.sqrt(2 * rows), rel=0.3)


def test_rows_of_one_hour_stay_together_where_there_are_hours_enough():
    hours = np.repeat(np.arange(48), 50)
    losses = np.square(np.random.default_rng(0).normal(size=48))[hours]  # alike within an hour
    low, high = metrics.block_interval(RMSE, losses, None, hours, 0.95, 0)
    assert high - low > 4 / np.sqrt(2 * len(hours)) * 3
    assert (metrics.blocks_of(hours, 0) == hours).all()


@pytest.mark.parametrize(
    ("name", "losses", "error"),
    [
        ("accuracy", [0.0, 1.0, 0.0, 1.0], 0.5),
        ("log_loss", [-np.log(0.6), -np.log(0.3), -np.log(0.5), -np.log(1e-15)], 9.24),
        ("brier", [0.13, 0.43, 0.19, 0.84], 0.3975),
    ],
)
def test_losses_of_classes_are_by_the_probability_of_the_label(name, losses, error):
    """The last label is of a class that the model has never seen: as wrong as can be."""
    shares = np.array([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.8, 0.2, 0.0]])
    found = metrics.row_losses(Metric(name=name), ["a", "b", "c", "z"], shares, ["a", "b", "c"])
    assert found == pytest.approx(losses)
    assert metrics.error(Metric(name=name), found) == pytest.approx(error, abs=0.05)
    shares[1, 2], shares[2] = np.nan, np.inf
    assert np.isinf(metrics.row_losses(Metric(name=name), ["a", "b", "c", "z"], shares, ["a", "b", "c"])).tolist() == [
        False, True, True, False,
    ]  # fmt: skip


def test_a_model_that_knows_a_new_class_is_better_by_any_metric_than_one_that_cannot_say_it():
    for name in ("accuracy", "log_loss", "brier"):
        knows = metrics.row_losses(Metric(name=name), ["z"], np.array([[0.15, 0.15, 0.15, 0.15, 0.4]]), list("abcdz"))
        unsure = metrics.row_losses(Metric(name=name), ["z"], np.full((1, 4), 0.25), list("abcd"))
        assert knows[0] < unsure[0], name


def test_losses_of_numbers_are_infinite_where_answer_or_label_is_no_number():
    answers, labels = np.array([1.0, np.nan, np.inf, 4.0]), [3.0, 1.0, 1.0, np.nan]
    assert metrics.row_losses(RMSE, labels, answers).tolist() == [4.0, np.inf, np.inf, np.inf]
    assert metrics.row_losses(Metric(name="mae"), labels, answers).tolist() == [2.0, np.inf, np.inf, np.inf]
    assert metrics.error(RMSE, np.array([9.0, 16.0])) == pytest.approx(12.5**0.5)
    assert np.isnan(metrics.error(RMSE, np.array([])))


@pytest.mark.parametrize(("theirs", "middle"), [(None, 3.0), (4.0, 1.0)])
def test_the_interval_lies_about_the_error_or_about_what_it_is_more_than_the_others(theirs, middle):
    hours = np.arange(400) // 4
    ours = np.square(3.0 + np.random.default_rng(0).normal(0, 0.1, 400))
    other = None if theirs is None else np.full(400, theirs)
    low, high = metrics.block_interval(RMSE, ours, other, hours, 0.95, 0)
    assert middle - 0.05 < low < metrics.error(RMSE, ours) - (3.0 - middle) < high < middle + 0.05
    for broken in (np.r_[ours[:-1], np.inf], np.full(400, np.inf)):
        assert np.isnan(metrics.block_interval(RMSE, broken, other, hours, 0.95, 0)).all()
        assert np.isnan(metrics.block_interval(RMSE, ours, broken, hours, 0.95, 0)).all()


def test_as_many_hours_as_are_enough_are_kept_together_and_one_less_are_not():
    for hours, together in ((metrics.FEW_BLOCKS, True), (metrics.FEW_BLOCKS - 1, False)):
        moments = np.arange(300) % hours
        assert (metrics.blocks_of(moments, 0) == moments).all() == together
    assert metrics.blocks_of(np.array([], dtype=np.int64), 0).tolist() == []


@pytest.mark.parametrize(
    ("task", "answers", "fits"),
    [
        ("regression", np.zeros(3), True), ("regression", np.zeros((3, 1)), False), ("regression", np.zeros(2), False),
        ("binary", np.zeros((3, 2)), True), ("binary", np.zeros(3), False), ("binary", np.zeros((3, 3)), False),
    ],
)  # fmt: skip
def test_answers_of_another_shape_than_the_task_has_are_refused(task, answers, fits):
    estimator = SimpleNamespace(predict=lambda _: answers, predict_proba=lambda _: answers, classes_=[0, 1])
    if fits:
        assert metrics.predict(estimator, task, [0] * 3).shape == answers.shape
        return
    with pytest.raises(ContractError, match=r"SimpleNamespace\.predict(_proba)? of 3 rows has the shape"):
        metrics.predict(estimator, task, [0] * 3)
