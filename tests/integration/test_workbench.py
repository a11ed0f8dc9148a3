"""Research on the ground of training: the same rows, gates beside the champion, nothing registered, adoption by a branch."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from research_parts import PACKAGES, cloned, git
from sklearn.ensemble import HistGradientBoostingRegressor
from training_parts import artifact, copy_home, opened, state, trained

from flows import workbench as evergreen
from flows.errors import RefusedError, TamperedError, UsageError
from flows.lookup import load_model
from flows.settings import Settings
from flows.steps import registry
from flows.steps.fitting import make_estimator
from flows.steps.research.experiment import Experiment

NOTEBOOK = Path(__file__).parents[2] / "flows" / "models" / "taxi" / "research.ipynb"
BETTER = {"random_state": 0, "learning_rate": 0.06, "max_iter": 110}


class Ground(NamedTuple):
    """A home with version 1, and the clone of a team's repository that has its model."""

    home: Settings
    clone: Path


class Research(NamedTuple):
    """Two experiments, and the state of the home before them."""

    before: object
    better: Experiment
    worse: Experiment


@pytest.fixture(scope="module")
def ground(tmp_path_factory, simulated_days, prefect_api):
    source = trained(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)
    folder = tmp_path_factory.mktemp("research")
    clone = cloned(folder)
    with opened(folder / "home", prefect_api, PACKAGES) as home, pytest.MonkeyPatch.context() as patch:
        copy_home(source, home)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(clone), os.environ["PYTHONPATH"]]))
        patch.syspath_prepend(str(clone))
        yield Ground(home, clone)
        forget()


@pytest.fixture(scope="module")
def research(ground):
    before = state(ground.home)
    estimator = HistGradientBoostingRegressor(**BETTER)
    better = evergreen.experiment("taxi", estimator, note="more trees")
    assert not hasattr(estimator, "n_iter_")  # a copy was fitted
    worse = evergreen.experiment("taxi", lambda _params: HistGradientBoostingRegressor(random_state=0, max_iter=2))
    return Research(before, better, worse)


@pytest.fixture
def reviewed(ground, tmp_path, monkeypatch):
    """Return what checks out a branch of the team's repository, as a reviewer does, and imports its model from there."""

    def check_out(branch):
        folder = tmp_path / "reviewed"
        git(tmp_path, "clone", "--quiet", "--branch", branch, str(ground.clone), str(folder))
        monkeypatch.syspath_prepend(str(folder))
        forget()
        return folder

    yield check_out
    forget()


def artifact_text(home: Settings, run_id: str) -> str:
    import mlflow

    return mlflow.artifacts.load_text(f"{registry.open_client(home).get_run(run_id).info.artifact_uri}/estimator.py")


def forget() -> None:
    """Forget the team's modules, so that another checkout of them is imported."""
    for name in [one for one in sys.modules if one.partition(".")[0] == "acme"]:
        del sys.modules[name]


def test_the_training_set_is_the_one_that_training_built(ground):
    lineage = artifact(ground.home, registry.get_version(ground.home, "taxi", 1).run_id, "lineage.json")
    rows = evergreen.training_set("taxi")
    assert rows.attrs["digest"] == lineage["training_set_sha256"]
    assert rows["part"].value_counts().to_dict() == {"train": lineage["train_rows"], "judge": lineage["judge_rows"]}
    assert rows.attrs["features"] == lineage["features"]
    assert {str(kind) for kind in rows[lineage["features"]].dtypes} == {"float64"}


def test_experiments_are_judged_by_the_gates_beside_the_champion_and_register_nothing(ground, research):
    better, worse = research.better, research.worse
    assert {"champion", "slices"} <= set(worse.failed)
    assert (better.passed, better.champion_version, worse.champion_version) == (True, 1, 1)
    assert better.champion_error == worse.champion_error < worse.error
    assert better.error < worse.error
    assert "passes every gate" in repr(better)
    assert "refused by" in worse._repr_html_()
    assert better.run_id in better._repr_html_()
    assert state(ground.home) == research.before

    client = registry.open_client(ground.home)
    experiment = client.get_experiment_by_name("taxi-research").experiment_id
    assert {run.info.run_id for run in client.search_runs([experiment])} == {worse.run_id, better.run_id}
    assert client.get_run(worse.run_id).data.tags["evergreen.failed_gates"] == ", ".join(worse.failed)
    logged = artifact(ground.home, better.run_id, registry.EVIDENCE)
    assert [gate["passed"] for gate in logged["gates"]] == [True] * 8
    assert logged["error"] == better.error


def test_more_days_that_judge_are_rows_that_the_champion_was_fitted_on(ground, research):
    found = evergreen.experiment("taxi", HistGradientBoostingRegressor(**BETTER), judge_days=3)
    assert research.better.champion_knew == 0.0
    assert found.champion_knew == pytest.approx(1 / 3, abs=0.05)  # days differ in trips
    (champion,) = (gate for gate in found.gates if gate.gate == "champion")
    assert "of the rows are no newer than those that version 1 was fitted on" in champion.reason


def test_the_better_one_is_adopted_on_a_branch_beside_uncommitted_work(ground, research, reviewed):
    better, clone = research.better, ground.clone
    file = clone / "acme" / "taxi" / "estimator.py"
    kept = file.read_text()
    file.write_text(f"# half a thought\n{kept}")
    seen = git(clone, "status", "--porcelain"), git(clone, "rev-parse", "HEAD")
    adopted = evergreen.adopt(better.run_id, branch="tried")
    assert evergreen.adopt(better.run_id, branch="tried") == adopted
    assert adopted.files == ("acme/taxi/estimator.py", "acme/taxi/spec.py")
    assert (git(clone, "status", "--porcelain"), git(clone, "rev-parse", "HEAD")) == seen
    assert file.read_text().startswith("# half a thought")
    file.write_text(kept)
    assert better.verdict in git(clone, "show", "--no-patch", "--format=%B", adopted.commit)
    assert state(ground.home) == research.before

    folder = reviewed(adopted.branch)
    spec = load_model("taxi", ground.home)
    assert repr(make_estimator(spec.estimator, spec.params)) == repr(HistGradientBoostingRegressor(**BETTER))
    assert Path(sys.modules["acme.taxi.estimator"].__file__).is_relative_to(folder)


def test_what_cannot_be_adopted_is_refused_in_one_line(ground, research):
    branches = git(ground.clone, "branch", "--list")
    training = registry.get_version(ground.home, "taxi", 1).run_id
    better, worse = research.better.run_id, research.worse.run_id
    for run_id, model, reason in (
        (worse, None, "a lambda has no source of its own"),
        (training, None, "no experiment of the workbench"),
        ("0" * 32, None, "no run of an experiment"),
        (better, "bike", "an experiment of taxi, not of bike"),
    ):
        with pytest.raises(RefusedError, match=reason) as refused:
            evergreen.adopt(run_id, model=model)
        assert "\n" not in str(refused.value)
    with pytest.raises(UsageError, match="no name of a branch"):
        evergreen.adopt(better, branch="a..b")
    client = registry.open_client(ground.home)
    logged = artifact_text(ground.home, better)
    client.log_text(better, "import os\n\n\ndef build(params):\n    return os.system\n", "estimator.py")
    with pytest.raises(TamperedError, match="not what was logged"):
        evergreen.adopt(better)
    client.log_text(better, logged, "estimator.py")
    assert git(ground.clone, "branch", "--list") == branches


def test_features_are_found_by_name_tag_and_owner_with_users_and_figures(ground):
    found = evergreen.features("taxi", search="route", tag="domain=mobility", owner="MOBILITY")
    assert set(found["view"]) == {"route"}
    assert set(found["models"]) == {"taxi"}
    assert set(found["services"]) == {"taxi_duration_v1"}
    assert (found["keys"] == "PULocationID, DOLocationID").all()
    held = found.loc["route_minutes_mean_28d"]
    assert held["count"] > 0
    assert held["min"] <= held["q05"] <= held["q50"] <= held["q95"] <= held["max"]
    assert held["min"] <= held["mean"] <= held["max"]
    assert evergreen.features("taxi")["count"].isna().sum() == 4  # computed at request
    for nothing in ({"search": "weather"}, {"tag": "domain=retail"}, {"owner": "nobody"}):
        assert evergreen.features(**nothing).empty


def test_the_training_set_of_a_span_is_of_that_span(ground):
    rows = evergreen.training_set("taxi", "2024-01-02", "2024-01-06", judge_days=1, kind="arrow")
    local = [rows["event_timestamp"].to_pandas().dt.tz_convert("America/New_York")]
    days = sorted({f"{day:%m-%d}" for day in local[0]})
    assert days == ["01-02", "01-03", "01-04", "01-05"]
    judges = {f"{day:%m-%d}" for day, part in zip(local[0], rows["part"].to_pylist(), strict=True) if part == "judge"}
    assert judges == {"01-05"}
    with pytest.raises(RefusedError, match="judge the model"):
        evergreen.training_set("taxi", "2024-01-05", "2024-01-06", judge_days=3)
    with pytest.raises(UsageError, match="no time"):
        evergreen.training_set("taxi", "yesterday")


@pytest.mark.long
def test_a_training_with_the_adopted_code_makes_the_version_that_the_experiment_promised(ground, research, reviewed):
    from flows.train import train

    reviewed(evergreen.adopt(research.better.run_id).branch)
    found = train(reason="adopted")
    made = artifact(ground.home, found["run_id"], "lineage.json")
    assert (made["estimator"], made["params"]) == ("acme.taxi.estimator:build", BETTER)
    assert (found["promoted"], found["champion_version"], found["error"]) == (True, 1, research.better.error)


@pytest.mark.long
def test_the_example_notebook_runs_and_holds_no_outputs(trained_home, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    clone, before = cloned(tmp_path), state(trained_home)
    monkeypatch.setenv("EVERGREEN_MODEL_PACKAGES", PACKAGES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(clone), os.environ["PYTHONPATH"]]))
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in shown if output.output_type in ("error", "stream")]
    assert any("passes every gate" in output.get("data", {}).get("text/html", "") for output in shown)
    assert any(output.get("data", {}).get("image/png") for output in shown)
    assert state(trained_home) == before
    (branch,) = git(clone, "branch", "--list", "adopt-*").split()
    assert "def build" in git(clone, "show", f"{branch}:acme/taxi/estimator.py")
