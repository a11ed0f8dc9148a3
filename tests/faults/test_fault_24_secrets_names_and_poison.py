"""Fault 24: secrets in parameters and logs, injection by names, a poisoned drift window.

Outcome: redacted; refused, and never run; one cause and no storm of trainings.
"""

import json
import time
from datetime import date

import pytest
from training_parts import copy_home, numbers, opened, python, state, trained

from deployments import declared
from flows import causes, database, events, outbox, run_records
from flows.errors import EvergreenError, UsageError
from flows.lookup import load_model
from flows.secret import shown

SECRET = "hunter2"


@pytest.fixture(scope="module")
def home(tmp_path_factory, simulated_days, prefect_api):
    source = trained(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)
    with opened(tmp_path_factory.mktemp("fault24") / "home", prefect_api) as settings:
        copy_home(source, settings)
        yield settings


@pytest.mark.parametrize(
    ("source", "harmless"),
    [
        (f"https://ada:{SECRET}@127.0.0.1:1/trips.parquet?sig={SECRET}", "https://127.0.0.1:1/trips.parquet"),
        (f"ftp://ada:{SECRET}@127.0.0.1:1/trips.parquet", "ftp://127.0.0.1:1/trips.parquet"),
        (f"s3://{SECRET}@bucket/a?@b.parquet", "s3://bucket/a?@b.parquet"),
        ("/data/a?b@c.parquet", "/data/a?b@c.parquet"),
    ],
)
def test_what_may_be_secret_in_a_source_is_not_shown(source, harmless):
    assert shown(source) == harmless


def test_a_secret_in_a_source_is_kept_nowhere(home, prefect_api):
    """It is in no parameter, log or state of the server, in no row of the ledger, and in no file of the home."""
    import httpx

    url = f"https://ada:{SECRET}@127.0.0.1:1/trips.parquet?sig={SECRET}"
    code = f"""
import flows.ingest, flows.runs
flows.ingest.land = flows.ingest.land.with_options(retries=0)
try:
    flows.ingest.ingest({url!r})
finally:
    flows.runs.settle()
"""
    done = python(code, environment={"EVERGREEN_HTTP_TIMEOUT_SECONDS": "2"})
    assert done.returncode == 1
    assert "127.0.0.1:1/trips.parquet" in done.stderr
    run = next(one for one in run_records.newest(database.connect(home), "taxi") if one.flow == "ingest")
    kept = httpx.get(f"{prefect_api}/flow_runs/{run.id}", timeout=10).json()
    assert kept["parameters"]["source"] == "https://127.0.0.1:1/trips.parquet"
    logs = {"logs": {"flow_run_id": {"any_": [run.id]}}}
    found = httpx.post(f"{prefect_api}/logs/filter", json=logs, timeout=10).json()
    assert SECRET not in json.dumps([kept, found, run.summary])
    files = [file for file in home.home.rglob("*") if file.is_file()]
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]


@pytest.mark.parametrize(
    "name",
    ["../taxi", "taxi/../../etc", "{{ event.id }}", "taxi; rm -rf", "os.system", "Taxi", "taxi\n", "", "t" * 41, 'a"b'],
)
def test_a_name_that_could_be_a_path_a_template_or_code_is_refused_before_anything_is_written(home, name):
    from flows.retrain import retrain

    before = state(home), _files(home.home)
    with pytest.raises(UsageError, match="is not allowed"):
        load_model(name, home)
    with pytest.raises(EvergreenError, match="is not allowed"):
        retrain(model=name, trigger="on demand")
    assert (state(home), _files(home.home)) == before


def _files(folder):
    """Return what lies in a folder; SQLite's own side files come and go with who has a database open."""
    return sorted(path for path in folder.iterdir() if not path.name.endswith(("-wal", "-shm", "-journal")))


def test_a_template_in_an_event_is_text_for_the_trigger_that_it_starts(home):
    """The trigger's own template is rendered once: what an event brings is never rendered itself."""
    from prefect import get_client
    from prefect.automations import AutomationCore, EventTrigger
    from prefect.events.actions import RunDeployment
    from prefect.events.schemas.automations import Posture

    from flows.retrain import retrain

    trigger = next(t for one in declared.read() for t in one.triggers if t.name == "taxi: performance")
    reason, name = "{{ 7 * 191 }}{% raw %}", f"test: {home.home.parent.name}"
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(
            flow_id=client.create_flow(retrain), name=name, entrypoint="flows.retrain.retrain"
        )
        watching = EventTrigger(
            expect={"evergreen.test.fault24"}, match={"prefect.resource.id": "evergreen.model.taxi"},
            posture=Posture.Reactive, threshold=1,
        )  # fmt: skip
        start = RunDeployment(deployment_id=deployment, parameters=trigger.parameters)
        automation = client.create_automation(AutomationCore(name=name, trigger=watching, actions=[start]))
        try:
            payload = {"cause": "{{ 7 * 191 }}", "reason": reason}
            asked, runs = {"deployments": {"id": {"any_": [str(deployment)]}}}, []
            deadline = time.monotonic() + 30
            while not runs and time.monotonic() < deadline:
                assert outbox.send("evergreen.test.fault24", "taxi", payload)
                time.sleep(1)  # an automation is seen by the server's trigger a moment after it was made
                runs = client.request("POST", "/flow_runs/filter", json=asked).json()
            assert runs, "no run was started"
            assert runs[0]["parameters"]["reason"] == reason
            assert runs[0]["parameters"]["cause"] == "{{ 7 * 191 }}"
        finally:
            client.delete_automation(automation)
            client.delete_deployment(deployment)


def test_a_poisoned_window_is_one_cause_and_at_most_one_training(home, tmp_path):
    """Every monitoring finds it anew, with new data or without; what it asks for is answered once for each new data."""
    from flows.ingest import ingest
    from flows.models.taxi.simulator import simulate_day
    from flows.retrain import retrain

    engine = database.connect(home)
    before = len([run for run in run_records.newest(engine, "taxi", 1000) if run.flow == "train"])

    def monitored(times: int) -> None:
        for number in range(times):
            reason = f"drift: distance_miles 0.{90 + number} (limit 0.10)"
            found = outbox.raise_cause(engine, "taxi", "distribution", events.DATA_DRIFTED, reason, {})
            retrain(trigger="distribution", reason=found.reason, cause=found.key)

    monitored(4)
    assert len(causes.waiting(engine, "taxi")) == 1
    made = len([run for run in run_records.newest(engine, "taxi", 1000) if run.flow == "train"])
    assert made == before  # nothing was accepted since the last training: there is nothing to learn from

    simulate_day(date(2024, 1, 9), trips=2000).to_parquet(tmp_path / "day.parquet")
    ingest(str(tmp_path / "day.parquet"))
    monitored(4)
    made = len([run for run in run_records.newest(engine, "taxi", 1000) if run.flow == "train"])
    assert made == before + 1
    assert len(numbers(home)) <= 2
