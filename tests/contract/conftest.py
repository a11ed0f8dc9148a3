"""What several contract tests of the offline store begin with."""

from pathlib import Path

import pytest
from feast import FeatureStore
from offline_cases import ROWS, ZONE, open_store, past_view, write_past


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Return our store with the view ``past`` on ``past.parquet``."""
    write_past(tmp_path / "past.parquet", ROWS)
    opened = open_store(tmp_path)
    opened.apply([ZONE, past_view("past", "past.parquet")])
    return opened
