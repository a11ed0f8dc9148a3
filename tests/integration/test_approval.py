"""A promotion that waits for a person: a real run of a deployment is suspended, answered through the API, and goes on.

A runner of this process takes the place of the worker; it starts the run's process as a worker does.
"""

import os
import subprocess
import sys
import time
from uuid import UUID

import pytest
from training_parts import champion, copy_home, history, log_again, opened, trained

from flows import database, ledger, run_records
from flows.lookup import load_model
from flows.steps import registry

SECONDS = 90


@pytest.fixture
def home(tmp_path, tmp_path_factory, simulated_days, prefect_api):
    source = trained(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)
    with opened(tmp_path / "home", prefect_api) as settings:
        copy_home(source, settings)
        (tmp_path / "again").mkdir()
        log_again(settings, tmp_path / "again", champion=1)
        yield settings


@pytest.fixture
def deployed(home):
    """Deploy the promotion flow, for this test alone."""
    from prefect import get_client

    from flows.promote import promote

    with get_client(sync_client=True) as client:
        name = f"test-{home.home.parent.name}"
        made = client.create_deployment(
            flow_id=client.create_flow(promote), name=name, entrypoint="flows.promote.promote",
            parameters={"model": "taxi"},
        )  # fmt: skip
        yield client
        client.delete_deployment(made)


def execute(run: str) -> str:
    """Run the process of a flow run, until it ends or is suspended, as a worker would; return what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect.engine"], env=os.environ | {"PREFECT__FLOW_RUN_ID": run}, capture_output=True,
        timeout=SECONDS, stdin=subprocess.DEVNULL, check=False, text=True,
    )  # fmt: skip
    return done.stderr


@pytest.mark.parametrize("approve", [True, False])
def test_the_run_is_suspended_with_the_evidence_on_its_page_and_does_what_the_person_says(home, deployed, approve):
    from flows.train import hand_over

    spec, engine = load_model("taxi", home), database.connect(home)
    before = len(run_records.newest(engine, "taxi", 100))
    asked = hand_over(home, engine, spec, 2, "newer data", "approve")
    assert hand_over(home, engine, spec, 2, "newer data", "approve") == asked  # it is asked once
    assert asked["promoted"] is False
    run = UUID(asked["approval"])
    said = execute(str(run))
    assert deployed.read_flow_run(run).state.name == "Suspended", said
    assert (champion(home), len(run_records.newest(engine, "taxi", 100))) == (1, before)
    page = deployed.request(
        "POST", "/artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": [str(run)]}}}
    ).json()  # fmt: skip
    assert "taxi version 2: may it serve?" in page[0]["data"]
    assert "| passed | baseline |" in page[0]["data"]

    answer = {"approve": approve, "who": "Ada", "why": "looked at the slices"}
    deployed.resume_flow_run(run, run_input=answer)
    said = execute(str(run))
    assert deployed.read_flow_run(run).state.name == "Completed", said
    newest = run_records.newest(engine, "taxi", 1)[0]
    if approve:
        assert history(home)[-1] == (2, "promote", 2, 1)
        made = ledger.champion(engine, "taxi")
        assert (made.who, made.why) == ("Ada", "looked at the slices")
    else:
        assert champion(home) == 1
        assert registry.get_version(home, "taxi", 2).refused == "Ada: looked at the slices"
        assert newest.summary["refused"] == "Ada: looked at the slices"
        assert hand_over(home, engine, spec, 2, "newer data", "approve") == {"promoted": False}  # not asked again
    assert newest.flow == "promote"
    assert [one.flow for one in run_records.newest(engine, "taxi", 100)][: -before or None] == ["promote"]


def test_without_a_deployment_the_run_waits_where_it_is(home):
    from prefect import get_client

    code = "from flows.promote import promote; promote(version=2, approve=True)"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL)
    try:
        with get_client(sync_client=True) as client:
            deadline, run = time.monotonic() + SECONDS, None
            while run is None and time.monotonic() < deadline:
                time.sleep(0.5)
                waiting = client.request(
                    "POST", "/flow_runs/filter", json={"flow_runs": {"state": {"name": {"any_": ["Paused"]}}}}
                ).json()  # fmt: skip
                run = waiting[0]["id"] if waiting else None
            assert run, "the run was not paused"
            assert champion(home) == 1
            client.resume_flow_run(UUID(run), run_input={"approve": True})
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
    assert champion(home) == 2
