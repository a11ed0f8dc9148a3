"""Adoption as texts and as git's own objects: what is replaced, what is kept, what is never touched."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from research_parts import git
from training_parts import TESTS

from flows.errors import RefusedError
from flows.lookup import load_model
from flows.settings import Settings
from flows.steps.research import change
from flows.steps.research.adopting import adopt
from flows.steps.research.logged import Adoptable
from flows.steps.research.merging import merged, with_params
from flows.steps.research.source import take

TAXI = TESTS.parent / "flows" / "models" / "taxi"
OLD = '''"""The researcher's training code."""

import math
from typing import Any

from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingRegressor,
)

SEED = 7


# Trees, because they are quick.
@staticmethod
def build(params: dict[str, Any]) -> Any:
    return HistGradientBoostingRegressor(random_state=SEED, **params)


# What is tried.
def suggest(trial: Any) -> dict[str, Any]:
    return {"alpha": trial.suggest_float("alpha", math.e, 9), "of": ExtraTreesRegressor}
'''
NEW = '''"""The researcher's training code."""

from typing import Any

from sklearn.linear_model import Ridge

SEED = 8


def build(params: dict[str, Any]) -> Ridge:
    """Return a line."""
    return Ridge(random_state=SEED, **params)
'''
JOINED = '''"""The researcher's training code."""

import math
from typing import Any

from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import Ridge

SEED = 8


def build(params: dict[str, Any]) -> Ridge:
    """Return a line."""
    return Ridge(random_state=SEED, **params)


# What is tried.
def suggest(trial: Any) -> dict[str, Any]:
    return {"alpha": trial.suggest_float("alpha", math.e, 9), "of": ExtraTreesRegressor}
'''


def test_the_factory_is_replaced_what_served_it_alone_goes_and_the_rest_is_kept():
    assert merged(OLD, NEW, "acme.taxi:build", {"flows"}) == JOINED
    assert merged(JOINED, NEW, "acme.taxi:build", {"flows"}) == JOINED
    with pytest.raises(RefusedError, match="defines no make"):
        merged(OLD, NEW, "acme.taxi:make", set())
    with pytest.raises(RefusedError, match=r"imports math from math, the experiment's from flows; rename one"):
        merged(OLD, NEW.replace("from typing", "from flows import math\nfrom typing"), "acme.taxi:build", set())


def test_what_the_experiment_takes_from_the_models_own_module_stands_above_it_there():
    kept = f"{OLD}\n\nclass Own(ExtraTreesRegressor):\n    pass\n"
    code = NEW.replace("from sklearn.linear_model import Ridge", "from acme.taxi import Own").replace("Ridge", "Own")
    text = merged(kept, code, "acme.taxi:build", {"acme"})
    assert "from acme.taxi" not in text
    assert text.index("class Own(") < text.index("def build(params: dict[str, Any]) -> Own")
    assert "# Trees" not in text
    with pytest.raises(RefusedError, match=r"acme\.taxi defines no Own"):
        merged(OLD, code, "acme.taxi:build", {"acme"})


def test_the_specs_parameters_are_set_in_its_own_literal_or_beside_the_estimator():
    text = (TAXI / "spec.py").read_text()
    was = 'params={"learning_rate": 0.08, "max_iter": 200, "min_samples_leaf": 40},'
    assert with_params(text, {"alpha": 1.5, "words": ["a", "é"]}) == text.replace(
        was, 'params={"alpha": 1.5, "words": ["a", "é"]},'
    )
    long = with_params(text, {f"parameter_{number}": number for number in range(8)})
    assert '    params={\n        "parameter_0": 0,\n' in long
    without = text.replace(f"    {was}\n", "")
    beside = 'estimator="flows.models.taxi.estimator:build",\n'
    assert with_params(without, {"a": 1}) == without.replace(beside, beside + '    params={"a": 1},\n')
    assert with_params(text.replace(was, "params=PARAMS,"), {"a": 1}) is None
    assert with_params("spec = taxi.model_copy()", {"a": 1}) is None


def test_what_is_written_looks_as_ruff_formats_it(tmp_path):
    long = {f"parameter_{number}": [number] * 3 for number in range(8)}
    (tmp_path / "spec.py").write_text(with_params((TAXI / "spec.py").read_text(), long))
    assert (tmp_path / "spec.py").read_text().count("parameter_") == 8
    (tmp_path / "estimator.py").write_text(
        merged((TAXI / "estimator.py").read_text(), NEW, "acme.taxi:build", {"flows"})
    )
    config = str(TESTS.parent / "pyproject.toml")
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", config, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


@pytest.fixture
def tree(tmp_path):
    """Return a repository with one committed file, and other work under way."""
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "code.py").write_text("one = 1\n")
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    git(tmp_path, "config", "user.name", "Ada")
    git(tmp_path, "config", "user.email", "ada@acme.example")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "One")
    (tmp_path / "a b" / "code.py").write_text("one = 0\n")
    (tmp_path / "staged.py").write_text("")
    git(tmp_path, "add", "staged.py")
    return tmp_path


def test_a_commit_is_made_on_a_branch_and_nothing_else_moves(tree):
    file = tree / "a b" / "code.py"
    repository = change.repository(file)
    assert repository.text(file) == "one = 1\n"
    seen = git(tree, "status", "--porcelain"), git(tree, "rev-parse", "HEAD"), file.read_text()
    commit = repository.commit({file: "one = 2\n"}, "try/two", "Two\n\nBecause.\n")
    assert (git(tree, "status", "--porcelain"), git(tree, "rev-parse", "HEAD"), file.read_text()) == seen
    assert git(tree, "show", "try/two:a b/code.py") == "one = 2"
    assert git(tree, "diff", "--name-only", "HEAD", commit) == "a b/code.py"
    assert git(tree, "rev-parse", f"{commit}^") == seen[1]
    assert repository.commit({file: "one = 2\n"}, "try/two", "Two again") == commit
    with pytest.raises(RefusedError, match="try/two is there and holds another change"):
        repository.commit({file: "one = 3\n"}, "try/two", "Three")
    assert git(tree, "rev-parse", "try/two") == commit


def test_where_git_has_not_committed_the_file_a_patch_is_written_that_applies(tree, tmp_path_factory):
    assert change.repository(tree / "staged.py") is None
    folder = tmp_path_factory.mktemp("elsewhere")
    file = folder / "acme" / "code.py"
    file.parent.mkdir()
    file.write_text("one = 1\ntwo = 2")
    patch = change.write_patch(
        {file: "one = 1\ntwo = 2"}, {file: "one = 1\ntwo = 3\n"}, folder, folder / "change.patch"
    )
    if shutil.which("patch"):
        subprocess.run(["patch", "-p1", "-i", str(patch)], cwd=folder, check=True, capture_output=True)
    else:
        git(folder, "apply", str(patch))
    assert file.read_text() == "one = 1\ntwo = 3\n"
    assert Path(patch).read_text().startswith("--- a/acme/code.py")


@pytest.fixture
def unversioned(tmp_path, monkeypatch):
    """Return the folder of a package with the taxi model that is in no repository, and the settings that name it."""
    model = tmp_path / "src" / "plain" / "taxi"
    model.mkdir(parents=True)
    spec = (TAXI / "spec.py").read_text().replace("flows.models.taxi.estimator", "plain.taxi.estimator")
    (model / "spec.py").write_text(spec)
    (model / "estimator.py").write_text((TAXI / "estimator.py").read_text())
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    yield tmp_path / "src", Settings(home=tmp_path / "home", model_packages=("plain",))
    for name in [one for one in sys.modules if one.partition(".")[0] == "plain"]:
        del sys.modules[name]


def test_adoption_outside_of_git_is_a_patch_of_code_and_parameters(unversioned):
    root, settings = unversioned
    spec = load_model("taxi", settings)
    found = Adoptable(model="taxi", name="Ridge", code=NEW, params={"alpha": 2}, verdict="rmse 4")
    made = adopt(settings, spec, "ab" * 16, found)
    assert (made.branch, made.commit, made.repository) == (None, None, str(root))
    assert made.files == ("plain/taxi/estimator.py", "plain/taxi/spec.py")
    assert (root / "plain/taxi/estimator.py").read_text() == (TAXI / "estimator.py").read_text()
    git(root, "apply", made.patch)
    assert "return Ridge(random_state=SEED, **params)" in (root / "plain/taxi/estimator.py").read_text()
    assert 'params={"alpha": 2},' in (root / "plain/taxi/spec.py").read_text()


def test_what_the_code_imports_must_be_committed_as_it_was_measured(unversioned):
    root, settings = unversioned
    git(root, "init", "--quiet", "--initial-branch", "main")
    git(root, "config", "user.name", "Ada")
    git(root, "config", "user.email", "ada@acme.example")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "The taxi model")
    parts = root / "plain" / "taxi" / "parts.py"
    parts.write_text("from sklearn.linear_model import Ridge\n\n\nclass Own(Ridge):\n    pass\n")
    spec = load_model("taxi", settings)
    from plain.taxi.parts import Own

    given = take(spec, Own(alpha=2), None)
    assert "from plain.taxi.parts import Own" in given.code
    found = Adoptable(
        model="taxi", name="Own", code=given.code, params=given.params, verdict="rmse 4", imports=given.imports
    )
    for text in (None, "changed = True\n"):
        if text:
            parts.write_text(text)
            git(root, "add", ".")
            git(root, "commit", "--quiet", "--message", "Parts")
        with pytest.raises(RefusedError, match=r"imports plain\.taxi\.parts, which is not committed as it was"):
            adopt(settings, spec, "ab" * 16, found)
    parts.write_text("from sklearn.linear_model import Ridge\n\n\nclass Own(Ridge):\n    pass\n")
    git(root, "commit", "--quiet", "--all", "--message", "As it was")
    assert adopt(settings, spec, "ab" * 16, found).commit


def test_code_that_would_import_the_factory_it_replaces_cannot_be_adopted(unversioned):
    root, settings = unversioned
    (root / "plain" / "taxi" / "ideas.py").write_text(
        "from plain.taxi.estimator import build as base\n\n\ndef wrapped(params):\n    return base(params)\n"
    )
    given = take(load_model("taxi", settings), "plain.taxi.ideas:wrapped", None)
    assert given.code is None
    assert "takes build from plain.taxi.estimator, in whose place it would stand" in given.why


def test_adoption_refuses_what_is_the_models_already_a_librarys_or_in_two_places(unversioned, monkeypatch):
    _, settings = unversioned
    spec = load_model("taxi", settings)
    same = take(spec, "plain.taxi.estimator:build", None)
    found = Adoptable(model="taxi", name="build", code=same.code, params=same.params, verdict="rmse 4")
    with pytest.raises(RefusedError, match="is the model's already"):
        adopt(settings, spec, "ab" * 16, found)
    other = spec.model_copy(update={"estimator": "sklearn.linear_model:Ridge"})
    with pytest.raises(RefusedError, match=r"sklearn\.linear_model is no file of yours"):
        adopt(settings, other, "ab" * 16, found)
    apart = spec.model_copy(update={"estimator": "flows.models.taxi.estimator:build"})
    monkeypatch.setattr(sys.modules["plain.taxi.spec"], "spec", apart)
    with pytest.raises(RefusedError, match="the spec, lies outside of"):
        adopt(settings, apart, "ab" * 16, found.model_copy(update={"params": {"alpha": 2}}))
