"""What is declared for the stack: triggers wait for events that exist, times agree with the spec, taken ports are refused."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from zoneinfo import ZoneInfo

import psutil
import pytest

from deployments import declared, deploy, stack
from flows import events
from flows.errors import UnavailableError, UsageError
from flows.lookup import load_model, resolve
from flows.settings import Settings

EVENTS = {value for name, value in vars(events).items() if name.isupper()}


@pytest.fixture
def deployments():
    return declared.read()


def triggers(deployments, flow):
    return [one for found in deployments if found.name == f"{flow}/taxi" for one in found.triggers]


def test_a_named_mlflow_is_used_and_none_is_started_beside_it(home):
    named = Settings(home=home.home, mlflow_tracking_uri="https://who:secret@mlflow.example")
    spec = load_model("taxi", home)
    assert set(stack.processes(home)) - set(stack.processes(named)) == {"mlflow"}
    assert set(stack.ports(home)) - set(stack.ports(named)) == {"MLflow"}
    assert stack.links(named, spec)["MLflow UI"] == "https://mlflow.example"
    assert stack.links(home, spec)["MLflow UI"].startswith("http://127.0.0.1:")


def test_a_model_that_nothing_is_declared_for_is_told_so(home):
    spec = load_model("taxi", home)
    assert stack.undeployed(spec) == ""
    told = stack.undeployed(spec.model_copy(update={"name": "rent"}))
    assert told.startswith("rent has no deployments: what lands for it waits")
    assert str(declared.PREFECT_YAML) in told


def test_no_address_that_may_hold_a_password_is_on_a_command_line(home):
    assert not [one for one in stack.processes(home).values() if re.search(r"\$\{?\w*(URI|URL|KEY|PASSWORD)", one)]
    assert stack.environment(home, load_model("taxi", home))["MLFLOW_BACKEND_STORE_URI"] == home.tracking_uri


def test_triggers_wait_for_events_that_are_emitted(deployments):
    waited = {name for one in deployments for trigger in one.triggers for name in (*trigger.expect, *trigger.after)}
    assert len(waited) >= 6
    assert waited <= EVENTS


def test_every_event_name_is_used_once():
    assert len(EVENTS) == sum(name.isupper() for name in vars(events))


def test_each_kind_of_trigger_starts_the_retraining(deployments):
    kinds = {trigger.kind for trigger in triggers(deployments, "retrain")}
    assert kinds == {"schedule", "new data", "performance", "distribution", "staleness"}
    assert "train/taxi" in {one.name for one in deployments}


def test_flows_and_their_parameters_exist(deployments, home):
    import inspect

    for one in deployments:
        flow = resolve(":".join(one.entrypoint.rsplit(".", 1)))
        known = set(inspect.signature(flow.fn).parameters)
        assert load_model(one.model, home).name == one.model
        for trigger in one.triggers:
            assert set(trigger.parameters) <= known, trigger.name


def test_schedules_name_their_time_zone_and_come_hourly_daily_and_weekly(deployments):
    found = {
        one.name: one
        for flow in ("ingest", "monitor", "retrain")
        for one in triggers(deployments, flow)
        if one.how == "cron"
    }
    assert set(found) == {"taxi: ingest hourly", "taxi: monitor daily", "taxi: retrain weekly"}
    for one in found.values():
        assert one.cron is not None
        assert re.fullmatch(r"[\d*]+ [\d*]+ \* \* [\d*]", one.cron)
        assert ZoneInfo(one.timezone)
        assert one.timezone == "America/New_York"


def test_silence_is_as_long_as_the_spec_says(deployments, home):
    limits = load_model("taxi", home).triggers
    silent = {one.expect[0]: one.within for one in triggers(deployments, "retrain") if one.how == "absence"}
    assert silent == {
        events.PARTITION_ACCEPTED: limits.expected_every.total_seconds(),
        events.MODEL_PROMOTED: limits.max_champion_age.total_seconds(),
    }


def test_the_monitor_that_runs_by_itself_leaves_the_training_to_the_triggers(deployments):
    (daily,) = triggers(deployments, "monitor")
    assert daily.parameters["retrain"] is False


def settings(tmp_path, **ports):
    return Settings(home=tmp_path / "home", **{f"{name}_port": port for name, port in ports.items()})


def free() -> int:
    from flows.steps.processes import free_port

    return free_port()


def test_every_taken_port_is_named_with_its_setting_before_anything_starts(tmp_path):
    with socket.socket() as one, socket.socket() as two:
        for listener in (one, two):
            listener.bind(("127.0.0.1", 0))
            listener.listen()
        first, second = one.getsockname()[1], two.getsockname()[1]
        taken = settings(tmp_path, prefect=first, mlflow=free(), feast=second, service=free(), docs=free())
        with pytest.raises(UnavailableError) as error:
            stack.refuse_taken_ports(taken)
    for word in (
        f"port {first} for Prefect",
        "EVERGREEN_PREFECT_PORT",
        f"port {second} for Feast",
        "EVERGREEN_FEAST_PORT",
    ):
        assert word in str(error.value)
    assert "MLflow" not in str(error.value)
    stack.refuse_taken_ports(taken)


def test_the_ports_of_a_stack_that_was_killed_are_waited_for(tmp_path):
    over = subprocess.Popen([sys.executable, "-c", ""])
    over.wait()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        mine = settings(
            tmp_path, prefect=listener.getsockname()[1], mlflow=free(), feast=free(), service=free(), docs=free()
        )
        mine.prefect_home.mkdir(parents=True)
        record = {"api_url": "http://127.0.0.1:1/api", "pid": over.pid, "at": time.time(), "stack": True}
        (mine.prefect_home / "server.json").write_text(json.dumps(record))
        ending = threading.Timer(1.0, listener.close)
        ending.start()
        stack.refuse_taken_ports(mine)
        assert listener.fileno() == -1


def test_one_port_for_two_is_refused(tmp_path):
    port = free()
    with pytest.raises(UnavailableError, match=rf"{port} is asked for by Prefect and Feast, set EVERGREEN_FEAST_PORT"):
        stack.refuse_taken_ports(
            settings(tmp_path, prefect=port, mlflow=free(), feast=port, service=free(), docs=free())
        )


def test_a_port_setting_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="prefect_port"):
        settings(tmp_path, prefect=70_000)


def test_the_stack_tells_the_ui_its_own_port(tmp_path, restored_environment):
    made = settings(tmp_path, prefect=4567)
    variables = stack.environment(made, load_model("taxi", made))
    assert variables["PREFECT_API_URL"] == variables["PREFECT_SERVER_UI_API_URL"] == "http://127.0.0.1:4567/api"
    assert stack.links(made, load_model("taxi", made))["Prefect UI"] == "http://127.0.0.1:4567"


def test_the_procfile_uses_what_is_set_and_listens_on_this_machine_alone(tmp_path):
    from honcho.environ import parse_procfile

    made = settings(tmp_path)
    variables = stack.environment(made, load_model("taxi", made))
    commands = parse_procfile(stack.PROCFILE.read_text()).processes
    assert set(commands) == {"prefect", "worker", "watch", "mlflow", "feast", "docs", "service"}
    for name, command in commands.items():
        assert {found.strip("{}") for found in re.findall(r"\$(\{?\w+)", command)} <= set(variables), name
        if "--port" in command:
            assert "--host 127.0.0.1" in command
    assert variables["EVERGREEN_SERVICE_HOST"] == "127.0.0.1"


def test_an_unknown_environment_is_refused_and_a_known_one_gives_way_to_what_is_set(restored_environment, monkeypatch):
    with pytest.raises(UsageError, match=r"known are: .*local"):
        deploy.use_environment("../local")
    monkeypatch.setenv("EVERGREEN_WORK_POOL_TYPE", "docker")
    deploy.use_environment("local")
    assert Settings().work_pool_type == "docker"


KEPT = """
from honcho.manager import Manager
from deployments.tied import Tied
manager = Manager()
manager._process_ctor = Tied
manager.add_process("two", "sleep 600 & exec sleep 600")
manager.add_process("stubborn", "trap '' TERM; sleep 600; sleep 600")
manager.loop()
"""


def test_what_the_stack_started_ends_when_the_stack_is_killed_with_its_process_group():
    stack_process = subprocess.Popen(
        [sys.executable, "-c", KEPT], cwd=stack.FEATURE_REPO.parent, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        parent, deadline = psutil.Process(stack_process.pid), time.monotonic() + 30
        while sum(one.name() == "sleep" for one in parent.children(recursive=True)) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        family = parent.children(recursive=True)
        time.sleep(1.0)
        assert all(one.is_running() for one in family)  # nothing ends while the stack lives
    finally:
        os.killpg(stack_process.pid, signal.SIGKILL)
        stack_process.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    left = [one.name() for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    for one in alive:
        one.kill()
    assert left == []


def test_a_part_that_ends_is_named_and_ends_all(home, monkeypatch, capfd):
    monkeypatch.setattr(stack, "processes", lambda _: {"good": "exec sleep 60", "bad": "echo no room; exit 3"})
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    began = time.monotonic()
    try:
        with pytest.raises(UnavailableError, match=r"^bad ended with status 3, and so all was ended"):
            stack.run(home, load_model("taxi", home))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert time.monotonic() - began < 30
    assert "no room" in capfd.readouterr().out
