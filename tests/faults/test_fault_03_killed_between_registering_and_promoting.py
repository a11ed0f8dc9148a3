"""Fault 3: the training process is killed after it has registered a version and before it promotes it.

The child process below runs the real flow. Only the name of the promotion flow in it stands for the kill: SIGKILL from
outside would hit the moment, some milliseconds long, by chance alone.
"""

import signal

import pytest
from training_parts import champion, history, numbers, python

from flows import database, ledger, run_records
from flows.steps import registry, status

KILLED_BEFORE_PROMOTING = """
import os, signal
import flows.train as module
module.promote = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
module.train(reason="newer data", force=True)
"""


@pytest.fixture
def home(trained_home):
    return trained_home


def test_the_champion_stays_and_the_next_run_promotes_what_was_registered_without_training_again(home):
    from flows.lookup import load_model
    from flows.train import train

    assert python(KILLED_BEFORE_PROMOTING).returncode == -signal.SIGKILL
    assert champion(home) == 1
    assert numbers(home) == [2, 1]
    assert registry.aliases(home, "taxi") == {"champion": 1, "challenger": 2}
    engine = database.connect(home)
    seen = status.status(home, load_model("taxi", home), engine)
    assert (seen["champion"]["version"], seen["challenger"]) == (1, {"version": 2})

    found = train()
    assert (found["version"], found["promoted"], found["unchanged"]) == (2, True, True)
    assert numbers(home) == [2, 1]
    assert history(home) == [(1, "promote", 1, None), (2, "promote", 2, 1)]
    assert ledger.champion(engine, "taxi").why == "newer data"
    assert registry.aliases(home, "taxi") == {"champion": 2}
    newest = next(run for run in run_records.newest(engine, "taxi") if run.flow == "train")
    assert "fit" not in [stage["name"] for stage in newest.summary["stages"]]

    assert train()["promoted"] is False
    assert len(history(home)) == 2
