"""Fault 11: six processes open a fresh home at once. The databases of ledger, MLflow and Feast are made once; all succeed."""

from forked_parts import at_once

from flows import database
from flows.steps import feature_store, registry

IMPORTS = """
import feast, mlflow.store.tracking.sqlalchemy_store, mlflow.store.model_registry.sqlalchemy_store
from flows import database
from flows.settings import load
from flows.steps import feature_store, registry
"""
BODY = """
home = load()
engine = database.connect(home)
client = registry.open_client(home)
client.create_experiment(f"of process {number}")
feature_store.open_store(home).list_feature_views()
"""


def test_all_succeed_and_nothing_is_made_twice(home):
    statuses, said = at_once(6, IMPORTS, BODY)
    assert statuses == [0] * 6, said[-3000:]
    with database.connect(home).connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM alembic_version").scalar() == 1
    found = {one.name for one in registry.open_client(home).search_experiments()}
    assert found >= {f"of process {number}" for number in range(6)}
    assert feature_store.open_store(home).list_feature_views() == []
