"""Fault 12: twenty processes write into the SQLite databases of ledger and MLflow at once. Nothing is lost."""

from forked_parts import at_once

from flows import database, run_records
from flows.steps import registry

WRITERS, METRICS, TURNS = 20, 30, 25
IMPORTS = """
import sqlalchemy.orm, mlflow.store.tracking.sqlalchemy_store, mlflow.store.model_registry.sqlalchemy_store
from mlflow.entities import Metric
from flows import database, run_records
from flows.settings import load
from flows.steps import registry
sqlalchemy.orm.configure_mappers()
home = load()
"""
# The ledger's rows come first, one right after the other: beside MLflow's seconds of work two of them would never meet.
BODY = f"""
engine = database.connect(home)
for turn in range({TURNS}):
    run_records.start(engine, run_id=f"{{number}}-{{turn}}", model="taxi", flow="train", reason="", executor="test")
    run_records.end(engine, f"{{number}}-{{turn}}", "completed", {{"number": number}})
client = registry.open_client(home)
run = client.create_run("0", run_name=str(number)).info.run_id
for turn in range(3):
    client.log_batch(run, metrics=[Metric(f"m{{one}}", number + one, 0, turn) for one in range({METRICS})])
client.set_terminated(run, "FINISHED")
"""


def test_no_row_and_no_metric_is_lost(home):
    engine = database.connect(home)
    registry.open_client(home)
    statuses, said = at_once(WRITERS, IMPORTS, BODY)
    assert statuses == [0] * WRITERS, said[-3000:]

    runs = run_records.newest(engine, "taxi", 1000)
    assert sorted(run.id for run in runs) == sorted(f"{n}-{turn}" for n in range(WRITERS) for turn in range(TURNS))
    assert {run.state for run in runs} == {"completed"}
    client = registry.open_client(home)
    logged = {run.info.run_name: run for run in client.search_runs(["0"])}
    assert {run.info.status for run in logged.values()} == {"FINISHED"}
    for number in range(WRITERS):
        run = logged[str(number)]
        assert run.data.metrics == {f"m{one}": number + one for one in range(METRICS)}
        assert len(client.get_metric_history(run.info.run_id, "m0")) == 3
