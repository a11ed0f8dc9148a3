"""Runs whose process was killed: `evergreen status` and a deployment mark them as crashed, or as cancelled, and no others."""

import json
import os
import subprocess
import sys
import uuid

import pytest
from prefect import flow, get_client
from prefect.states import Cancelling
from typer.testing import CliRunner

from flows import database, run_records
from flows.errors import CancelledError
from flows.runs import confirm_cancelled, executor, recorded, stage


@pytest.fixture
def runs(flow_home):
    """Record a run of a process that is gone and one of this process, both as running; return their ids."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    engine, ids = database.connect(flow_home), (str(uuid.uuid4()), str(uuid.uuid4()))
    names = (executor().replace(f"pid {os.getpid()}", f"pid {dead.pid}"), executor())
    for run_id, name in zip(ids, names, strict=True):
        run_records.start(engine, run_id=run_id, model="taxi", flow="train", reason="test", executor=name)
    return ids


def states(home):
    return {one.id: (one.state, one.summary.get("error")) for one in run_records.newest(database.connect(home), "taxi")}


def expected(runs):
    return {runs[0]: ("crashed", "crashed: its process is gone"), runs[1]: ("running", None)}


def test_status_marks_the_run_of_a_dead_process_as_crashed_and_leaves_a_living_one(flow_home, runs):
    from flows.cli import app

    done = CliRunner().invoke(app, ["status", "--home", str(flow_home.home), "--json"])
    assert done.exit_code == 0, done.output
    json.loads(done.stdout)
    assert states(flow_home) == expected(runs)


def test_a_deployment_does_so_too(flow_home, runs):
    from deployments.deploy import watch

    watch(flow_home, ["taxi"])
    assert states(flow_home) == expected(runs)


def cancel(run_id):
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(uuid.UUID(str(run_id)), Cancelling(), force=True)


def state_in_prefect(run_id):
    with get_client(sync_client=True) as client:
        return client.read_flow_run(uuid.UUID(str(run_id))).state_name


def test_a_dead_run_that_a_person_cancelled_is_told_as_cancelled_with_the_run_within_it(flow_home):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    engine, ids = database.connect(flow_home), []

    @flow
    def inner():
        from prefect.runtime import flow_run

        ids.append(flow_run.id)

    @flow
    def outer():
        inner()
        from prefect.runtime import flow_run

        ids.append(flow_run.id)
        cancel(flow_run.id)

    outer()
    name = executor().replace(f"pid {os.getpid()}", f"pid {dead.pid}")
    for run_id in ids:
        run_records.start(engine, run_id=run_id, model="taxi", flow="train", reason="test", executor=name)

    from flows.cli import app

    done = CliRunner().invoke(app, ["status", "--home", str(flow_home.home)])
    assert done.exit_code == 0, done.output
    assert states(flow_home) == dict.fromkeys(ids, ("cancelled", "it was cancelled in Prefect"))


def test_a_cancelled_run_that_no_worker_ends_begins_no_further_stage(flow_home, monkeypatch):
    monkeypatch.setattr("flows.runs.ASK_SECONDS", 0.0)
    monkeypatch.setattr("flows.runs.ASK_PAUSE", 0.0)
    engine, ids, begun = database.connect(flow_home), {}, []
    first, second = (
        stage(lambda: begun.append("first"), name="first"),
        stage(lambda: begun.append("second"), name="second"),
    )

    @flow
    def inner():
        with recorded(engine, "taxi", "train") as run:
            ids["inner"] = run.id
            first()
            cancel(ids["outer"])
            second()

    @flow
    def outer():
        with recorded(engine, "taxi", "retrain") as run:
            ids["outer"] = run.id
            inner()

    with pytest.raises(CancelledError):
        outer()
    confirm_cancelled()
    assert begun == ["first"]
    assert states(flow_home) == dict.fromkeys(ids.values(), ("cancelled", "it was cancelled in Prefect"))
    assert [state_in_prefect(ids[name]) for name in ("outer", "inner")] == ["Cancelled"] * 2
