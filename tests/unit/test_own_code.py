"""The hash of the code behind a stage: it follows what is imported from us, and nothing else."""

import sys

import pytest

from flows.lookup import load_model
from flows.settings import Settings
from flows.steps import lineage
from flows.steps.git import git
from flows.steps.own_code import code_hash, own_files


@pytest.fixture
def team(tmp_path, monkeypatch):
    """A package of a team: an estimator that imports a helper within its function, and a file that nobody imports."""
    package = tmp_path / "squad"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "estimator.py").write_text(
        "def build(params):\n    from .helper import depth\n    import numpy\n    return depth\n"
    )
    (package / "helper.py").write_text(
        "from squad.deep import value as depth\nraise SystemExit('it must not be run')\n"
    )
    (package / "deep.py").write_text("value = 1\n")
    (package / "unused.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return package


def test_what_is_imported_counts_however_deep_and_nothing_is_run(team):
    assert set(own_files(["squad.estimator"])) == {"squad", "squad.estimator", "squad.helper", "squad.deep"}
    assert "squad" not in sys.modules or "squad.helper" not in sys.modules
    before = code_hash(["squad.estimator"])
    (team / "unused.py").write_text("value = 2\n")
    assert code_hash(["squad.estimator"]) == before
    (team / "deep.py").write_text("value = 2\n")
    assert code_hash(["squad.estimator"]) != before


def test_the_place_of_the_checkout_does_not_count_and_libraries_count_by_their_version(team, tmp_path, monkeypatch):
    before = code_hash(["squad.estimator", "sklearn.tree", "nowhere.at_all"])
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    team.rename(moved / "squad")
    monkeypatch.syspath_prepend(str(moved))
    assert code_hash(["squad.estimator"]) == before


def test_a_version_depends_on_the_store_that_joins_its_features_and_not_on_the_flows_around_it():
    from flows.steps.lineage import MAKERS

    found = own_files(MAKERS)
    assert {"feature_repo.asof", "flows.spec", "flows.steps.metrics"} <= set(found)
    assert not [
        name for name in found if name.startswith(("flows.cli", "flows.train", "deployments", "flows.steps.docs"))
    ]


def test_a_module_that_is_not_in_the_commit_makes_the_code_a_changed_one(team, tmp_path, monkeypatch):
    monkeypatch.setattr(lineage, "ROOT", tmp_path)
    spec = load_model("taxi", Settings(home=tmp_path))

    def commit(*names):
        git(tmp_path, "add", *names)
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        assert git(tmp_path, *identity, "commit", "-qm", "x").returncode == 0
        return lineage.code(spec, "squad.estimator:build").changed

    git(tmp_path, "init", "-q")
    assert commit("squad/__init__.py", "squad/estimator.py", "squad/helper.py")
    assert not commit("squad/deep.py")
