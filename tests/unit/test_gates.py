"""The gates fail closed: also where an error is 0, where slices print alike, and where a figure is no number."""

import math
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from flows.models.taxi.spec import spec as taxi
from flows.spec import Metric
from flows.steps import evaluation as evaluating
from flows.steps import gates, metrics
from flows.steps.evaluation import Evaluation, Losses, Predicted, Slice, beside, judging_losses, measure
from flows.steps.probe import Probe

SPEC = taxi.model_copy(update={"metric": Metric(name="accuracy"), "slices": ("segment",)})
OPENED = Probe(loaded=True, reason="", difference=0.0, rows=10, latency_ms=1.0)
COMPILED = OPENED.model_copy(update={"compiled_difference": 0.0})


def part(error, champion, baseline=0.5, value="x"):
    return Slice(column="segment", value=value, rows=500, error=error, baseline=baseline, champion=champion)


def evaluation(*slices, error=0.1, baseline=0.5):
    return Evaluation(
        error=error, train_error=0.1, baseline_error=baseline, champion_version=1, champion_error=0.1,
        interval=(0.0, 0.2), against_champion=(-0.1, 0.1), judge_rows=1000, train_rows=1000, metrics={},
        train_metrics={}, slices=slices, importance={},
    )  # fmt: skip


def verdict(gate, *slices, **figures):
    (found,) = [one for one in gates.judge_all(SPEC, evaluation(*slices, **figures), OPENED, None) if one.gate == gate]
    return found


@pytest.mark.parametrize(
    ("error", "champion", "number", "passed"),
    [(0.0, 0.0, 1.0, True), (0.01, 0.0, math.inf, False), (0.0, 0.2, 0.0, True), (math.nan, 0.2, math.nan, False)],
)
def test_a_champion_without_an_error_on_a_slice_is_compared_with_too(error, champion, number, passed):
    found = verdict("slices", part(error, champion))
    assert found.number == pytest.approx(number, nan_ok=True)
    assert found.passed is passed


def test_the_worst_slice_decides_wherever_it_stands_and_whatever_it_is_called():
    fine, bad, none = part(0.1, 0.1), part(1.0, 0.1), part(math.nan, 0.1)
    for slices in ((fine, bad), (bad, fine)):  # two of one name
        assert verdict("slices", *slices).number == 10.0
    for slices in ((fine, none), (none, fine)):
        assert not verdict("slices", *slices).passed


def test_without_a_champion_a_slice_is_compared_with_what_one_would_say_anyway():
    assert verdict("slices", part(0.0, None, baseline=0.0)).passed
    assert not verdict("slices", part(0.1, None, baseline=0.0)).passed


def test_a_champion_that_was_fitted_on_rows_that_judge_is_told():
    found = gates.judge_all(SPEC, evaluation(part(0.1, 0.1)).model_copy(update={"champion_knew": 0.6}), OPENED, None)
    (champion,) = (one for one in found if one.gate == "champion")
    assert "60% of the rows are no newer than those that version 1 was fitted on" in champion.reason
    assert "fitted on" not in verdict("champion", part(0.1, 0.1)).reason


@pytest.mark.parametrize(
    ("labels", "classes", "unseen"),
    [
        (["apple", "kiwi", "kiwi", "pear"], ["apple", "pear"], {"kiwi": 2}),
        ([0, 1, 7], [0, 1], {"7": 1}),
        ([True, False], [False], {"True": 1}),
        (["apple"], ["apple", "pear"], {}),
    ],
)
def test_judging_rows_of_classes_that_training_never_saw_are_counted_and_told(labels, classes, unseen):
    def some(labels):
        rows = pa.table({"event_timestamp": pd.date_range("2024-01-01", periods=len(labels), freq="h")})
        scores = np.full((len(labels), len(classes)), 1 / len(classes))
        return Predicted(rows, pd.DataFrame({"x": np.zeros(len(labels))}), np.array(labels), scores)

    spec = SPEC.model_copy(update={"task": "multiclass", "metric": Metric(name="log_loss")})
    train, judge = some(classes), some(labels)
    found = measure(spec, np.array(classes), train, judge, judging_losses(spec, np.array(classes), train, judge))
    assert found.unseen == unseen
    assert gates.brief(found)["unseen"] == unseen
    (reason,) = (one.reason for one in gates.judge_all(spec, found, OPENED, None) if one.gate == "baseline")
    rows = sum(unseen.values())
    assert (f"{rows} judging rows are of classes that no row that trained has" in reason) is bool(unseen)


def test_what_is_never_wrong_without_a_model_needs_none():
    assert not verdict("baseline", part(0.1, 0.1), error=0.0, baseline=0.0).passed
    assert not verdict("baseline", part(0.1, 0.1), error=0.1, baseline=0.0).passed


def test_slices_by_large_numbers_keep_their_names_apart():
    from types import SimpleNamespace

    count = SPEC.gates.slice_min_rows
    values = np.repeat([1234567.0, 1234568.0, 0.1], count)
    losses = np.repeat([1.0, 0.1, 0.1], count)
    judged = SimpleNamespace(inputs=pd.DataFrame({"segment": values}), labels=values)
    found = beside(SPEC, evaluation(), judged, Losses(ours=losses, baseline=losses), None).slices
    assert [one.value for one in found] == ["0.1", "1234567", "1234568"]
    assert len([name for name in gates.figures(evaluation(*found), []) if name.startswith("slice_")]) == 3


def test_a_column_is_sliced_by_its_texts_or_by_quarters_of_its_numbers():
    texts = pd.Series(["a", None, *"abcdefghijklmno"] * 2)
    assert [name for name, _ in metrics.slices(texts, 3)] == ["a"]
    assert [name for name, _ in metrics.slices(texts, 2)] == list("abcdefghijklmno")
    numbers = pd.Series([math.nan] * 20 + [float(number) for number in range(100)])
    found = metrics.slices(numbers, 10)
    assert [name for name, _ in found] == [
        "(-0.001, 24.75]", "(24.75, 49.5]", "(49.5, 74.25]", "(74.25, 99.0]",
    ]  # fmt: skip
    assert [int(rows.sum()) for _, rows in found] == [25] * 4


def test_what_did_not_load_is_the_reason_of_all_that_it_was_not_asked():
    refused = Probe(loaded=False, reason="no such type", difference=None, rows=0, latency_ms=None)
    found = {one.gate: one for one in gates.judge_all(SPEC, evaluation(), refused, {"field": "int"})}
    assert {found[gate].reason for gate in ("same predictions", "compiled", "api", "latency")} == {"it did not load"}
    silent = OPENED.model_copy(update={"latency_ms": None})
    assert gates.judge_all(SPEC, evaluation(), silent, None)[-1].reason == "its golden rows could not be predicted"


def test_accuracy_is_named_for_what_is_shown():
    found = verdict("baseline", part(0.1, 0.1), error=0.03, baseline=0.2)
    assert found.reason == "share of misses 0.03, naive 0.2"


@pytest.mark.parametrize(
    ("error", "other", "found"),
    [(1.0, 2.0, 0.5), (0.0, 0.0, 1.0), (1.0, 0.0, math.inf), (math.nan, 0.0, math.nan), (math.inf, 1.0, math.inf)],
)
def test_a_ratio_of_errors(error, other, found):
    assert metrics.ratio(error, other) == pytest.approx(found, nan_ok=True)


def test_features_without_a_value_are_named():
    from types import SimpleNamespace

    from flows.steps.evaluation import measure

    labels, scores = np.zeros(4), np.zeros(4)
    rows = {"event_timestamp": np.arange(4).astype("datetime64[h]")}
    inputs = pd.DataFrame({"a": [np.nan] * 4, "b": [np.nan, 1.0, np.nan, 2.0], "c": [None] * 4})
    train = SimpleNamespace(rows=rows, inputs=inputs, labels=labels, scores=scores)
    judged = SimpleNamespace(
        rows={"event_timestamp": SimpleNamespace(to_numpy=lambda: rows["event_timestamp"])}, inputs=inputs,
        labels=labels, scores=scores,
    )  # fmt: skip
    losses = Losses(ours=np.ones(4), baseline=np.ones(4))
    assert measure(taxi, None, train, judged, losses).empty == ("a", "c")


def test_infinite_numbers_belong_to_the_outer_quarters():
    numbers = pd.Series([math.nan, -math.inf, *map(float, range(100)), math.inf, math.inf])
    found = metrics.slices(numbers, 10)
    assert len(found) == 4
    assert sum(chosen.sum() for _, chosen in found) == len(numbers) - 1
    assert (found[0][1][1], found[3][1][-2:].tolist()) == (True, [True, True])


def test_many_texts_are_not_each_compared_with_all_rows():
    class Text(str):
        compared = 0
        __hash__ = str.__hash__

        def __eq__(self, other):
            Text.compared += 1
            return str.__eq__(self, other)

    names = [Text(number % 200) for number in range(2000)]
    assert len(metrics.slices(pd.Series(names, dtype=object), 10)) == 200
    assert Text.compared < 10 * len(names)


@pytest.mark.parametrize(("ours", "passed"), [(0.1, True), (math.inf, False), (math.nan, False)])
def test_a_champion_that_answers_with_no_number_can_be_replaced_by_one_that_does(ours, passed):
    nothing = (math.nan, math.nan)
    found = evaluation(error=ours).model_copy(update={"champion_error": math.inf, "against_champion": nothing})
    (champion,) = [one for one in gates.judge_all(SPEC, found, OPENED, None) if one.gate == "champion"]
    assert champion.passed is passed


def judged(gate, found=None, probe=COMPILED, published=None, **changed):
    spec = SPEC.model_copy(update={"gates": SPEC.gates.model_copy(update=changed)})
    all_of = gates.judge_all(spec, found or evaluation(part(0.1, 0.1)), probe, published)
    (one,) = [one for one in all_of if one.gate == gate]
    return one


def test_a_challenger_needs_every_gate_and_those_that_it_failed_are_named_with_their_numbers():
    fields = {field.name: field.type for field in SPEC.request}
    fine = gates.judge_all(SPEC, evaluation(part(0.1, 0.1)), COMPILED, fields)
    assert (gates.failed(fine), gates.refusals(fine)) == ([], [])
    bad = gates.judge_all(SPEC, evaluation(part(0.1, 0.1), error=0.49, baseline=0.5), COMPILED, fields)
    assert gates.failed(bad) == ["baseline"] == gates.evidence(evaluation(), bad, 1)["failed"]
    (line,) = gates.refusals(bad)
    assert line.startswith("baseline 0.98, at most 0.8: ")
    assert "| **refused** | baseline |" in gates.markdown(bad)
    assert "| passed | latency |" in gates.markdown(bad)


@pytest.mark.parametrize(
    ("low", "champion", "tolerance", "passed"),
    [
        (0.01, 0.1, 0.1, True),
        (0.011, 0.1, 0.1, False),
        (0.011, 0.2, 0.1, True),
        (0.0, 0.1, 0.0, True),
        (1e-6, 0.1, 0.0, False),
    ],
)
def test_worse_than_the_champion_is_what_lies_beyond_the_tolerated_share_of_its_error_as_a_whole(
    low, champion, tolerance, passed
):
    found = evaluation(part(0.1, 0.1), error=0.15).model_copy(
        update={"champion_error": champion, "against_champion": (low, low + 0.1)}
    )
    one = judged("champion", found, champion_tolerance=tolerance)
    assert one.passed is passed
    assert f"difference {0.15 - champion:+.3g}" in one.reason


def test_without_a_champion_there_is_nothing_to_be_worse_than():
    alone = {"champion_version": None, "champion_error": None, "against_champion": None}
    assert judged("champion", evaluation(part(0.1, None)).model_copy(update=alone)).passed


@pytest.mark.parametrize(("error", "passed"), [(0.11, True), (0.1101, False), (0.19, False)])
def test_a_slice_may_be_worse_by_the_tolerated_share_and_no_more(error, passed):
    assert judged("slices", evaluation(part(error, 0.1)), slice_tolerance=0.1).passed is passed


def test_where_a_spec_names_slices_and_none_has_rows_enough_nothing_is_promoted_unseen():
    assert not judged("slices", evaluation()).passed
    whole = SPEC.model_copy(update={"slices": ()})
    (found,) = [one for one in gates.judge_all(whole, evaluation(), COMPILED, None) if one.gate == "slices"]
    assert found.passed


@pytest.mark.parametrize(
    ("gate", "probe", "passed"),
    [
        ("loads", {}, True),
        ("loads", {"loaded": False, "reason": "no such type"}, False),
        ("same predictions", {"difference": 1e-9}, True),
        ("same predictions", {"difference": 1e-6}, False),
        ("same predictions", {"difference": None}, False),
        ("compiled", {"compiled_difference": 1e-9}, True),
        ("compiled", {"compiled_difference": 0.01}, False),
        ("compiled", {"compiled_difference": None}, False),
        ("compiled", {"not_compiled": "a forest of its own", "compiled_difference": None}, True),
        ("compiled", {"not_compiled": "a forest of its own", "loaded": False}, False),
        ("latency", {"latency_ms": 20.0}, True),
        ("latency", {"latency_ms": 20.1}, False),
        ("latency", {"latency_ms": None}, False),
    ],
)
def test_what_the_fresh_process_saw_is_judged_by_its_figures(gate, probe, passed):
    assert judged(gate, probe=COMPILED.model_copy(update=probe), latency_ms=20.0).passed is passed


def test_a_request_field_that_is_new_gone_or_of_another_type_is_refused_by_name():
    fields = {field.name: field.type for field in SPEC.request}
    name = next(iter(fields))
    changed = ({key: fields[key] for key in fields if key != name}, {**fields, name: "flag"}, {**fields, "more": "int"})
    for published, told in zip(changed, (name, name, "more"), strict=True):
        found = judged("api", published=published)
        assert (found.passed, found.number, found.reason) == (False, 1.0, f"changed fields: {told}")
    assert judged("api", published=fields).passed
    assert judged("api", published=None).passed  # nobody is promised anything yet


def test_the_figures_of_a_run_have_the_champions_error_and_no_number_that_a_database_refuses():
    found = evaluation(part(math.inf, 0.1)).model_copy(update={"metrics": {"rmse": 2.0, "r2": math.nan}})
    figures = gates.figures(found, [gates.judge("latency", math.nan, 1.0, "")])
    assert figures == {"test_rmse": 2.0, "baseline_error": 0.5, "champion_error": 0.1}
    assert "champion_error" not in gates.figures(found.model_copy(update={"champion_error": None}), [])


def some_rows(labels, inputs=None, scores=None):
    moments = pa.array([datetime(2024, 1, 1, number, tzinfo=UTC) for number in range(len(labels))])
    inputs = pd.DataFrame({"segment": ["a"] * len(labels)} if inputs is None else inputs)
    return Predicted(
        pa.table({"event_timestamp": moments}), inputs, np.array(labels), np.array(scores or [0.0] * len(labels))
    )


def test_the_champion_is_scored_on_the_same_rows_and_slices_and_nobody_is_where_there_is_none():
    spec = SPEC.model_copy(
        update={"metric": Metric(name="mae"), "gates": SPEC.gates.model_copy(update={"slice_min_rows": 2})}
    )
    judge = some_rows([0.0] * 5, {"segment": ["a", "a", "a", "b", "b"]})
    losses = Losses(ours=np.array([1.0, 1, 1, 3, 3]), baseline=np.full(5, 4.0), theirs=np.array([2.0, 2, 2, 5, 7]))
    alone = evaluation().model_copy(update={"champion_version": None, "champion_error": None, "against_champion": None})
    found = beside(spec, alone, judge, losses, 7)
    assert (found.champion_version, found.champion_error) == (7, 3.6)
    assert found.against_champion[0] <= -1.8 <= found.against_champion[1]  # ours minus theirs
    shown = [(one.value, one.rows, one.error, one.baseline, one.champion) for one in found.slices]
    assert shown == [("a", 3, 1.0, 4.0, 2.0), ("b", 2, 3.0, 4.0, 6.0)]
    found = beside(spec, alone, judge, Losses(ours=losses.ours, baseline=losses.baseline), None)
    assert (found.champion_version, found.champion_error, found.against_champion) == (None, None, None)
    assert [one.champion for one in found.slices] == [None, None]


def test_the_share_that_the_champion_knew_is_of_rows_up_to_the_last_that_it_was_fitted_on():
    rows = some_rows([0.0] * 4).rows
    for moment, share in (
        (None, 0.0),
        (rows["event_timestamp"][2].as_py(), 0.75),
        (datetime(2020, 1, 1, tzinfo=UTC), 0.0),
    ):
        assert evaluating._share_until(rows, moment) == share
    assert evaluating._share_until(rows.slice(0, 0), datetime(2024, 1, 1, tzinfo=UTC)) == 0.0


@pytest.mark.parametrize(
    ("task", "metric", "classes", "labels", "losses"),
    [
        ("regression", "mae", None, [0.0, 1.0, 8.0], [1.0, 9.0]),  # from the median, 1
        ("regression", "rmse", None, [0.0, 1.0, 8.0], [9.0, 49.0]),  # from the mean, 3
        ("multiclass", "brier", [0.0, 1.0, 10.0], [0.0, 0.0, 1.0, 1.0], [0.25, 0.75]),  # from the shares, a half each
    ],
)
def test_the_baseline_is_what_one_would_say_of_the_training_labels_without_a_model(
    task, metric, classes, labels, losses
):
    spec = SPEC.model_copy(update={"task": task, "metric": Metric(name=metric)})
    scores = [0.0, 0.0] if classes is None else [[1.0, 0.0, 0.0]] * 2
    judge = some_rows([0.0, 10.0], scores=scores)
    classes = None if classes is None else np.array(classes)
    assert judging_losses(spec, classes, some_rows(labels), judge).baseline.tolist() == pytest.approx(losses)


def test_a_column_is_important_by_how_much_worse_the_error_is_without_what_it_says():
    from types import SimpleNamespace

    spec = SPEC.model_copy(update={"task": "regression", "metric": Metric(name="mae")})
    inputs = pd.DataFrame(
        {"unused": np.arange(200.0), "small": np.arange(200.0) % 7, "large": 9.0 * (np.arange(200) % 5)}
    )
    labels = (inputs["small"] + inputs["large"]).to_numpy()
    model = SimpleNamespace(predict=lambda frame: (frame["small"] + frame["large"]).to_numpy())
    found = evaluating._importance(spec, model, inputs, labels, None)
    assert list(found) == ["large", "small", "unused"]
    assert found["unused"] == 0.0
    # Two values of 0, 9, .. 36 that are drawn apart differ by 14.4 on average; of 0 to 6 by 2.29.
    assert (found["large"], found["small"]) == (pytest.approx(14.4, rel=0.15), pytest.approx(2.29, rel=0.15))
