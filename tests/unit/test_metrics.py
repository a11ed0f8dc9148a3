"""How sure an error is: by hours where there are some, by rows where all are of a few moments."""

import numpy as np
import pytest

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
