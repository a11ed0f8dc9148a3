"""A past that is made up, for the tests of replays: one row an hour, one partition a day."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa

from flows.ledger import Partition
from flows.models.taxi.spec import spec as taxi
from flows.spec import Training
from flows.steps.backtest.timeline import History, plan_steps

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
