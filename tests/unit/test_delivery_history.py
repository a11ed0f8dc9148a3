"""What was delivered, and trained, is found however many other runs there were since."""

from deployments import delivery
from flows import database, ledger, outbox
from flows.models.taxi.spec import spec


def test_a_delivery_and_a_training_outlast_thousands_of_other_runs(home):
    engine = database.connect(home)
    for flow in ("deliver", "train"):
        ledger.start_run(engine, run_id=flow, model="taxi", flow=flow, reason="", executor="")
        ledger.end_run(engine, flow, "completed", {"version": "v1"})
    others = [
        {
            "id": f"ingest {number}", "model": "taxi", "flow": "ingest", "reason": "", "state": "completed",
            "executor": "", "summary": {}, "started_at": database.now(), "ended_at": database.now(),
        }
        for number in range(3000)
    ]  # fmt: skip
    with database.write(engine) as connection:
        connection.execute(database.runs.insert(), others)
    found = delivery.live(engine, "taxi")
    assert found is not None
    assert found.summary["version"] == "v1"
    assert outbox.weigh(engine, spec, []).since_training is not None
    assert [run.flow for run in ledger.last_runs(engine, "taxi", 2)] == ["ingest", "ingest"]
