"""Statistics over rolling windows: the same to the bit, whatever the order of the rows."""

import ibis
import numpy as np
import pyarrow as pa
import pytest

from flows.steps.windows import mean


def of(values: np.ndarray, expression) -> float:
    table = ibis.memtable(pa.table({"x": values}))
    return table.aggregate(found=expression).to_pyarrow()["found"][0].as_py()


def test_a_mean_does_not_depend_on_the_order_of_the_rows():
    rng = np.random.default_rng(1)
    values = rng.lognormal(2.0, 1.5, 200_000)
    means = {of(rng.permutation(values), mean(ibis._.x)) for _ in range(5)}
    assert len(means) == 1
    assert means.pop() == pytest.approx(values.mean(), abs=1e-6)


def test_a_mean_leaves_out_what_is_no_finite_number():
    assert of(np.array([1.0, np.nan, np.inf, 4.0]), mean(ibis._.x)) == 2.5
    assert of(np.array([np.nan]), mean(ibis._.x)) is None
    assert of(np.array([1.0, 2.0, 9.0]), mean(ibis._.x, where=ibis._.x < 5)) == 1.5
