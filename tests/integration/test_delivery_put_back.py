"""What a delivery leaves behind: two that are put back go back two versions, and one that is ended ends what it began.

The versions are trees whose command line writes down what it was told; the ledger and the command are the real ones.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from serving_parts import eventually

from deployments import delivery
from flows import database, ledger, run_records
from flows.errors import ConflictError, RefusedError
from flows.models.taxi.spec import spec
from flows.steps import doctor
from flows.steps.promotion import rollback_target

CLI = """
import os, pathlib, subprocess, sys, time
name = pathlib.Path(__file__).parents[1].name

def main():
    words = sys.argv[1:]
    with open(os.environ["SAID"], "a") as file:
        file.write(f"{name} {' '.join(words)}\\n")
    if words[0] == "train" and name == "slow":
        # What a command starts and does not end itself: a server, the training's probe.
        code = f"import time; time.sleep(4); open({os.environ['SAID']!r}, 'a').write('promoted')"
        subprocess.Popen([sys.executable, "-c", code])
        time.sleep(60)
"""


@pytest.fixture
def said(tmp_path, monkeypatch):
    """Return what was said to the versions, a line each."""
    file = tmp_path / "said"
    monkeypatch.setenv("SAID", str(file))
    return lambda: file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def tree(tmp_path):
    """Return a maker of source trees by name."""

    def make(name: str) -> str:
        (tmp_path / name / "flows").mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "flows" / "__init__.py").touch()
        (tmp_path / name / "flows" / "cli.py").write_text(CLI)
        return str(tmp_path / name)

    return make


@pytest.fixture
def promote(home):
    """Return what makes a version the champion in the ledger, or takes the newest promotion back to it."""
    engine = database.connect(home)

    def call(version, kind="promote"):
        ledger.promote(
            engine, model="taxi", expected=ledger.champion(engine, "taxi"), kind=kind, version=version, run_id="r",
            model_uri="u", digest="d", who="w", why="y", evidence={},
        )  # fmt: skip

    return call


@pytest.fixture
def trials(home, promote, monkeypatch):
    """Let trainings of a version promote what a dictionary says, one after the other, and rollbacks and promotions happen."""
    made: dict[str, list[int]] = {}
    real = delivery._step

    def step(settings, spec, source, words):
        real(settings, spec, source, words)
        if words[0] == "train" and made.get(Path(source).name):
            promote(made[Path(source).name].pop(0))
        if words[0] == "rollback":
            goal = rollback_target(ledger.list_promotions(database.connect(home), "taxi"))
            assert goal, "nothing to roll back to"
            promote(goal.version, "rollback")
        if words[0] == "promote":
            promote(int(words[1]))

    monkeypatch.setattr(delivery, "_step", step)
    return made


def champion(home):
    return ledger.champion(database.connect(home), "taxi").version


def in_force(home):
    return delivery.live(database.connect(home), "taxi").summary["version"]


def test_two_that_are_put_back_go_back_two_versions_and_never_to_one_that_failed(home, said, tree):
    for name in ("one", "two", "three"):
        delivery.deliver(home, spec, tree(name), name, "delivered", trial=False)
    assert delivery.back(home, spec, "three failed")["version"] == "two"
    assert delivery.back(home, spec, "two is bad as well")["version"] == "one"
    assert in_force(home) == "one"
    with pytest.raises(RefusedError, match="no pipeline version was in force before"):
        delivery.back(home, spec, "once more")
    assert said()[-2:] == ["one featurize --model taxi", "one deploy"]


def test_the_same_version_twice_is_taken_back_at_once(home, said, tree):
    for name in ("one", "two", "two"):
        delivery.deliver(home, spec, tree(name), name, "delivered", trial=False)
    assert delivery.back(home, spec, "two failed")["version"] == "one"


def test_the_champion_that_a_trial_made_goes_back_with_its_version(home, said, tree, promote, trials):
    promote(1)
    trials["two"] = [2]
    for name in ("one", "two"):
        delivery.deliver(home, spec, tree(name), name, "delivered")
    delivery.back(home, spec, "smoke failed")
    assert said()[-1] == "one rollback --why made by the trial of two, which was put back: smoke failed --model taxi"
    assert champion(home) == 1


def test_the_champions_that_each_trial_of_a_version_made_go_back_with_it(home, said, tree, promote, trials):
    promote(1)
    trials["two"] = [2, 3]
    for name in ("one", "two", "two"):
        delivery.deliver(home, spec, tree(name), name, "delivered")
    delivery.back(home, spec, "too slow")
    assert champion(home) == 1


def test_a_first_champion_stays_when_the_version_whose_trial_made_it_goes_back(home, said, tree, trials):
    trials["two"] = [1]
    for name in ("one", "two"):
        delivery.deliver(home, spec, tree(name), name, "delivered", trial=name == "two")
    assert delivery.back(home, spec, "too slow")["version"] == "one"
    assert champion(home) == 1


def test_a_champion_of_later_stays(home, said, tree, promote, trials):
    promote(1)
    trials["two"] = [2]
    for name in ("one", "two"):
        delivery.deliver(home, spec, tree(name), name, "delivered")
    promote(3)
    delivery.back(home, spec, "too slow")
    assert not [line for line in said() if "rollback" in line]


def test_going_back_that_is_ended_after_its_rollback_leaves_the_champion_as_it_was(
    home, said, tree, promote, trials, monkeypatch
):
    for version in (1, 2):
        promote(version)
    trials["two"] = [3]
    for name in ("one", "two"):
        delivery.deliver(home, spec, tree(name), name, "delivered")
    trial = delivery._step

    def ended(settings, spec, source, words):
        trial(settings, spec, source, words)
        if words[0] == "rollback":
            raise KeyboardInterrupt

    monkeypatch.setattr(delivery, "_step", ended)
    with pytest.raises(KeyboardInterrupt):
        delivery.back(home, spec, "too slow")
    assert champion(home) == 3
    assert in_force(home) == "two"
    assert (
        run_records.newest(database.connect(home), "taxi", 1)[0]
        .summary["put_back"]
        .endswith("and so is model version 3")
    )


def test_a_delivery_that_is_ended_ends_its_training_and_puts_back(home, said, tree):
    delivery.deliver(home, spec, tree("one"), "one", "delivered", trial=False)
    process = subprocess.Popen(
        [Path(sys.executable).parent / "evergreen", "deliver", tree("slow"), "--to", str(home.home)],
        env=os.environ | {"EVERGREEN_HOME": str(home.home)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    eventually(lambda: any(line.startswith("slow train") for line in said()), 60)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    time.sleep(4)
    assert said()[-2:] == ["one featurize --model taxi", "one deploy"]
    newest = run_records.newest(database.connect(home), "taxi", 1)[0]
    assert newest.state == "failed"
    assert newest.summary["put_back"] == "version one is in force again"


def test_what_a_killed_delivery_has_left_is_told_by_the_doctor_and_by_the_next_one(home, said, tree, promote):
    def told():
        return [one for one in doctor.examine(home, spec) if one.part == "delivery"]

    promote(1)
    delivery.deliver(home, spec, tree("one"), "one", "delivered", trial=False)
    process = subprocess.Popen(
        [Path(sys.executable).parent / "evergreen", "deliver", tree("slow"), "--to", str(home.home)],
        env=os.environ | {"EVERGREEN_HOME": str(home.home)},
    )
    eventually(lambda: any(line.startswith("slow train") for line in said()), 60)
    assert not told()  # it is under way
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for member in family:
        member.kill()
    (found,) = told()
    assert (found.state, found.found) == ("warning", "the delivery of slow was killed")
    promote(2)  # as its training has, which a kill alone does not end
    (found,) = told()
    left = "the delivery of slow was killed, and version 2 has become the champion in place of version 1 since"
    assert (found.found, found.mend.rpartition("; ")[2]) == (left, "`evergreen rollback` takes that back")
    with pytest.raises(RefusedError, match=f"nothing was changed; {left}; `evergreen rollback`"):
        delivery.deliver(home, spec, str(home.home), "none", "no source tree")
    assert delivery.deliver(home, spec, tree("one"), "one", "delivered")["left_over"].startswith(left)
    assert not told()


def test_a_delivery_beside_another_waits_and_says_so_in_the_end(home, said, tree, monkeypatch):
    monkeypatch.setattr(delivery, "STEP_SECONDS", 0.1)
    with delivery.FileLock(home.home / "delivery.lock"), pytest.raises(ConflictError, match="another delivery"):
        delivery.deliver(home, spec, tree("one"), "one", "delivered", trial=False)
    assert not said()


def test_an_image_that_cannot_be_pulled_is_told_with_the_reason(home, tmp_path, monkeypatch):
    client = tmp_path / "docker"
    lines = "docker: pull access denied for acme/train\n\nRun 'docker run --help' for more information"
    client.write_text(f'#!/bin/sh\necho "{lines}" >&2\nexit 125\n')
    client.chmod(0o755)
    monkeypatch.setenv("EVERGREEN_DOCKER", str(client))
    with pytest.raises(RefusedError, match="pull access denied for acme/train; nothing was changed"):
        delivery.deliver(home, spec, "acme/train:1", "one", "delivered")
