"""A registry that fails is told as such, not as a version that is missing."""

import sqlite3
from contextlib import closing

import pytest

from flows.errors import RefusedError, UnavailableError
from flows.settings import Settings
from flows.steps import registry


def test_an_mlflow_that_fails_is_not_a_version_that_is_missing(home: Settings) -> None:
    registry.open_client(home)
    with pytest.raises(RefusedError, match="taxi has no version 3"):
        registry.get_version(home, "taxi", 3)
    with closing(sqlite3.connect(home.home / "mlflow.db")) as database:
        database.execute("ALTER TABLE model_versions RENAME TO away")
    with pytest.raises(UnavailableError, match="MLflow could not say whether there is a taxi version 3"):
        registry.get_version(home, "taxi", 3)
