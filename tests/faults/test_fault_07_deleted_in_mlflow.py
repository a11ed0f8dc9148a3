"""Fault 7: somebody deletes the champion, or the version that a rollback leads to, in MLflow or on disk.

MLflow drops the alias with the version and says nothing. The service serves on, a rollback works, status says what is
gone and how to mend it.
"""

import re
import shutil
import subprocess

import pytest
from serving_parts import ROW, eventually, home, make_bundle, promote, serving, version_of

from flows import database, ledger
from flows.models.taxi.spec import spec
from flows.steps import lost, promotion, registry, run_log
from flows.steps.lineage import Lineage
from flows.steps.status import status


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An empty MLflow database, which takes seconds to make, and two bundles with their digests."""
    settings = home(tmp_path_factory.mktemp("made"))
    registry.open_client(settings).create_registered_model("taxi")
    folders = {version: settings.home / str(version) for version in (1, 2)}
    return settings.home, {
        version: make_bundle(folder, rows=500 + 100 * version) for version, folder in folders.items()
    }


@pytest.fixture
def place(tmp_path, made):
    """A home with versions 1 and 2 registered in MLflow, promoted one after the other."""
    settings = home(tmp_path / "home", follow_seconds=0.05)
    shutil.copy(made[0] / "mlflow.db", settings.home)
    engine, client = database.connect(settings), registry.open_client(settings)
    for version, digest in made[1].items():
        folder = settings.artifacts / str(version)
        shutil.copytree(made[0] / str(version), folder)
        client.create_model_version("taxi", source=str(folder), tags={registry.DIGEST: digest})
        client.set_registered_model_alias("taxi", registry.CHAMPION, str(version))
        promote(engine, folder, digest, version)
    yield settings, engine, client
    engine.dispose()


def test_nothing_is_told_while_all_is_there(place):
    settings, engine, _ = place
    assert lost.problems(settings, spec, engine) == []


def test_a_champion_that_is_deleted_in_mlflow_serves_on_and_status_tells(place):
    settings, engine, client = place
    with serving(settings) as service:
        eventually(lambda: version_of(service) == 2)
        client.delete_model_version("taxi", "2")
        assert client.get_registered_model("taxi").aliases == {}
        (problem,) = status(settings, spec, engine)["problems"]
        assert problem.startswith("version 2, the champion, was deleted in MLflow")
        assert "evergreen train --force" in problem
        assert service.post("/predict", json=ROW).json()["version"] == 2
    with serving(settings) as service:  # also after a new start
        eventually(lambda: version_of(service) == 2)
        assert service.get("/readyz").json()["error"] is None


def test_a_rollback_to_a_version_that_is_deleted_in_mlflow_works_and_is_told_before(place):
    settings, engine, client = place
    client.delete_model_version("taxi", "1")
    (problem,) = status(settings, spec, engine)["problems"]
    assert problem.startswith("version 1, the rollback target, was deleted in MLflow")
    with serving(settings) as service:
        eventually(lambda: version_of(service) == 2)
        promotion.roll_back(settings, spec, engine, "tests", "why not")
        eventually(lambda: version_of(service) == 1)


def test_files_that_are_deleted_come_back_from_the_services_copy_by_the_command_that_status_tells(place):
    settings, engine, _ = place
    with serving(settings) as service:
        eventually(lambda: version_of(service) == 2)
    shutil.rmtree(settings.artifacts / "2")
    (problem,) = status(settings, spec, engine)["problems"]
    assert "version 2, the champion, has lost its files" in problem
    with serving(settings) as service:
        eventually(lambda: version_of(service) == 2)
        assert service.post("/predict", json=ROW).json()["version"] == 2
    command = re.search("`(.*)`", problem)[1]
    subprocess.run(["sh", "-c", command], check=True)
    assert status(settings, spec, engine)["problems"] == []
    assert promotion.load_bundle(settings.artifacts / "2", promotion.ledger.champion(engine, "taxi").digest)


def test_files_without_a_copy_are_told_as_lost(place):
    settings, engine, _ = place
    shutil.rmtree(settings.artifacts / "1")
    (problem,) = lost.problems(settings, spec, engine)
    assert "version 1, the rollback target, has lost its files" in problem
    assert "there is no copy" in problem


def test_a_model_that_is_deleted_whole_in_mlflow_gives_no_number_again(place, tmp_path):
    settings, engine, client = place
    run = client.create_run(run_log.experiment_of(client, settings, "taxi")).info.run_id
    lineage = Lineage.model_construct(fingerprint="f", reason="again")
    client.delete_registered_model("taxi")
    found = status(settings, spec, engine)
    assert found["alias"] == (
        "the alias `champion` of taxi names nothing: MLflow has not the version 2 that the ledger promoted"
    )
    above = ledger.highest_version(engine, "taxi")
    made = registry.register(settings, spec, lineage, run, "", str(tmp_path), "d", above)
    assert made.version == 3
    assert registry.register(settings, spec, lineage, run, "", str(tmp_path), "d", 3) == made
    assert [one.version for one in registry.versions(settings, "taxi")] == [3]
    assert status(settings, spec, engine)["challenger"] == {"version": 3}


def test_the_alias_never_names_a_version_of_somebody_else_under_the_champions_number(place, tmp_path):
    settings, engine, client = place
    client.delete_registered_model("taxi")
    client.create_registered_model("taxi")
    for _ in range(2):
        client.create_model_version("taxi", source=str(tmp_path))
    client.set_registered_model_alias("taxi", registry.CHALLENGER, "1")
    found = status(settings, spec, engine)
    assert "names nothing" in found["alias"]
    assert found["challenger"] is None
    assert client.get_registered_model("taxi").aliases == {registry.CHALLENGER: 1}


def test_an_experiment_that_is_deleted_in_mlflow_is_there_again_for_the_next_training(place):
    settings, _, client = place
    made = run_log.experiment_of(client, settings, "taxi")
    run = client.create_run(made).info.run_id
    client.delete_experiment(made)
    assert run_log.experiment_of(client, settings, "taxi") == made
    assert client.create_run(made)
    assert client.get_run(run).info.lifecycle_stage == "active"
