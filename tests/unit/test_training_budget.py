"""The budget of a training: the same rows whoever asks, all that judge, and never more than it allows."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from flows.errors import RefusedError
from flows.models.taxi.simulator import simulate_day
from flows.models.taxi.spec import spec as taxi
from flows.spec import ModelSpec, RequestField, Training
from flows.steps.training_set import PART, SAMPLE, Window, parted, read_rows, select_rows

START = datetime(2024, 1, 1, tzinfo=UTC)
WINDOW = Window(start=START, split=START + timedelta(days=3), end=START + timedelta(days=4), partition_ids=(1, 2, 3, 4))


def spec(limit: int | None) -> ModelSpec:
    return taxi.model_copy(update={"training": Training(min_rows=100, max_rows=limit)})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Four accepted days of trips."""
    folder, found = tmp_path_factory.mktemp("accepted"), []
    for number in range(4):
        day = simulate_day(date(2024, 1, 1) + timedelta(days=number), trips=400)
        day["label"] = (day.lpep_dropoff_datetime - day.lpep_pickup_datetime).dt.total_seconds() / 60
        day["event_timestamp"] = day.lpep_pickup_datetime.dt.tz_localize("UTC")
        day["label_timestamp"] = day.lpep_dropoff_datetime.dt.tz_localize("UTC")
        path = folder / f"{number}.parquet"
        day.to_parquet(path, index=False)
        found.append(str(path))
    return found


def keys(rows: pa.Table, part: str) -> set[tuple[Any, ...]]:
    chosen = rows.filter(pc.equal(rows[PART], part)).select(list(taxi.key)).to_pylist()
    return {tuple(row.values()) for row in chosen}


def test_a_budget_takes_so_many_that_train_and_all_that_judge(files: list[str]) -> None:
    whole = select_rows(spec(None), files, WINDOW)
    within = select_rows(spec(300), files, WINDOW)
    assert within.schema == whole.schema
    assert len(keys(whole, "train")) > 600
    assert len(keys(within, "train")) == 300
    assert keys(within, "train") < keys(whole, "train")
    assert keys(within, "judge") == keys(whole, "judge")
    assert select_rows(spec(100_000), files, WINDOW).equals(whole)


def test_a_larger_budget_only_adds_rows_and_other_files_and_orders_change_nothing(
    files: list[str], tmp_path: Path
) -> None:
    small, large = (select_rows(spec(limit), files, WINDOW) for limit in (200, 400))
    assert keys(small, "train") < keys(large, "train")
    pq.write_table(pa.concat_tables(pq.read_table(file) for file in reversed(files)), tmp_path / "one.parquet")
    assert select_rows(spec(200), [str(tmp_path / "one.parquet")], WINDOW).equals(small)


def test_the_rows_of_the_split_itself_judge_under_any_budget(files: list[str]) -> None:
    times = sorted(pq.read_table(files[2])["event_timestamp"].to_pylist())
    for split in times[100:120]:
        window = WINDOW.model_copy(update={"split": split})
        within, whole = (select_rows(spec(limit), files, window) for limit in (100, None))
        assert keys(within, "judge") == keys(whole, "judge")
        assert len(keys(within, "train")) == 100


def test_a_replay_that_reads_all_rows_first_chooses_the_same(files: list[str]) -> None:
    rows = read_rows(spec(200), files, WINDOW.start, WINDOW.end)
    assert SAMPLE in rows.column_names
    assert parted(spec(200), rows, WINDOW).equals(select_rows(spec(200), files, WINDOW))


def test_a_sample_is_of_the_whole_time(files: list[str]) -> None:
    rows = select_rows(spec(300), files, WINDOW)
    days = rows.filter(pc.equal(rows[PART], "train")).group_by([]).aggregate([("event_timestamp", "min_max")])
    (ends,) = days["event_timestamp_min_max"].to_pylist()
    assert ends["max"] - ends["min"] > timedelta(days=2.5)


def test_a_budget_below_what_is_needed_is_refused() -> None:
    with pytest.raises(ValidationError, match="nothing could be trained"):
        Training(min_rows=1000, max_rows=999)


@pytest.mark.parametrize("limit", [None, 300])
def test_a_column_that_came_later_has_no_values_before(files: list[str], tmp_path: Path, limit: int | None) -> None:
    request = (*taxi.request, RequestField(name="fuel", type="string", example="gas", description="What it burns"))
    source = taxi.source.model_copy(update={"columns": {**taxi.source.columns, "fuel": "VARCHAR"}})
    wanted = spec(limit).model_copy(update={"request": request, "source": source})
    with pytest.raises(RefusedError, match="no accepted row has a column fuel, which the spec names; land files that"):
        select_rows(wanted, files, WINDOW)
    newest = pq.read_table(files[-1])
    later = tmp_path / "later.parquet"
    pq.write_table(newest.append_column("fuel", pa.array(["gas"] * newest.num_rows)), later)
    rows = select_rows(wanted, [*files[:-1], str(later)], WINDOW)
    assert rows.drop_columns(["fuel"]).equals(select_rows(spec(limit), files, WINDOW))
    newer = pc.greater_equal(rows["event_timestamp"], START + timedelta(days=3))
    assert pc.all(pc.equal(pc.is_valid(rows["fuel"]), newer)).as_py()
