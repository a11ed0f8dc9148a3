"""Which periods a replay has if nobody says so: long ones if there are enough, from the first one with enough to learn."""

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from flows.errors import RefusedError, UsageError
from flows.ledger import Partition
from flows.models.taxi.spec import spec as taxi
from flows.spec import Training
from flows.steps.backtest.timeline import History, plan_steps
from flows.steps.training_set import PART, Window, parted

FIRST = datetime(2024, 1, 1, tzinfo=UTC)
NONE = {
    "model": "some", "revision": 1, "digest": "", "source": "", "status": "accepted", "uri": "", "accepted_uri": None,
    "rejected_uri": None, "docs_uri": None, "rows": 1, "accepted_rows": 1, "rejected_rows": 0, "reasons": [],
    "statistics": {}, "validation": {}, "landed_at": FIRST, "decided_at": FIRST, "featurized_at": FIRST,
}  # fmt: skip
SPEC = taxi.model_copy(
    update={
        "task": "multiclass",
        "source": taxi.source.model_copy(update={"time_zone": "UTC"}),
        "training": Training(judge=timedelta(days=2), min_rows=40),
    }
)


def days(count):
    return [
        Partition(id=number, key=f"{number}", first_event=FIRST + timedelta(days=number),
                  last_event=FIRST + timedelta(days=number, hours=23), **NONE)
        for number in range(count)
    ]  # fmt: skip


def history(count, classes, start=None):
    """Return a replay by day over hourly rows; ``classes`` maps the number of a row to its label."""
    rows = range(24 * count)
    times = pa.array([FIRST + timedelta(hours=number) for number in rows], pa.timestamp("us", "UTC"))
    table = pa.table(
        {"event_timestamp": times, "label_timestamp": times, "label": [classes(number) for number in rows]}
    )
    _, steps = plan_steps(SPEC, days(count), "day", start, None)
    return History(SPEC, steps, days(count), table, (), "")


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
