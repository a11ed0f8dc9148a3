"""Accepted rows that were made before the model's rows had a column are named, with the way to make them anew."""

from datetime import UTC, date, datetime, timedelta

import pytest

from flows.errors import RefusedError
from flows.models.taxi.simulator import simulate_day
from flows.models.taxi.spec import spec as taxi
from flows.spec import RequestField
from flows.steps.training_set import read_rows

START = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("older", [(0, 1), (0,), (1,)])
def test_partitions_that_lack_a_column_of_the_model_are_named(tmp_path, older):
    # No column of the contract: what came later into that has no values in the rows of before.
    speed = RequestField(name="speed", type="float", example=9.0, description="What rows gives")
    spec = taxi.model_copy(update={"request": (*taxi.request, speed)})
    files = []
    for number in range(2):
        day = simulate_day(date(2024, 1, 1) + timedelta(days=number), trips=100)
        day["label"], day["speed"] = 1.0, 9.0
        day["event_timestamp"] = day["label_timestamp"] = day.lpep_pickup_datetime.dt.tz_localize("UTC")
        files.append(str(tmp_path / f"2024-01-0{number + 1}-r1.parquet"))
        day.drop(columns=["speed"] if number in older else []).to_parquet(files[-1], index=False)
    with pytest.raises(RefusedError) as refused:
        read_rows(spec, files, START, START + timedelta(days=2))
    told = f"{len(older)} of 2 partitions (the first 2024-01-0{older[0] + 1}-r1) lack speed"
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
