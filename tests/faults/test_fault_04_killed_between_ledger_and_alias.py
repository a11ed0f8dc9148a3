"""Fault 4: the promoting process is killed after the ledger has the row and before MLflow's alias follows.

The child process runs the real flow; only ``registry.follow``, the step that moves the alias, stands for the kill.
"""

import signal

import pytest
from training_parts import champion, copy_home, history, log_again, opened, python, trained

from flows import database
from flows.lookup import load_model
from flows.steps import registry, status

KILLED_BEFORE_THE_ALIAS = """
import os, signal
from flows.steps import registry
registry.follow = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from flows.promote import promote
promote(why="better")
"""
WHOLE = [(1, "promote", 1, None), (2, "promote", 2, 1)]


@pytest.fixture
def home(tmp_path, tmp_path_factory, simulated_days, prefect_api):
    source = trained(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)
    with opened(tmp_path / "home", prefect_api) as settings:
        copy_home(source, settings)
        log_again(settings, tmp_path)
        assert python(KILLED_BEFORE_THE_ALIAS).returncode == -signal.SIGKILL
        yield settings


def test_the_ledger_decides_and_status_repairs_the_alias(home):
    assert champion(home) == 2
    assert history(home) == WHOLE
    assert registry.aliases(home, "taxi") == {"champion": 1, "challenger": 2}

    spec, engine = load_model("taxi", home), database.connect(home)
    seen = status.status(home, spec, engine)
    assert (seen["alias"], seen["champion"]["version"], seen["challenger"]) == ("repaired", 2, None)
    assert registry.aliases(home, "taxi") == {"champion": 2}
    assert status.status(home, spec, engine)["alias"] == "as the ledger says"
    assert history(home) == WHOLE


def test_the_next_promotion_repairs_the_alias_as_well_and_the_history_is_whole(home, tmp_path):
    from flows.promote import promote

    (tmp_path / "third").mkdir()
    log_again(home, tmp_path / "third")
    assert promote()["previous_version"] == 2
    assert history(home) == [*WHOLE, (3, "promote", 3, 2)]
    assert registry.aliases(home, "taxi") == {"champion": 3}
