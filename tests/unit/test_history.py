"""The history of a table that a demo replays: what does not keep the contract is told by its column."""

import pytest
from ingest_parts import clean_day, write

from flows.errors import UsageError
from flows.models.taxi.spec import spec
from flows.settings import Settings
from flows.steps import history


def test_a_table_of_other_columns_is_told_by_the_one_that_is_not_as_it_should_be(tmp_path):
    table = write(clean_day().astype({"trip_distance": str}), tmp_path / "table.parquet")
    with pytest.raises(
        UsageError, match="column 'trip_distance' has type VARCHAR, the contract says DOUBLE; correct it"
    ):
        history.part(spec, Settings(home=tmp_path / "home"), str(table), tmp_path / "parts")
