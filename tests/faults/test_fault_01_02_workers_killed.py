"""Faults 1 and 2: the worker and its flow are killed in mid-training, or the worker is asked to stop.

Two homes, each with a work pool and a worker of its own, on one real server. Both train; the training is held in its
middle. The first worker is killed with all its children, so that nobody is left to say so. The second trains on for as
long as it takes to find that out, which shows that it is spared; then it is stopped with SIGTERM.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from uuid import UUID

import psutil
import pytest
from prefect import flow
from prefect.states import Running
from training_parts import copy_home, featurized, history, numbers, opened

from deployments.crashed import HEARTBEAT, OURS, automations, deploy_automations
from flows import database, run_records
from flows.runs import TAG

pytestmark = pytest.mark.long

ENDED = {"CRASHED", "FAILED", "CANCELLED", "COMPLETED"}


@flow
def nothing() -> None:
    """End at once."""


def wait(what, condition, seconds: float):
    """Wait until a condition gives something and return that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.5)
    pytest.fail(f"{what}: not within {seconds:.0f} s")


def deploy(client, name: str) -> UUID:
    """Make a work pool and a deployment of the training flow in it, as deployments/prefect.yaml does: one run at a time."""
    from prefect.client.schemas.actions import WorkPoolCreate

    from flows.train import train

    client.create_work_pool(WorkPoolCreate(name=name, type="process"))
    return client.create_deployment(
        flow_id=client.create_flow(train), name=name, entrypoint="flows.train.train", work_pool_name=name,
        concurrency_limit=1, tags=[TAG], job_variables={"command": f"{sys.executable} -m prefect.engine"},
    )  # fmt: skip


@contextmanager
def worker(home, pool: str):
    """Run a worker of a pool, as `evergreen up` does."""
    with (home.home / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"],
            env=os.environ | home.environment() | {"PREFECT_WORKER_QUERY_SECONDS": "2"}, stdout=log,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        kill(process)


def kill(process) -> None:
    """Kill a process and all its children, so that none of them can say so."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait(10)


def state(client, run: UUID) -> str:
    return client.read_flow_run(run).state_type.value


def slots(client, deployment: UUID) -> int:
    """Return how many of a deployment's slots are taken."""
    return client.read_deployment(deployment).global_concurrency_limit.active_slots


def is_held(home) -> bool:
    """Say whether a training has its training set and waits in the middle of the fit."""
    return bool(list(home.stages("taxi").glob("*/build-training-set.json")))


def executed(home, run: UUID) -> dict[str, str]:
    """Return which process ran which stage, as the record of a run says."""
    (record,) = [one for one in run_records.newest(database.connect(home), "taxi", 100) if one.id == str(run)]
    assert record.state == "completed"
    return {stage["name"]: stage["executor"] for stage in record.summary["stages"]}


def test_killed_runs_are_found_and_gone_on_with_while_healthy_and_finished_ones_are_spared(
    tmp_path, tmp_path_factory, simulated_days, prefect_api
):
    from prefect import get_client
    from prefect.events import emit_event

    base = featurized(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)
    parameters = {"estimator": "team.held:build"}
    with opened(tmp_path / "one", prefect_api) as one:
        copy_home(base, one)
    with opened(tmp_path / "two", prefect_api) as two, get_client(sync_client=True) as client, ExitStack() as after:
        after.callback(remove_automations, client)
        copy_home(base, two)
        homes = (one, two)
        names = deploy_automations()
        assert deploy_automations() == names
        assert [len(client.read_automations_by_name(name)) for name in names] == [1, 1]
        deployments = [deploy(client, name) for name in ("fault-one", "fault-two")]
        for home in homes:
            (home.home / "hold").touch()
        runs = [client.create_flow_run_from_deployment(each, parameters=parameters).id for each in deployments]
        with worker(one, "fault-one") as first, worker(two, "fault-two") as second:
            for home in homes:
                wait("the training is in its middle", lambda home=home: is_held(home), 150)
            # A heartbeat after the end, as of a process that takes its time to stop, must not undo a completed run.
            finished = nothing(return_state=True).state_details.flow_run_id
            emit_event(HEARTBEAT, resource={"prefect.resource.id": f"prefect.flow-run.{finished}"}, related=[OURS])
            # Another team's run on the same server, as silent as one that was killed.
            other = client.create_flow_run(nothing, state=Running()).id
            emit_event(HEARTBEAT, resource={"prefect.resource.id": f"prefect.flow-run.{other}"})

            # Fault 1. Nobody is left: only the server can notice.
            kill(first)
            began = time.monotonic()
            assert [state(client, run) for run in runs] == ["RUNNING", "RUNNING"]
            assert slots(client, deployments[0]) == 1
            wait("the killed run is marked as crashed", lambda: state(client, runs[0]) == "CRASHED", 120)
            print(f"crashed after {time.monotonic() - began:.0f} s")
            assert slots(client, deployments[0]) == 0
            assert state(client, runs[1]) == "RUNNING"  # it beats on
            refused = wait("the automation is refused", lambda: failures(client, finished), 60)
            assert "terminal" in refused
            assert state(client, finished) == "COMPLETED"
            assert state(client, other) == "RUNNING"

            # Fault 2. The worker is asked to stop: it takes no more, and what runs may come to its end.
            second.send_signal(signal.SIGTERM)
            second.wait(60)
            (two.home / "hold").unlink()
            wait("the run of the stopped worker ends", lambda: state(client, runs[1]) in ENDED, 150)
            assert state(client, runs[1]) in ("COMPLETED", "CRASHED")
            print(f"after SIGTERM the run is {state(client, runs[1])}")
            assert slots(client, deployments[1]) == 0

        # The killed run goes on, and whoever was not through begins again.
        assert not one.mlflow_exists or numbers(one) == []
        (one.home / "hold").unlink()
        retry = [sys.executable, "-m", "prefect", "flow-run", "retry"]
        waiting = [run for run in runs if state(client, run) == "CRASHED"]
        for run in waiting:
            done = subprocess.run(
                [*retry, str(run)], env=os.environ | one.environment(), capture_output=True, text=True, timeout=60,
                stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
        with worker(one, "fault-one"), worker(two, "fault-two"):
            for run in waiting:
                wait("the run is gone on with", lambda run=run: state(client, run) == "COMPLETED", 150)
        for home in homes:
            assert (numbers(home), history(home)) == ([1], [(1, "promote", 1, None)])
        found = executed(one, runs[0])
        assert found["build-training-set"] != found["fit"] == found["register"]
        assert executed(two, runs[1])
        assert slots(client, deployments[0]) == slots(client, deployments[1]) == 0


def remove_automations(client) -> None:
    """Leave the server to the other tests as it was: their hearts may beat more slowly."""
    for automation in automations():
        for made in client.read_automations_by_name(automation.name):
            client.delete_automation(made.id)


def failures(client, run: UUID) -> str:
    """Return why automations failed on a run, as their events say."""
    answer = client.request(
        "POST", "/events/filter",
        json={"filter": {"event": {"name": ["prefect.automation.action.failed"]}, "order": "DESC"}, "limit": 50},
    ).json()  # fmt: skip
    return "; ".join(str(event["payload"].get("reason")) for event in answer["events"] if str(run) in str(event))
