"""Which rows train and which judge: nothing that was not known when the judging part began, and all that was."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.errors import RefusedError
from flows.ledger import LABELLED_UNTIL, ROWS, Partition
from flows.models.taxi.spec import spec as taxi
from flows.spec import Label, Training
from flows.steps.training_set import (
    DRAWN,
    PART,
    Window,
    _past,
    as_trained,
    choose_window,
    made_otherwise,
    matrix,
    parted,
    read_part,
    read_rows,
    write_training_set,
)  # fmt: skip

DAY, MOMENT = timedelta(days=1), timedelta(microseconds=1)
MIDNIGHT = datetime(2024, 1, 10, 5, tzinfo=UTC)  # in New York
SPEC = taxi.model_copy(update={"training": Training(window=5 * DAY, judge=2 * DAY, min_rows=10)})
WINDOW = Window(start=MIDNIGHT, split=MIDNIGHT + 2 * DAY, end=MIDNIGHT + 3 * DAY, partition_ids=())


def partition(number, first=timedelta(0), last=DAY - MOMENT, labelled=None, **values):
    """Return the accepted partition of a day after MIDNIGHT; times are counted from its beginning."""
    start = MIDNIGHT + number * DAY
    statistics = {} if labelled is None else {LABELLED_UNTIL: (start + labelled).isoformat()}
    return Partition(**{
        "id": number + 100, "model": "taxi", "key": f"{start:%Y-%m-%d}", "revision": 1, "digest": "d", "source": "s",
        "status": "accepted", "uri": "u", "accepted_uri": "a", "rejected_uri": None, "docs_uri": None, "rows": 1,
        "accepted_rows": 1, "rejected_rows": 0, "reasons": [], "statistics": statistics, "validation": {},
        "first_event": start + first, "last_event": start + last, "landed_at": start, "decided_at": start,
        "featurized_at": start, **values,
    })  # fmt: skip


def accepted(days, **values):
    return [partition(number, labelled=DAY - MOMENT, **values) for number in range(days)]


def test_the_newest_days_judge_and_those_before_train_as_far_as_the_window_goes():
    found = choose_window(SPEC, accepted(10)[::-1])
    assert (found.split, found.end) == (MIDNIGHT + 8 * DAY, MIDNIGHT + 10 * DAY)
    assert found.start == MIDNIGHT + 3 * DAY
    assert sorted(found.partition_ids) == [number + 100 for number in range(3, 10)]
    assert choose_window(SPEC, accepted(4)).start == MIDNIGHT  # there is no more
    assert choose_window(SPEC, accepted(10), judge=DAY).split == MIDNIGHT + 9 * DAY


def test_the_split_is_a_tick_though_the_newest_day_is_not_over():
    days = [*accepted(9), partition(9, last=timedelta(hours=7), labelled=timedelta(hours=6))]
    found = choose_window(SPEC, days)
    assert (found.split, found.end) == (MIDNIGHT + 8 * DAY, MIDNIGHT + 9 * DAY + timedelta(hours=6) + MOMENT)


def test_days_whose_labels_are_still_to_come_judge_nothing():
    half = partition(10, labelled=timedelta(hours=3))
    assert choose_window(SPEC, [*accepted(10), half]).end == MIDNIGHT + 10 * DAY + timedelta(hours=3) + MOMENT
    assert choose_window(SPEC, [*accepted(10), partition(10)]).end == MIDNIGHT + 11 * DAY  # of before that was recorded
    untimed = partition(11, first_event=None, last_event=None)
    assert choose_window(SPEC, [*accepted(10), untimed]).end == MIDNIGHT + 10 * DAY


def test_a_start_and_an_end_may_be_named():
    found = choose_window(SPEC, accepted(10), since=MIDNIGHT + DAY, until=MIDNIGHT + 6 * DAY)
    assert (found.start, found.split, found.end) == (MIDNIGHT + DAY, MIDNIGHT + 4 * DAY, MIDNIGHT + 6 * DAY)
    assert found.partition_ids == tuple(number + 100 for number in range(1, 6))
    assert choose_window(SPEC, accepted(10), since=MIDNIGHT - 9 * DAY).start == MIDNIGHT
    assert choose_window(SPEC, accepted(10), until=MIDNIGHT + 90 * DAY).end == MIDNIGHT + 10 * DAY


def test_data_no_longer_than_what_judges_is_refused_and_so_are_days_without_features():
    with pytest.raises(RefusedError, match="no accepted partition"):
        choose_window(SPEC, [])
    with pytest.raises(RefusedError, match="spans 2 days, 0:00:00, not more than the 2 days"):
        choose_window(SPEC, accepted(2))
    assert choose_window(SPEC, accepted(3)).split == MIDNIGHT + DAY
    lacking = [*accepted(2, featurized_at=None), *accepted(10)[2:]]
    assert choose_window(SPEC, lacking).start == MIDNIGHT + 3 * DAY  # the window does not reach them
    with pytest.raises(RefusedError, match="lack 1 accepted partitions"):
        choose_window(SPEC, [*accepted(9), partition(9, labelled=DAY - MOMENT, featurized_at=None)])


def rows(*events, known=timedelta(0), labels=None):
    """Return rows at such times after WINDOW's start, whose labels are known so much later."""
    times = [MIDNIGHT + event for event in events]
    return pa.table(
        {
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
            "label_timestamp": pa.array([time + known for time in times], pa.timestamp("us", "UTC")),
            "label": pa.array(labels or [1.0] * len(times)),
        }
    )


def parts(found):
    return [
        (time - MIDNIGHT, part)
        for time, part in zip(found["event_timestamp"].to_pylist(), found[PART].to_pylist(), strict=True)
    ]


def test_a_row_trains_if_its_label_was_known_when_the_judging_part_began():
    early = [number * timedelta(hours=1) for number in range(10)]
    edges = [
        2 * DAY - timedelta(hours=6),
        2 * DAY - timedelta(hours=6) + MOMENT,
        2 * DAY - MOMENT,
        2 * DAY,
        3 * DAY - MOMENT,
        3 * DAY,
    ]
    table = rows(-MOMENT, *early, *edges, known=timedelta(hours=6))
    assert parts(parted(SPEC, table, WINDOW)) == [
        *((time, "train") for time in early),
        (2 * DAY - timedelta(hours=6), "train"),  # known at the split itself
        (2 * DAY, "judge"), (3 * DAY - MOMENT, "judge"),  # of [split, end), however late their labels came
    ]  # fmt: skip


def test_too_few_rows_to_train_on_or_none_to_judge_are_refused():
    early = [number * timedelta(hours=1) for number in range(10)]
    assert parted(SPEC, rows(*early, 2 * DAY), WINDOW).num_rows == 11
    with pytest.raises(RefusedError, match="9 rows to train on and 1 to judge"):
        parted(SPEC, rows(*early[1:], 2 * DAY), WINDOW)
    with pytest.raises(RefusedError, match="10 rows to train on and 0 to judge"):
        parted(SPEC, rows(*early), WINDOW)


@pytest.mark.parametrize(
    ("low", "high", "kept"),
    [(1.0, 60.0, [1.0, 60.0]), (None, None, [0.5, 1.0, 60.0, 61.0]), (1.0, None, [1.0, 60.0, 61.0])],
)
def test_rows_of_a_span_are_read_whose_label_the_model_answers_for(tmp_path, low, high, kept):
    moments = [-MOMENT, timedelta(0), timedelta(0), DAY - MOMENT, DAY - MOMENT, DAY - MOMENT, DAY]
    table = rows(*moments, labels=[5.0, 1.0, 0.5, 60.0, 61.0, None, 5.0])
    for name in taxi.source.columns:
        if name in {field.name for field in taxi.request}:
            table = table.append_column(name, pa.array(np.arange(len(moments))))
    pq.write_table(table, tmp_path / "day.parquet")
    spec = SPEC.model_copy(update={"label": Label(name="minutes", low=low, high=high)})
    found = read_rows(spec, [str(tmp_path / "day.parquet")], MIDNIGHT, MIDNIGHT + DAY)
    assert sorted(found["label"].to_pylist()) == kept
    assert found["event_timestamp"].to_pylist() == sorted(found["event_timestamp"].to_pylist())


def test_rows_of_classes_are_read_with_whatever_label_they_have_but_not_without(tmp_path):
    table = rows(*[timedelta(hours=number) for number in range(3)], labels=["b", None, "a"])
    for field in taxi.request:
        table = table.append_column(field.name, pa.array([1, 2, 3]))
    pq.write_table(table, tmp_path / "day.parquet")
    spec = SPEC.model_copy(update={"task": "multiclass", "label": Label(name="kind")})
    assert read_rows(spec, [str(tmp_path / "day.parquet")], MIDNIGHT, MIDNIGHT + DAY)["label"].to_pylist() == ["b", "a"]


@pytest.mark.parametrize("order", ["jtt", "ttj", "tjt", "jjj", "ttt"])
def test_a_part_is_read_whether_or_not_its_rows_lie_side_by_side(tmp_path, order):
    names = [{"t": "train", "j": "judge"}[one] for one in order]
    table = pa.table({PART: names, "x": list(range(3))})
    data = write_training_set(table, ["x"], WINDOW, tmp_path)
    assert (data.train_rows, data.judge_rows) == (names.count("train"), names.count("judge"))
    for part in ("train", "judge"):
        assert read_part(data, part)["x"].to_pylist() == [place for place, name in enumerate(names) if name == part]


def test_a_models_inputs_are_numbers_in_the_order_of_its_features():
    table = pa.table({"b": pa.array([1, None]), "a": pa.array([True, False]), "c": ["x", None], "unused": [1, 2]})
    frame = matrix(table, ("a", "b", "c"))
    assert list(frame) == ["a", "b", "c"]
    assert (frame["a"].tolist(), frame["a"].dtype, frame["b"].dtype) == ([1.0, 0.0], np.float64, np.float64)
    assert np.isnan(frame["b"][1])
    assert frame["c"].tolist() == ["x", None]


def test_partitions_of_other_rows_than_the_newest_ones_are_named():
    def one(number, by, decided=0):
        return partition(number, validation={ROWS: by} if by else {}, decided_at=MIDNIGHT + decided * DAY)

    old, new, unsaid = one(0, "old", 5), one(1, "new", 9), one(2, None, 12)
    assert made_otherwise([old, new, unsaid]) == made_otherwise([unsaid, new, old]) == [old.key]
    assert made_otherwise([old, unsaid]) == made_otherwise([unsaid]) == []


def test_what_judges_is_joined_as_served_and_what_trains_with_a_past_of_any_age():
    weekly = SPEC.model_copy(update={"partition_by": "week", "arrival": timedelta(0)})
    at = datetime(2024, 1, 6, 12, tzinfo=UTC)
    times = pa.array([at] * 400, pa.timestamp("us", "UTC"))
    rows = pa.table({"event_timestamp": times, PART: ["train"] * 200 + ["judge"] * 200})
    past = _past(weekly, rows).to_pylist()
    (monday,) = set(past[200:])
    assert monday == datetime(2024, 1, 1, tzinfo=ZoneInfo(weekly.source.time_zone))
    assert len(set(past[:200])) > 190
    assert monday <= min(past[:200]) < max(past[:200]) <= at
    assert _past(SPEC, rows).to_pylist() == [at] * 400


def test_rows_of_a_replay_have_the_features_of_the_part_that_they_are_in():
    rows = pa.table({PART: ["train", "judge"], "x": [1.0, 2.0], f"{DRAWN}x": [3.0, 4.0], "y": [5.0, 6.0]})
    found = as_trained(rows, ("x", "y"))
    assert found.to_pydict() == {PART: ["train", "judge"], "x": [3.0, 2.0], "y": [5.0, 6.0]}
