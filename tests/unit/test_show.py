"""What a person is shown of a training that was refused: by how much, and whether a champion stays; how a command is ended."""

import math
import subprocess
import sys

import pytest

from flows import show, terminal
from flows.steps import gates

FOUND = {
    "version": None, "run_id": "r1", "reason": "test", "error": 5.0, "train_error": 4.0, "baseline_error": 4.5,
    "judge_rows": 100, "train_rows": 900, "promoted": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("version", "error", "words"), [(None, None, "there is no champion yet"), (3, 4.2, "the champion stays")]
)
def test_a_refused_training_tells_the_number_and_threshold_of_each_failed_gate(version, error, words):
    verdicts = [
        gates.judge("baseline", 1.111111, 0.9, "rmse 5, naive 4.5"),
        gates.judge("loads", 0.0, 0.0, "opened"),
        gates.judge("latency", math.nan, 20.0, "ms, median of one row"),
    ]
    found = FOUND | {"failed": gates.failed(verdicts), "refusals": gates.refusals(verdicts)}
    with terminal.console.capture() as captured:
        show.show_trained(found | {"champion_version": version, "champion_error": error})
    text = " ".join(captured.get().split())
    assert f"refused by: baseline, latency; {words} (MLflow run r1)" in text
    assert "baseline 1.111, at most 0.9: rmse 5, naive 4.5 latency nan, at most 20: ms, median of one row" in text
    assert "loads" not in text


LOST = """
import os, signal, time
from flows.terminal import end_on_signals

class Held:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

end_on_signals()
try:
    held = Held()
    del held  # what is raised in here is lost
    time.sleep(10)
except KeyboardInterrupt:
    print("ended")
"""


def test_an_interrupt_that_python_loses_is_raised_again():
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("ended\n", "", 0)


def test_a_trial_tells_its_median_times_in_milliseconds():
    found = {
        "version": 2, "kind": "canary", "share": 0.1, "state": "running", "outcome": None, "who": "a", "why": "b",
        "since": "2026-01-01T00:00:00+00:00",
        "counts": {"requests": 30, "failed": 0, "seconds": 0.006028283999967243, "champion_seconds": 0.005, "last_error": None},
    }  # fmt: skip
    with show.console.capture() as captured:
        show.show_trial(found)
    assert "b; requests 30, failed 0, median 6.0 ms, the champion's 5.0 ms" in " ".join(captured.get().split())
