"""Runs whose process was killed: `evergreen status` and a deployment mark them as crashed, and no others."""

import json
import os
import subprocess
import sys
import uuid

import pytest
from typer.testing import CliRunner

from flows import database, ledger
from flows.runs import executor


@pytest.fixture
def runs(flow_home):
    """Record a run of a process that is gone and one of this process, both as running; return their ids."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    engine, ids = database.connect(flow_home), (str(uuid.uuid4()), str(uuid.uuid4()))
    names = (executor().replace(f"pid {os.getpid()}", f"pid {dead.pid}"), executor())
    for run_id, name in zip(ids, names, strict=True):
        ledger.start_run(engine, run_id=run_id, model="taxi", flow="train", reason="test", executor=name)
    return ids


def states(home):
    return {one.id: (one.state, one.summary.get("error")) for one in ledger.last_runs(database.connect(home), "taxi")}


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
