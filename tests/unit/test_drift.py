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


def test_rows_in_any_order_make_the_same_reference():
    rows = table(8, x=lambda rng, day: day + rng.random(len(day)))
    mixed = rows.take(pa.array(np.random.default_rng(0).permutation(rows.num_rows)))
    assert drift.reference(mixed, ["x"]) == drift.reference(rows, ["x"])


def usual_distance(days):
    """The noise of days given as counts by bin, as its docstring has it, day by day."""
    from scipy.spatial.distance import jensenshannon

    days = [np.array(day) for day in days]
    whole = [day for day in days if day.sum() >= np.median([one.sum() for one in days]) / 2]
    excess = []
    for day in whole:
        others = np.sum(days, axis=0) - day
        chance = (1 / day.sum() + 1 / others.sum()) * (np.count_nonzero(np.sum(days, axis=0)) - 1) / (8 * np.log(2))
        excess.append(jensenshannon(others / others.sum(), day / day.sum(), base=2) ** 2 - chance)
    return np.sqrt(max(0.0, np.quantile(excess, 0.9)))


@pytest.mark.parametrize(
    "days",
    [
        [(40, 60, 0), (60, 40, 0)],
        [(400, 600, 9), (600, 400, 0), (500, 500, 1), (90, 10, 0), (520, 480, 0)],  # the fourth was cut short
        [(300, 300, 300), (290, 310, 300), (0, 900, 0), (150, 150, 150), (250, 0, 100)],
        [(50, 50, 0), (51, 49, 0), (50, 50, 0)],  # no more than chance
        [(90, 10, 0)],
    ],
)
def test_noise_is_the_usual_distance_of_a_whole_day_from_all_others_beyond_sampling_error(days):
    names = [name for day in days for name, count in zip("abc", day, strict=True) for _ in range(count)]
    of_day = np.repeat(np.arange(len(days)), [sum(day) for day in days])
    times = pa.array(np.datetime64("2024-01-01", "us") + 86_400_000_000 * of_day).cast(pa.timestamp("us", "UTC"))
    (column,) = drift.reference(pa.table({"event_timestamp": times, "zone": names}), ["zone"]).columns
    assert column.noise == pytest.approx(usual_distance(days) if len(days) > 1 else 0.0, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_what_lies_beyond_all_days_but_the_newest_before_it_is_counted_day_by_day(seed):
    from scipy.spatial.distance import jensenshannon

    rng = np.random.default_rng(seed)
    present = np.flatnonzero(rng.random(21) < 0.8)  # some days have no rows
    of_day = np.repeat(present, 40)
    values = 0.2 * rng.choice([-1, 1]) * of_day + rng.random(len(of_day))
    values[(rng.random(len(of_day)) < 0.1) | (of_day == 5)] = np.nan
    shares = []
    for day in present:
        own, before = (values[chosen & ~np.isnan(values)] for chosen in (of_day == day, of_day <= day - 2))
        if len(own) and len(before) and day > present[-1] / 2:
            shares.append(((own < before.min()) | (own > before.max())).mean())
    usual = np.quantile(shares, 0.9)
    assert 0 < usual < 1
    assert drift._beyond(values, of_day) == pytest.approx(jensenshannon([0.0, 1.0], [usual, 1 - usual], base=2))


def test_without_a_day_to_compare_with_nothing_lies_beyond():
    for values, days in (([np.nan] * 4, range(4)), ([1.0, 2.0], range(2)), ([], ())):
        assert drift._beyond(np.array(values, dtype=float), np.array(days, dtype=np.int64)) == 0.0


def test_columns_that_are_watched_together_share_the_chance_of_a_false_alarm():
    columns = {f"x{number}": normal() for number in range(10)}
    known = drift.reference(table(1, per_day=400, **columns), [*columns])
    window = table(1, per_day=100, first=3, **columns)
    one = Triggers(drift_effect=0.01, drift_columns=("x0",))
    for triggers, watched in ((one, 1), (Triggers(drift_effect=0.01), 10)):
        found = {part.feature: part for part in drift.compare(known, window, triggers)}["x0"]
        bins = np.count_nonzero(np.array(known.columns[0].shares))
        assert found.limit == pytest.approx(drift.sampling_distance(bins, 100, 400, watched))
    # The chi-square quantile of 11 degrees of freedom, 0.001 beyond.
    assert drift.sampling_distance(12, 100, 400, 10) == pytest.approx(
        np.sqrt(31.2641 * 0.0125 / (8 * np.log(2))), rel=1e-5
    )
    assert drift.sampling_distance(1, 100, 400, 10) == drift.sampling_distance(2, 100, 400, 10)


def test_a_column_that_always_had_holes_has_not_gone_missing():
    known = drift.reference(table(4, x=lambda rng, day: np.where(rng.random(len(day)) < 0.5, np.nan, 1.0)), ["x"])
    found = drift.compare(
        known, table(2, first=9, x=lambda rng, day: np.where(rng.random(len(day)) < 0.55, np.nan, 1.0))
    )
    assert found[0].missing > 0.5
    assert drift.gone_missing(found, Triggers(missing_rise=0.2)) == []


def test_of_many_rows_every_nth_counts_with_its_time(monkeypatch):
    rows = table(6, per_day=100, x=lambda _, day: day * 1.0, y=normal())
    monkeypatch.setattr(drift, "MOST_ROWS", 600)
    assert drift.reference(rows, ["x"]).rows == 600
    monkeypatch.setattr(drift, "MOST_ROWS", 250)
    known = drift.reference(rows, ["x"])
    assert known.rows == 200
    assert known.columns[0] == drift.reference(rows.take(pa.array(range(0, 600, 3))), ["x"]).columns[0]
    assert known.columns[0].noise > 0.5  # its days are known still
    assert (known.start, known.end) == tuple(pa.compute.min_max(rows["event_timestamp"]).as_py().values())
    assert drift.reference(rows.drop_columns("event_timestamp"), ["x"]).rows == 200


def test_only_the_label_is_compared_on_the_labelled_rows_alone():
    known = drift.reference(table(10, x=normal(), label=normal()), ["x", "label"])
    window = table(2, first=11, x=normal(), label=normal())
    found = {one.feature: one for one in drift.compare(known, window, TRIGGERS, window.slice(0, 300))}
    assert (found["x"].samples, found["label"].samples) == (1000, 300)


def test_texts_are_texts_however_arrow_keeps_them():
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        rows = pa.table({"zone": pa.array(["a", "b", "b"], pa.string()).cast(kind)})
        assert drift.reference(rows, ["zone"]).columns[0].categories == ("b", "a")


def test_numbered_classes_that_the_log_tells_as_text_are_those_of_the_training_set():
    known = drift.reference(pa.table({"prediction": [0, 1, 1, 3] * 100}), ["prediction"])
    logged = pa.table({"prediction": ["0", "1", "1", "3"] * 100})
    assert only(drift.compare(known, logged, TRIGGERS)).distance == pytest.approx(0.0, abs=1e-9)
    assert only(drift.compare(known, pa.table({"prediction": ["1", "1"] * 100}), TRIGGERS)).drifted


def test_numbers_are_binned_by_tenths_and_a_value_that_fills_one_has_its_own():
    (even,) = drift.reference(pa.table({"x": [float(number) for number in range(101)]}), ["x"]).columns
    assert even.edges == pytest.approx((0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 100))
    (heaped,) = drift.reference(pa.table({"x": [0.0] * 50 + [float(number) for number in range(1, 51)]}), ["x"]).columns
    place = heaped.edges.index(0.0)
    assert heaped.shares[place + 1] == 0.5
    assert heaped.edges[place + 1] == np.nextafter(0.0, 1.0)


def test_an_empty_training_set_is_compared_with_nothing():
    known = drift.reference(table(1, x=normal()).slice(0, 0), ["x"])
    assert drift.compare(known, table(1, x=normal()), TRIGGERS) == []


def test_what_few_days_judged_is_surer_the_more_of_them_there_were():
    trained = table(20, prediction=lambda rng, day: rng.normal((day % 5) * 1.0, 0.1)).append_column(
        "row", pa.array(range(10_000))
    )
    judged = table(4, first=20, prediction=lambda rng, day: rng.normal((day % 5) * 1.0, 0.1))
    (four,) = drift.held_out(judged, trained)
    (none,) = drift.held_out(judged.drop_columns("event_timestamp"), trained)
    assert four.rows == 2000
    assert none.noise > 0.1
    assert four.noise == pytest.approx(none.noise * np.sqrt(1 + 1 / 4))


def test_answers_are_as_sure_as_the_rows_that_judged_were_many():
    trained, judged = table(8, per_day=1000, prediction=normal()), table(1, per_day=50, prediction=normal())
    known = drift.reference(trained, ["prediction"])
    answers = drift.held_out(judged, trained)
    held = known.model_copy(update={"columns": answers})
    window = table(1, per_day=200, first=30, prediction=normal())
    found = only(drift.compare(held, window, Triggers(drift_effect=0.01)))
    seen = np.bincount(drift._bins(answers[0], window["prediction"])[0], minlength=len(answers[0].shares))
    filled = np.count_nonzero(seen + np.array(answers[0].shares))
    assert found.limit == pytest.approx(answers[0].noise + drift.sampling_distance(filled, 200, 50, 1))
