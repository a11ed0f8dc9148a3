"""Performance: labels come late, twice and out of order; the error is judged against what its own test promised."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.models.taxi.spec import spec as taxi
from flows.spec import Label, Metric
from flows.steps import labels, metrics, performance
from flows.steps.answered import probabilities_of, with_answers

START = datetime(2024, 1, 8, 5, tzinfo=UTC)  # midnight in New York
SPEC = taxi.model_copy(
    update={"key": ("id",), "slices": ("kind",), "triggers": taxi.triggers.model_copy(update={"min_labels": 100})}
)

RARE = SPEC.model_copy(update={"task": "binary", "metric": Metric(name="log_loss"), "slices": ()})


def predictions(*rows, version=1):
    """Return logged answers; a row is (request, id, prediction, hours after START)."""
    return pa.table(
        {
            "request_id": [row[0] for row in rows],
            "row": pa.array([0] * len(rows), pa.int64()),
            "at": pa.array([START + timedelta(days=9)] * len(rows), pa.timestamp("us", "UTC")),
            "version": pa.array([version] * len(rows), pa.int64()),
            "event_timestamp": pa.array([START + timedelta(hours=row[3]) for row in rows], pa.timestamp("us", "UTC")),
            "prediction": pa.array([row[2] for row in rows], pa.float64()),
            "id": pa.array([row[1] for row in rows], pa.int64()),
            "kind": pa.array([float(row[1] % 2) for row in rows]),
        }
    )


def accepted(folder, name, *rows):
    """Write an accepted partition; a row is (id, label, hours after START, hours until the label is known)."""
    table = pa.table(
        {
            "id": pa.array([row[0] for row in rows], pa.int64()),
            "event_timestamp": pa.array([START + timedelta(hours=row[2]) for row in rows], pa.timestamp("us", "UTC")),
            "label_timestamp": pa.array(
                [START + timedelta(hours=row[2] + row[3]) for row in rows], pa.timestamp("us", "UTC")
            ),
            "label": pa.array([row[1] for row in rows], pa.float64()),
        }
    )
    path = folder / f"{name}.parquet"
    pq.write_table(table, path)
    return str(path)


def pairs(joined):
    return [(row["request_id"], row["label"], row[labels.STATE]) for row in joined.to_pylist()]


def test_a_request_field_may_be_called_state(tmp_path):
    log = predictions(("a", 1, 11.0, 1), ("b", 2, 21.0, 2)).append_column("state", pa.array(["Ohio", "Utah"]))
    joined = labels.join_labels(SPEC, log, [accepted(tmp_path, "one", (1, 10.0, 1, 1))])
    assert labels.labelled(joined)["state"].to_pylist() == ["Ohio"]


def test_labels_meet_their_predictions_in_whatever_order_the_partitions_came(tmp_path):
    late = accepted(tmp_path, "late", (2, 20.0, 2, 30))
    first = accepted(tmp_path, "first", (3, 30.0, 3, 1), (1, 10.0, 1, 1), (9, 90.0, 1, 1))
    log = predictions(("c", 3, 31.0, 3), ("a", 1, 11.0, 1), ("b", 2, 21.0, 2), ("d", 4, 41.0, 4))
    expected = [("a", 10.0, "labelled"), ("b", 20.0, "labelled"), ("c", 30.0, "labelled"), ("d", None, "waiting")]
    assert pairs(labels.join_labels(SPEC, log, [late, first])) == expected
    assert pairs(labels.join_labels(SPEC, log, [first, late])) == expected


def test_a_label_that_came_twice_and_a_prediction_logged_twice_count_once(tmp_path):
    one = accepted(tmp_path, "one", (1, 10.0, 1, 5), (1, 10.0, 1, 5))
    two = accepted(tmp_path, "two", (1, 12.0, 1, 1))
    log = predictions(("a", 1, 11.0, 1), ("a", 1, 11.0, 1))
    assert pairs(labels.join_labels(SPEC, log, [one, two])) == [("a", 12.0, "labelled")]  # 12 was known first
    assert pairs(labels.join_labels(SPEC, log, [two, one])) == [("a", 12.0, "labelled")]


def test_two_requests_for_one_trip_are_two_predictions(tmp_path):
    one = accepted(tmp_path, "one", (1, 10.0, 1, 1))
    log = predictions(("b", 1, 12.0, 1), ("a", 1, 11.0, 1))
    assert pairs(labels.join_labels(SPEC, log, [one])) == [("a", 10.0, "labelled"), ("b", 10.0, "labelled")]


def test_labels_that_the_model_does_not_answer_for_are_counted_apart(tmp_path):
    one = accepted(tmp_path, "one", (1, 0.5, 1, 1), (2, 61.0, 1, 1), (3, 1.0, 1, 1), (4, 60.0, 1, 1))
    joined = labels.join_labels(SPEC, predictions(*((str(n), n, 5.0, 1) for n in (1, 2, 3, 4, 5))), [one])
    assert joined[labels.STATE].to_pylist() == ["outside", "outside", "labelled", "labelled", "waiting"]
    found = performance.assess(SPEC, joined, performance.plain(5.0, SPEC.metric))
    assert (found.predictions, found.labelled, found.outside, found.waiting) == (5, 2, 2, 1)
    found = performance.assess(SPEC, joined.slice(2, 2), performance.plain(5.0, SPEC.metric))
    assert (found.predictions, found.labelled, found.outside, found.waiting) == (2, 2, 0, 0)


def test_a_label_is_text_for_a_class(tmp_path):
    path = tmp_path / "one.parquet"
    moment = pa.array([START] * 2, pa.timestamp("us", "UTC"))
    rows = {"id": [1, 2], "event_timestamp": moment, "label_timestamp": moment, "label": ["a", "b"]}
    pq.write_table(pa.table(rows), path)
    classes = SPEC.model_copy(
        update={"task": "multiclass", "metric": Metric(name="accuracy"), "label": Label(name="kind"), "slices": ()}
    )
    log = predictions(("x", 1, 0.0, 0), ("y", 2, 0.0, 0)).set_column(5, "prediction", pa.array(["a", "a"]))
    joined = labels.join_labels(classes, log, [str(path)])
    found = performance.assess(classes, joined, performance.expect(classes, joined))
    assert found.metric == "share of misses"
    assert (found.error, found.expected, found.ratio) == (0.5, 0.5, 1.0)


@pytest.mark.parametrize("truth", [pa.array([True, False]), pa.array([1, 0]), pa.array([1.0, 0.0])])
def test_logged_classes_equal_their_labels_whatever_their_type(truth):
    binary = SPEC.model_copy(update={"task": "binary"})
    logged = {"bool": ["true", "true"], "int64": ["1", "1"], "double": ["1.0", "1.0"]}[str(truth.type)]
    rows = pa.table({"label": truth, "prediction": logged})
    assert performance.losses_of(binary, Metric(name="accuracy"), rows).tolist() == [0.0, 1.0]


def test_a_row_without_an_answer_is_a_miss():
    rows = pa.table({"label": ["a", "b", "a"], "prediction": ["a", "a", None]})
    classes = SPEC.model_copy(update={"task": "multiclass"})
    assert performance.losses_of(classes, Metric(name="accuracy"), rows).tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("names", [(False, True), (0, 1), (0.0, 1.0), ("no", "yes"), ("No", "Yes")])
@pytest.mark.parametrize(("metric", "losses"), [("log_loss", (-np.log(0.9), -np.log(0.2))), ("brier", (0.01, 0.64))])
def test_logged_probabilities_are_judged_as_those_of_the_judging_part_are(names, metric, losses):
    shares = np.array([[0.9, 0.1], [0.8, 0.2]])
    rows = with_answers(pa.table({"label": pa.array(names)}), shares, names)
    binary = RARE.model_copy(update={"metric": Metric(name=metric)})
    assert performance.losses_of(binary, binary.metric, rows) == pytest.approx(losses)
    assert metrics.row_losses(binary.metric, names, shares, names) == pytest.approx(losses)


def test_answers_of_several_versions_and_without_probabilities():
    two, three = (np.array([[0.25, 0.75]]), np.array([[0.5, 0.3, 0.2]]))
    rows = pa.table({"label": ["c"]})
    known = [with_answers(rows, two, ("a", "b")), with_answers(rows, three, ("a", "b", "c"))]
    nothing = pa.nulls(1, known[0]["probabilities"].type)
    log = pa.concat_tables(
        [*known, rows.append_column("prediction", pa.array(["a"])).append_column("probabilities", nothing)]
    )
    names, shares = probabilities_of(log)
    assert names == ["a", "b", "c"]
    np.testing.assert_array_equal(shares, [[0.25, 0.75, 0.0], [0.5, 0.3, 0.2], [np.nan] * 3])
    found = performance.losses_of(RARE, RARE.metric, log)
    assert found.tolist() == pytest.approx([-np.log(1e-15), -np.log(0.2), np.inf])
    assert performance.losses_of(RARE, RARE.metric, log.slice(2)).tolist() == [np.inf]
    assert performance.losses_of(RARE, RARE.metric, log.slice(0, 0)).tolist() == []


@pytest.mark.parametrize("label", ["yes", 1, 1.0, True])
def test_classes_of_which_no_label_is_known_yet_have_no_error(label):
    log = with_answers(predictions(("a", 1, 0.0, 1)).drop_columns(["prediction"]), np.array([[0.25, 0.75]]), (0, 1))
    joined = log.append_column("label", pa.nulls(1, pa.scalar(label).type)).append_column(
        labels.STATE, pa.array(["waiting"])
    )
    for expected in (performance.plain(0.2, RARE.metric), performance.expect(RARE, rare(0.03))):
        found = performance.assess(RARE, joined, expected)
        assert (found.predictions, found.labelled, found.waiting, found.degraded) == (1, 0, 1, False)
        assert np.isnan(found.error)


@pytest.mark.parametrize("label", ["a", 1, 1.0, True])
def test_answers_without_probabilities_have_an_infinite_loss_whatever_classes_are(label):
    rows = pa.table({"label": [label], "prediction": ["1"]})
    rows = rows.append_column("probabilities", pa.nulls(1, pa.map_(pa.string(), pa.float64())))
    assert performance.losses_of(RARE, RARE.metric, rows).tolist() == [np.inf]


def rare(share, rows=4000, seed=0, told=0.03):
    """Return labelled answers of a class as rare as ``share`` says, which is told by chances of 0.01 and ``told`` on average."""
    rng = np.random.default_rng(seed)
    risky = rng.random(rows) < 0.5
    chance = np.where(risky, 2 * told - 0.01, 0.01)
    truth = rng.random(rows) < np.where(risky, 2 * share - 0.01, 0.01)
    log = predictions(*((str(n), n, 0.0, n / 20) for n in range(rows))).drop_columns(["prediction"])
    log = with_answers(log, np.column_stack([1 - chance, chance]), (0, 1))
    labelled = log.append_column("label", pa.array(truth.astype(float)))
    return labelled.append_column(labels.STATE, pa.array(["labelled"] * rows))


def test_a_rare_class_is_watched_by_the_metric_that_the_model_was_chosen_by():
    known = performance.expect(RARE, rare(0.03))
    calm, moved = (performance.assess(RARE, rare(share, seed=1), known) for share in (0.03, 0.09))
    assert calm.metric == "log_loss"
    assert calm.ratio == pytest.approx(1.0, abs=0.15)
    assert (calm.degraded, moved.degraded) == (False, True)
    # Nobody is told the rare class, so the misses say no more than how rare it is: no better model would have fewer.
    assert len(known.edges) == 1


def test_a_mix_of_more_risky_rows_alone_does_not_degrade_classes():
    known = performance.expect(RARE, rare(0.03))
    rows = rare(0.03, seed=2, rows=12000)
    risky = probabilities_of(rows)[1].max(axis=1) < 0.98
    many = performance.assess(RARE, rows.filter(pa.array(risky)), known)
    assert many.error > 1.4 * known.error
    assert not many.degraded
    assert performance.assess(RARE, rows.filter(pa.array(risky)), performance.plain(known.error, RARE.metric)).degraded


def test_a_reference_of_hits_and_misses_is_judged_by_them_whatever_the_metric():
    counted = performance.expect(RARE.model_copy(update={"metric": Metric(name="accuracy")}), rare(0.03))
    found = performance.assess(RARE, rare(0.03, seed=1), counted)
    assert found.metric == "share of misses"
    assert found.ratio == pytest.approx(1.0, abs=0.2)


def test_no_partition_and_no_prediction_is_no_error(tmp_path):
    joined = labels.join_labels(SPEC, predictions(("a", 1, 11.0, 1)), [])
    assert pairs(joined) == [("a", None, "waiting")]
    found = performance.assess(SPEC, joined, performance.plain(5.0, SPEC.metric))
    assert np.isnan(found.error)
    assert not found.degraded
    one = accepted(tmp_path, "one", (1, 9.0, 1, 1))
    empty = labels.join_labels(SPEC, predictions(("a", 1, 11.0, 1)).slice(0, 0), [one])
    assert performance.assess(SPEC, empty, performance.plain(5.0, SPEC.metric)).predictions == 0


def judged(rows=2000, factor=1.0, long=0.5, seed=0, per_hour=20, spec=SPEC, expected=None):
    """Return performance on rows whose error is 1 for short trips and 4 for long ones, times a factor."""
    rng = np.random.default_rng(seed)
    is_long = rng.random(rows) < long
    truth = np.where(is_long, 40.0, 10.0) + rng.uniform(-3, 3, rows)
    predicted = truth + factor * np.where(is_long, 4.0, 1.0) * rng.choice([-1, 1], rows)
    log = predictions(*((str(n), n, float(predicted[n]), n / per_hour) for n in range(rows)))
    joined = log.append_column("label", pa.array(truth)).append_column(labels.STATE, pa.array(["labelled"] * rows))
    return joined if expected is None else performance.assess(spec, joined, expected)


@pytest.fixture(scope="module")
def expected():
    judge = judged()
    return performance.expect(SPEC, judge)


def test_the_expected_error_is_that_of_the_judging_part(expected):
    found = judged(seed=1, expected=expected)
    assert expected.error == pytest.approx(np.sqrt((16 + 1) / 2), rel=0.05)
    assert found.ratio == pytest.approx(1.0, abs=0.02)
    assert not found.degraded


@pytest.mark.parametrize("long", [0.1, 0.9])
def test_another_mix_of_rows_alone_does_not_degrade(expected, long):
    found = judged(seed=2, long=long, expected=expected)
    assert abs(found.error / expected.error - 1.0) > 0.2
    assert found.ratio == pytest.approx(1.0, abs=0.02)
    assert not found.degraded
    assert long < 0.5 or judged(seed=2, long=long, expected=performance.plain(expected.error, SPEC.metric)).degraded


@pytest.mark.parametrize("metric", ["rmse", "mae", "accuracy", "log_loss"])
def test_an_error_of_which_nothing_else_is_known_is_to_be_expected_of_any_rows(metric):
    metric = Metric(name=metric)
    assert metrics.error(metric, np.array(performance.plain(0.3, metric).losses)) == pytest.approx(0.3)


def test_the_interval_of_a_ratio_of_two_measured_figures_is_wider_on_both_sides():
    measured = performance.plain(5.0, SPEC.metric, 100).model_copy(update={"interval": (4.0, 6.5)})
    low, high = performance._of_two_samples(2.0, (1.5, 3.0), measured)
    assert np.log(2.0 / low) == pytest.approx(np.hypot(np.log(2.0 / 1.5), np.log(6.5 / 5.0)))
    assert np.log(high / 2.0) == pytest.approx(np.hypot(np.log(3.0 / 2.0), np.log(5.0 / 4.0)))
    assert performance._of_two_samples(2.0, (1.5, 3.0), performance.plain(5.0, SPEC.metric)) == (1.5, 3.0)


@pytest.mark.parametrize("rows", [1, 30, 5000])
def test_a_test_without_a_miss_may_have_hidden_as_many_as_chance_hides(rows):
    none = performance.Expected(error=0.0, rows=rows, losses=(0.0,))
    assert (1.0 - performance._most_missed(none, 0.9)) ** rows == pytest.approx(0.05)


def test_answers_of_several_classes_are_binned_by_the_likeliest_one():
    shares = np.array([[0.2, 0.5, 0.3], [0.9, 0.05, 0.05]])
    rows = with_answers(pa.table({"label": ["a", "b"]}), shares, ("a", "b", "c"))
    many = RARE.model_copy(update={"task": "multiclass"})
    assert performance._ranked(many, rows).tolist() == [0.5, 0.9]


@pytest.mark.parametrize(("factor", "degraded"), [(1.05, False), (1.3, True)])
def test_an_error_grown_past_the_ratio_degrades(expected, factor, degraded):
    found = judged(seed=3, factor=factor, expected=expected)
    assert found.degraded is degraded
    assert found.ratio_interval[0] < found.ratio < found.ratio_interval[1]


def test_a_lucky_test_on_few_rows_promises_little():
    def answered(rows, days, seed, worse=0.0):
        rng = np.random.default_rng(seed)
        score = rng.normal(-4.0, 1.3, rows)
        said, true = (1 / (1 + np.exp(-one)) for one in (score, score + worse))
        times = [START + timedelta(days=days * number / rows) for number in range(rows)]
        truth = np.where(rng.random(rows) < true, "yes", "no")
        table = pa.table({"event_timestamp": pa.array(times, pa.timestamp("us", "UTC")), "label": truth})
        known = table.append_column(labels.STATE, pa.array(["labelled"] * rows))
        return with_answers(known, np.column_stack([1 - said, said]), ["no", "yes"])

    alarms, alarms_if_exact, seen = 0, 0, 0
    for champion in range(30):
        promised = performance.expect(RARE, answered(1000, 2, champion))
        later = answered(3500, 7, 100 + champion)
        alarms += performance.assess(RARE, later, promised).degraded
        alarms_if_exact += performance.assess(RARE, later, promised.model_copy(update={"interval": None})).degraded
        seen += performance.assess(RARE, answered(3500, 7, 200 + champion, worse=1.5), promised).degraded
    assert alarms <= 1 < 3 <= alarms_if_exact, (alarms, alarms_if_exact)
    assert seen == 30


def test_a_test_of_few_misses_promises_little():
    """Of few misses, or none, the interval begins at no error, which tells nothing of how many more there may be."""
    spec = RARE.model_copy(update={"metric": Metric(name="accuracy")})

    def missed(rows, per_hour, seed, share):
        wrong = np.random.default_rng(seed).random(rows) < share
        log = predictions(*((str(n), n, 0.0, n / per_hour) for n in range(rows))).drop_columns(["prediction", "kind"])
        added = {"prediction": ["no"] * rows, "label": np.where(wrong, "yes", "no"), labels.STATE: ["labelled"] * rows}
        for name, values in added.items():
            log = log.append_column(name, pa.array(values))
        return log

    alarms, seen, tests = 0, 0, [missed(300, 5, seed, 0.01) for seed in range(25)]
    promises = [performance.expect(spec, test) for test in tests]
    for number, promised in enumerate(promises):
        alarms += performance.assess(spec, missed(3000, 30, 100 + number, 0.01), promised).degraded
        worse = performance.assess(spec, missed(3000, 30, 200 + number, 0.3), promised)
        seen += worse.degraded
        assert worse.ratio_interval[0] < worse.ratio <= worse.ratio_interval[1]
    assert sum(promised.interval[0] == 0 for promised in promises) > 10
    assert sum(promised.error == 0 for promised in promises) > 1
    assert alarms <= 2, alarms
    assert seen == len(promises)


def test_too_few_labels_do_not_degrade(expected):
    assert not judged(rows=99, factor=3.0, expected=expected).degraded
    assert judged(rows=100, factor=3.0, expected=expected).degraded


def test_one_bad_hour_does_not_degrade(expected):
    """A single hour of the day went wrong: the interval over hours is wide, its lower end stays below."""
    joined = judged(seed=4, rows=480)
    hour = np.arange(480) // 20 == 5
    prediction = np.where(hour, joined["prediction"].to_numpy() + 12.0, joined["prediction"].to_numpy())
    joined = joined.set_column(5, "prediction", pa.array(prediction))
    found = performance.assess(SPEC, joined, expected)
    assert found.ratio > SPEC.triggers.performance_ratio
    assert not found.degraded


def test_an_answer_that_is_no_number_degrades(expected):
    joined = judged(seed=5)
    broken = joined["prediction"].to_numpy().copy()
    broken[7] = np.nan
    found = performance.assess(SPEC, joined.set_column(5, "prediction", pa.array(broken)), expected)
    assert found.error == float("inf")
    assert found.degraded
    assert found.interval == found.ratio_interval == (float("inf"), float("inf"))
    assert [np.isinf(part.high) for part in found.days] == [True, False, False, False, False]  # of its own day alone


def test_days_are_local_and_slices_add_up(expected):
    found = judged(seed=6, expected=expected)  # 100 hours from midnight in New York
    assert [part.name for part in found.days] == [f"2024-01-{day:02}" for day in (8, 9, 10, 11, 12)]
    assert [part.rows for part in found.days] == [480, 480, 480, 480, 80]
    assert all(part.low <= part.error <= part.high for part in found.days)
    assert [part.name for part in found.slices] == ["kind = 0", "kind = 1"]
    assert sum(part.rows * part.error**2 for part in found.slices) == pytest.approx(found.labelled * found.error**2)


def test_only_the_version_and_the_newest_days_are_looked_at():
    log = pa.concat_tables(
        [
            predictions(*((f"a{n}", n, 1.0, 24 * n) for n in range(10))),
            predictions(("other", 1, 1.0, 24 * 30), version=2),
        ]
    )
    found = labels.newest(log, version=1, days=3)
    assert found["request_id"].to_pylist() == ["a7", "a8", "a9"]
    assert labels.newest(log, version=3, days=3).num_rows == 0


def test_a_request_for_a_far_future_does_not_move_the_window():
    log = predictions(*((f"a{n}", n, 1.0, n / 100) for n in range(5000)), ("far", 1, 1.0, 24 * 365))
    found = labels.newest(log, version=1, days=1)
    assert "far" not in found["request_id"].to_pylist()
    assert found.num_rows == 2400


def test_a_request_without_event_time_is_as_old_as_its_answer():
    log = predictions(("a", 1, 1.0, 0))
    log = log.set_column(4, "event_timestamp", pa.array([None], pa.timestamp("us", "UTC")))
    assert labels.newest(log, 1, 7)["event_timestamp"].to_pylist() == [START + timedelta(days=9)]


@pytest.mark.parametrize(("hours", "kept"), [(12, 0), (22, 0), (23.5, 23.5), (24.5, 24), (30, 24), (168, 168)])
def test_drift_is_compared_over_whole_days(hours, kept):
    rows = predictions(*((str(n), n, 1.0, n / 10) for n in range(int(hours * 10))))
    found = labels.whole_days(rows, 9)
    assert found.num_rows == pytest.approx(kept * 10, abs=10)
    assert labels.whole_days(rows, 1).num_rows == pytest.approx(min(kept, 24) * 10, abs=10)


@pytest.mark.parametrize(("share", "degraded"), [(0.0, False), (0.002, False), (0.5, True)])
def test_errors_where_the_champions_test_had_none_degrade_it(share, degraded):
    hours = np.arange(1000) // 10
    losses = np.zeros(1000)
    losses[: int(1000 * share)] = 1.0
    low, high = performance._ratio_interval(SPEC, Metric(name="accuracy"), losses, np.zeros(1000), hours)
    assert 1.0 <= low <= high
    assert (low > SPEC.triggers.performance_ratio) is degraded


@pytest.mark.parametrize(("usual", "odd"), [(600, 1), (998, 1), (1500, 2), (3000, 40)])
@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(days=7)])
def test_requests_for_a_far_future_do_not_set_the_clock(usual, odd, ahead):
    """Also of a model that is asked for days ahead."""
    at = [START + timedelta(minutes=number) for number in range(usual)]
    times = [moment + ahead * (number % 10) / 9 for number, moment in enumerate(at)]
    log = pa.table(
        {
            "version": pa.array([1] * (usual + odd), pa.int64()),
            "at": pa.array(at + at[-1:] * odd, pa.timestamp("us", "UTC")),
            "event_timestamp": pa.array(times + [START.replace(year=2034)] * odd, pa.timestamp("us", "UTC")),
        }
    )
    assert labels.newest(log, 1, 30).num_rows == usual


def test_answers_of_which_the_test_missed_none_are_not_called_degraded_by_their_first_misses():
    """Where the other class is rare, days may have answers of one alone, of which a short test has no miss."""
    spec = RARE.model_copy(update={"metric": Metric(name="accuracy")})

    def answered(rows, per_hour, yes, misses):
        """Return answers of which the first ``yes`` are yes, half of them wrong, and ``misses`` of all others are wrong."""
        said = np.where(np.arange(rows) < yes, "yes", "no")
        wrong = (np.arange(rows) < yes // 2) | np.isin(np.arange(rows), np.linspace(yes, rows - 1, misses).astype(int))
        log = predictions(*((str(n), n, 0.0, n / per_hour) for n in range(rows))).drop_columns(["prediction", "kind"])
        label = np.where(wrong ^ (said == "yes"), "yes", "no")
        for name, values in {"prediction": said, "label": label, labels.STATE: ["labelled"] * rows}.items():
            log = log.append_column(name, pa.array(values))
        return log

    promised = performance.expect(spec, answered(300, 5, 6, 0))
    assert (promised.error, promised.losses[0]) == (0.01, 0.0)
    calm = performance.assess(spec, answered(3000, 5, 0, 9), promised)
    assert (calm.expected, calm.ratio, calm.degraded) == (0.0, float("inf"), False)
    assert performance.assess(spec, answered(3000, 5, 0, 600), promised).degraded
