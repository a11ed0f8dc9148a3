"""Fault 10: the disk is full while a training set or a model is written. One clear line; nothing torn, nothing promoted."""

import subprocess
import sys

import pytest
from training_parts import champion, numbers

# The kernel refuses a write beyond the limit, as on a full disk. The databases may still grow a little: what is to fail is
# the file that the stage writes.
CHILD = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from flows.terminal import quiet_libraries
quiet_libraries()  # as the command does, before it imports a flow
import flows.train as module
from flows import cli
stage, limit = sys.argv.pop(1), int(sys.argv.pop(1))
before = getattr(module, stage)
def full(*arguments, **keywords):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        return before(*arguments, **keywords)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
setattr(module, stage, full)
cli.main()
"""


@pytest.fixture
def home(trained_home):
    return trained_home


@pytest.mark.parametrize(
    "stage", [*(pytest.param(one, marks=pytest.mark.long) for one in ("build_training_set", "save_bundle")), "log_run"]
)
def test_training_fails_cleanly_and_the_champion_stays(home, stage):
    before = (numbers(home), champion(home))
    call = [sys.executable, "-c", CHILD, stage, "4096", "train", "--force", "--home", str(home.home)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=180, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 1, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("evergreen: ")]
    assert len(told) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert (numbers(home), champion(home)) == before
    torn = [path for path in home.stages("taxi").rglob("*") if path.name.endswith(".tmp")]
    assert torn == []
