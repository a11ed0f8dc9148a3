"""Which periods a replay has if nobody says so: long ones if there are enough, from the first one with enough to learn."""

from datetime import date, timedelta

import pyarrow as pa
import pytest
from timeline_parts import FIRST, SPEC, days, history

from flows.errors import RefusedError, UsageError
from flows.steps.backtest.timeline import plan_steps
from flows.steps.training_set import PART, Window, parted


@pytest.mark.parametrize(("count", "kind"), [(400, "month"), (90, "week"), (20, "day")])
def test_periods_are_as_long_as_there_are_several_of_them(count, kind):
    found, steps = plan_steps(SPEC, days(count), None, None, None)
    assert found == kind
    assert len(steps) >= 6


def test_periods_that_a_person_named_are_taken_or_refused():
    assert plan_steps(SPEC, days(60), "day", date(2024, 2, 1), None)[0] == "day"
    with pytest.raises(UsageError, match=r"1 whole months.*choose other --start, --end or --every"):
        plan_steps(SPEC, days(60), "month", date(2024, 2, 15), None)


def test_a_replay_begins_where_there_is_enough_to_learn_from():
    replay = history(12, lambda number: "ab"[number % 2], date(2024, 1, 3))
    with pytest.raises(RefusedError, match="begin with --start 2024-01-05, where there is enough"):
        replay.from_first_model(None, settled=True)
    found = replay.from_first_model(None, settled=False)
    assert found.steps[0].key == "2024-01-05"
    assert found.steps[-1] == replay.steps[-1]


def test_one_class_alone_is_nothing_to_learn_from():
    replay = history(12, lambda number: "ab"[number > 24 * 6], date(2024, 1, 3))
    window = Window(start=FIRST, split=FIRST + timedelta(days=4), end=FIRST + timedelta(days=6), partition_ids=())
    with pytest.raises(RefusedError, match=r"all 96 rows to train on are of class 'a'.*order of time"):
        parted(SPEC, replay.rows, window)
    found = replay.from_first_model(None, settled=False)
    labels = parted(SPEC, found.known_by(0), found.window(0))
    assert len(set(labels.filter(pa.compute.equal(labels[PART], "train"))["label"].to_pylist())) == 2
    with pytest.raises(RefusedError, match="no two periods of the replay"):
        history(12, lambda _: "a", date(2024, 1, 3)).from_first_model(None, settled=False)
