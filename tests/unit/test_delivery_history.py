"""What was delivered, and trained, is found however many other runs there were since."""

from deployments import delivery
from flows import database, outbox, run_records
from flows.models.taxi.spec import spec


def test_a_delivery_and_a_training_outlast_thousands_of_other_runs(home):
    engine = database.connect(home)
    for flow in ("deliver", "train"):
        run_records.start(engine, run_id=flow, model="taxi", flow=flow, reason="", executor="")
        run_records.end(engine, flow, "completed", {"version": "v1"})
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
    assert [run.flow for run in run_records.newest(engine, "taxi", 2)] == ["ingest", "ingest"]
