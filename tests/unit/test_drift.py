"""Drift: a moved column is found at any size, a column that only wobbles as it always did is not."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from flows.spec import Triggers
from flows.steps import drift

START = datetime(2024, 1, 1, tzinfo=UTC)
TRIGGERS = Triggers(drift_effect=0.1)


def table(days: int, per_day: int = 500, first: int = 0, **columns) -> pa.Table:
    """Return rows spread over whole days; a column is an array or a function of (rng, day numbers)."""
    day = np.repeat(np.arange(first, first + days), per_day)
    rng = np.random.default_rng(first + 1)
    times = np.datetime64("2024-01-01", "us") + 1_000_000 * (day * 86_400 + rng.integers(0, 86_400, len(day)))
    values = {name: pa.array(make(rng, day), from_pandas=True) for name, make in columns.items()}
    return pa.table({"event_timestamp": pa.array(times).cast(pa.timestamp("us", "UTC")), **values})


def normal(shift=0.0):
    return lambda rng, day: rng.normal(shift, 1.0, len(day))


def always(value):
    def make(rng, day):
        return np.full(len(day), value)

    return make


def only(drifts):
    assert len(drifts) == 1
    return drifts[0]


def test_a_shifted_number_drifts_and_an_unshifted_one_does_not():
    known = drift.reference(table(14, x=normal(), y=normal()), ["x", "y"])
    found = drift.compare(known, table(2, first=20, x=normal(0.6), y=normal()), TRIGGERS)
    assert [(one.feature, one.drifted) for one in found] == [("x", True), ("y", False)]
    assert found[0].samples == 1000


def test_the_same_rows_have_distance_zero():
    rows = table(5, x=normal())
    assert only(drift.compare(drift.reference(rows, ["x"]), rows, TRIGGERS)).distance == pytest.approx(0.0, abs=1e-9)


def test_rows_without_anything_in_common_have_distance_one():
    known = drift.reference(table(5, x=lambda rng, day: rng.random(len(day))), ["x"])
    assert only(drift.compare(known, table(2, x=lambda rng, day: 5 + rng.random(len(day))), TRIGGERS)).distance > 0.99


@pytest.mark.parametrize("rows", [5, 20, 100])
def test_a_few_rows_of_the_same_distribution_do_not_drift(rows):
    known = drift.reference(table(14, x=normal()), ["x"])
    alarms = [
        only(drift.compare(known, table(1, per_day=rows, first=seed, x=normal()), TRIGGERS)).drifted
        for seed in range(20, 70)
    ]
    assert sum(alarms) <= 2


def test_a_tiny_shift_in_many_rows_is_no_drift_however_significant():
    known = drift.reference(table(10, per_day=20_000, x=normal()), ["x"])
    found = only(drift.compare(known, table(10, per_day=20_000, first=10, x=normal(0.05)), TRIGGERS))
    assert 0.0 < found.distance < found.limit
    assert not found.drifted


def test_a_weekday_never_drifts_on_one_day_but_a_number_does():
    def weekday(rng, day):
        return (day % 7).astype(float)

    known = drift.reference(table(28, weekday=weekday, x=normal()), ["weekday", "x"])
    assert {column.name: column.noise > 0.5 for column in known.columns} == {"weekday": True, "x": False}
    for first in range(28, 35):
        found = drift.compare(known, table(1, first=first, weekday=weekday, x=normal(1.0)), TRIGGERS)
        assert [one.feature for one in found if one.drifted] == ["x"]


def test_a_count_that_was_still_growing_at_training_does_not_drift_when_it_goes_on():
    def growing(rng, day):
        return np.minimum(day, 28) * 10.0 + rng.normal(0, 8, len(day))

    known = drift.reference(table(26, trips=growing), ["trips"])
    assert not only(drift.compare(known, table(2, first=26, trips=growing), TRIGGERS)).drifted


def test_one_odd_training_day_does_not_blind_the_monitor():
    def odd(rng, day):
        return rng.normal(np.where(day == 3, 50.0, 0.0), 1.0)

    known = drift.reference(table(28, x=odd), ["x"])
    assert only(drift.compare(known, table(2, first=30, x=normal(1.0)), TRIGGERS)).drifted


def test_a_new_category_and_a_changed_mix_drift():
    def zones(*shares):
        return lambda rng, day: rng.choice(["north", "south", "east"], len(day), p=shares)

    known = drift.reference(table(10, zone=zones(0.6, 0.4, 0.0)), ["zone"])
    assert not only(drift.compare(known, table(2, first=12, zone=zones(0.6, 0.4, 0.0)), TRIGGERS)).drifted
    assert only(drift.compare(known, table(2, zone=zones(0.2, 0.8, 0.0)), TRIGGERS)).drifted
    assert only(drift.compare(known, table(2, zone=zones(0.4, 0.3, 0.3)), TRIGGERS)).drifted


def test_rare_categories_share_a_bin():
    values = [f"c{n}" for n in range(40) for _ in range(40 - n)]
    known = drift.reference(pa.table({"c": values}), ["c"])
    assert known.columns[0].categories == tuple(f"c{n}" for n in range(20))
    assert sum(known.columns[0].shares) == pytest.approx(1.0)


def test_missing_values_are_a_bin_of_their_own_and_a_rise_is_told():
    def holed(share):
        return lambda rng, day: np.where(rng.random(len(day)) < share, np.nan, rng.normal(size=len(day)))

    known = drift.reference(table(10, x=holed(0.05)), ["x"])
    found = only(drift.compare(known, table(2, first=11, x=holed(0.5)), TRIGGERS))
    assert found.missing == pytest.approx(0.5, abs=0.05)
    assert found.missing_reference == pytest.approx(0.05, abs=0.01)
    assert found.drifted
    assert drift.gone_missing([found], TRIGGERS) == ["x"]
    assert drift.gone_missing([found], Triggers(missing_rise=0.6)) == []


def test_a_value_that_never_changed_drifts_when_it_does():
    known = drift.reference(table(5, x=always(5.0)), ["x"])
    assert not only(drift.compare(known, table(1, x=always(5.0)), TRIGGERS)).drifted
    for value in (4.0, 5.1, 7.0, np.inf, np.nan):
        assert only(drift.compare(known, table(1, x=always(value)), TRIGGERS)).drifted, value


def test_a_column_without_any_value_at_training_is_compared_by_its_missing_share():
    known = drift.reference(table(5, x=always(np.nan)), ["x"])
    assert known.columns[0].edges == ()
    assert only(drift.compare(known, table(1, x=normal()), TRIGGERS)).drifted


def test_only_watched_columns_drift_and_the_others_are_still_shown():
    known = drift.reference(table(10, x=normal(), y=normal()), ["x", "y"])
    triggers = Triggers(drift_effect=0.1, drift_columns=("y",))
    found = drift.compare(known, table(2, x=normal(2.0), y=normal(2.0)), triggers)
    assert [(one.feature, one.watched, one.drifted) for one in found] == [("y", True, True), ("x", False, False)]
    assert found[1].distance > found[1].limit


def test_the_label_is_compared_only_where_it_is_known():
    known = drift.reference(table(10, label=normal()), ["label"])
    window = table(2, first=11, label=lambda rng, day: np.where(day == 12, np.nan, rng.normal(size=len(day))))
    labelled = window.slice(0, 500)
    assert not only(drift.compare(known, window, TRIGGERS, labelled)).drifted
    assert only(drift.compare(known, window, TRIGGERS)).drifted  # half of it missing


def test_without_rows_or_columns_in_common_nothing_is_compared():
    known = drift.reference(table(10, x=normal()), ["x"])
    assert drift.compare(known, table(1, y=normal()), TRIGGERS) == []
    assert drift.compare(known, table(1, x=normal()).slice(0, 0), TRIGGERS) == []


def test_a_reference_is_the_same_after_json():
    columns = {"x": normal(), "zone": lambda rng, day: rng.choice(["a", "b"], len(day))}
    known = drift.reference(table(10, **columns), ["x", "zone"])
    again = drift.Reference.model_validate_json(known.model_dump_json())
    assert again == known
    assert (known.start, known.rows) != (None, 0)
    assert START <= known.start < known.end < START + timedelta(days=10)


def test_integers_and_booleans_are_numbers():
    rows = pa.table({"i": pa.array([1, 2, None] * 100), "b": pa.array([True, False, True] * 100)})
    for column in ("i", "b"):
        found = only(drift.compare(drift.reference(rows, [column]), rows, TRIGGERS))
        assert found.distance == pytest.approx(0, abs=1e-9)


def test_flags_that_the_log_tells_as_text_are_those_of_the_training_set():
    known = drift.reference(pa.table({"prediction": pa.array([True, False, True] * 100)}), ["prediction"])
    logged = pa.table({"prediction": pa.array(["true", "false", "true", "false"] * 100 + [None])})
    found = only(drift.compare(known, logged, TRIGGERS))
    assert found.distance == pytest.approx(
        only(
            drift.compare(known, pa.table({"prediction": [True, False, True, False] * 100 + [None]}), TRIGGERS)
        ).distance
    )
    nothing = pa.table({"prediction": pa.array([None, None], pa.string())})
    assert only(drift.compare(known, nothing, TRIGGERS)).missing == 1.0


def test_sampling_covers_what_chance_does_to_two_samples_of_one_distribution():
    rng = np.random.default_rng(0)
    shares = np.full(12, 1 / 12)
    one, other = rng.multinomial(800, shares, 4000) / 800, rng.multinomial(5000, shares, 4000) / 5000
    from scipy.spatial.distance import jensenshannon

    beyond = (jensenshannon(one, other, base=2.0, axis=1) > drift.sampling_distance(12, 800, 5000, 1)).mean()
    assert 0.003 < beyond < 0.02  # FALSE_ALARMS is 0.01


@pytest.mark.parametrize("days", [6, 14, 60])
@pytest.mark.parametrize("step", [-1.0, 1.0])
def test_what_only_falls_or_rises_has_not_drifted_by_doing_so(days, step):
    def moving(rng, day):
        return step * day + rng.random(len(day)) / 2

    known = drift.reference(table(days, x=moving, y=normal()), ["x", "y"])
    found = {one.feature: one for one in drift.compare(known, table(2, first=days, x=moving, y=normal(0.6)), TRIGGERS)}
    assert found["x"].distance > 0.99
    assert not found["x"].drifted
    assert found["y"].drifted


def test_a_few_records_a_day_do_not_hide_a_shift():
    known = drift.reference(table(14, x=lambda rng, day: rng.standard_cauchy(len(day))), ["x"])
    assert known.columns[0].noise < 0.1
    moved = table(2, first=14, x=lambda rng, day: 2.0 + rng.standard_cauchy(len(day)))
    assert only(drift.compare(known, moved, TRIGGERS)).drifted
