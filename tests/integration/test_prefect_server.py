"""The Prefect server of a home: it lives as long as one of the commands that use it, and no killed one leaves it for good."""

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest
from online_parts import ROOT
from serving_parts import eventually

from flows import database, run_records
from flows.errors import UnavailableError
from flows.settings import Settings
from flows.steps.prefect_server import is_healthy, prefect_server, refuse_running
from flows.steps.processes import free_port

USER = """
import sys
from flows.settings import Settings
from flows.steps.prefect_server import prefect_server
with prefect_server(Settings(home=sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""
LOADS = """
import sys
from flows.settings import Settings
from flows.steps.prefect_server import prefect_server
with prefect_server(Settings(home=sys.argv[1]), ["flows.runs", "sqlite3.dump"]) as url:
    assert {"flows.runs", "sqlite3.dump"} <= sys.modules.keys()
    from prefect.settings import PREFECT_API_URL
    assert PREFECT_API_URL.value() == url
"""
STACK = """
import sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from flows.settings import Settings
from flows.steps.prefect_server import announced
class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
server = HTTPServer(("127.0.0.1", int(sys.argv[2])), Answer)
threading.Thread(target=server.serve_forever, daemon=True).start()
with announced(Settings(home=sys.argv[1]), f"http://127.0.0.1:{sys.argv[2]}/api"):
    print("up", flush=True)
    sys.stdin.read()
"""
INGEST = """
import sys
from flows import cli
sys.argv = ["evergreen", "ingest", sys.argv[2], "--home", sys.argv[1]]
cli.main()
"""
LAST = """
import json, os, signal, sys, time
from pathlib import Path
from flows import cli
from flows.cli_call import run_flow

@cli.app.command()
def last(home: Path):
    def call():
        from prefect import flow
        from prefect.events import emit_event
        from prefect.events.worker import EventsWorker

        flow(lambda: None, name="nothing")()
        emit_event("nothing", {"prefect.resource.id": "first"})
        EventsWorker.instance().wait_until_empty()  # it is connected, and will try to be so again
        os.kill(json.loads((home / "prefect" / "server.json").read_text())["pid"], signal.SIGKILL)
        time.sleep(2.0)  # until the closed connection is noticed
        for number in range(30):
            emit_event("nothing", {"prefect.resource.id": str(number)})

    run_flow(home, "taxi", call)
    print("done")
    raise SystemExit(3)

sys.argv = ["evergreen", "last", *sys.argv[1:]]
cli.main()
"""
ENDS_SECONDS = 40.0  # for a command whose server is gone; Prefect alone would try for minutes


@pytest.fixture
def begin(tmp_path, restored_environment, monkeypatch):
    """Return how to start a process on the home; all are killed at the end, the server too."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    started = []

    def start(code, *arguments):
        command = [sys.executable, "-c", code, str(tmp_path), *arguments]
        process = subprocess.Popen(
            command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    refuse_running(Settings(home=tmp_path))


def known(home):
    path = home / "prefect" / "server.json"
    return json.loads(path.read_text()) if path.exists() else None


def url_of(process):
    return process.stdout.readline().strip()


def finish(process):
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_it_lives_until_the_last_of_its_users_ends(tmp_path, begin):
    first, second = begin(USER), begin(USER)  # at once: one of the two starts it
    assert url_of(first) == url_of(second)
    server = psutil.Process(known(tmp_path)["pid"])
    url = known(tmp_path)["api_url"]
    starter, other = (first, second) if server.ppid() == first.pid else (second, first)
    finish(starter)
    assert is_healthy(url)
    third = begin(USER)
    assert url_of(third) == url
    finish(other)
    assert is_healthy(url)
    finish(third)
    assert not server.is_running()
    assert known(tmp_path) is None


def test_what_a_command_needs_is_loaded_while_its_server_starts_and_knows_its_address(begin):
    process = begin(LOADS)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def test_the_server_of_a_command_that_was_killed_while_it_started_is_used_and_stopped_by_the_next(tmp_path, begin):
    killed = begin(USER)
    server = psutil.Process(eventually(lambda: known(tmp_path), 60)["pid"])
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not is_healthy(known(tmp_path)["api_url"])
    with prefect_server(Settings(home=tmp_path)) as url:
        assert known(tmp_path)["pid"] == server.pid
        assert is_healthy(url)
    assert not server.is_running()
    assert known(tmp_path) is None


def test_what_killed_commands_left_does_not_keep_a_stack_from_starting_but_a_command_under_way_does(tmp_path, begin):
    user = begin(USER)
    server = psutil.Process(eventually(lambda: known(tmp_path), 60)["pid"])
    with pytest.raises(UnavailableError, match="has a Prefect server at"):
        refuse_running(Settings(home=tmp_path))
    user.send_signal(signal.SIGKILL)
    user.wait()
    refuse_running(Settings(home=tmp_path))
    assert not server.is_running()


def test_no_command_stops_the_server_of_a_stack(tmp_path, begin):
    stack = begin(STACK, str(free_port()))
    assert stack.stdout.readline() == "up\n"
    with prefect_server(Settings(home=tmp_path)) as url:
        assert url == known(tmp_path)["api_url"]
    time.sleep(0.5)
    assert stack.poll() is None
    assert known(tmp_path)["pid"] == stack.pid
    with pytest.raises(UnavailableError, match="end what runs it first"):
        refuse_running(Settings(home=tmp_path))
    assert stack.poll() is None
    finish(stack)
    assert known(tmp_path) is None


def test_a_command_whose_server_is_killed_ends_soon_and_says_so(tmp_path, begin, simulated_days):
    process = begin(INGEST, str(simulated_days))
    engine = database.connect(Settings(home=tmp_path))
    eventually(lambda: run_records.under_way(engine, "taxi"), 120)
    psutil.Process(known(tmp_path)["pid"]).kill()
    killed = time.monotonic()
    _, errors = process.communicate(timeout=ENDS_SECONDS)
    assert time.monotonic() - killed < ENDS_SECONDS
    assert process.returncode == 1
    assert "evergreen: the Prefect server ended in mid-command" in errors
    assert "Traceback" not in errors


def test_a_command_whose_work_is_done_keeps_its_exit_status_though_the_server_takes_no_events_any_more(tmp_path, begin):
    process = begin(LAST)
    server = psutil.Process(eventually(lambda: known(tmp_path), 60)["pid"])
    server.wait(timeout=120)
    output, _ = process.communicate(timeout=ENDS_SECONDS)
    assert (output, process.returncode) == ("done\n", 3)
