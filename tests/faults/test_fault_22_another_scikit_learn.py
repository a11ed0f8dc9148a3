"""Fault 22: a model made with another scikit-learn is refused before traffic, by its golden rows."""

import pytest
from serving_parts import (
    ROW,
    archive,
    eventually,
    home,
    make_bundle,
    promote,
    replace_model,
    rewrite,
    serving,
    version_of,
)

from flows import database
from flows.errors import ContractError
from flows.steps.bundle import load_bundle
from flows.steps.probe import probe_bundle


def made_elsewhere(content):
    """Make a manifest say what another scikit-learn, with slightly other predictions, would have written."""
    content["versions"]["scikit-learn"] = "1.5.0"
    content["golden"]["outputs"][7][0] += 1e-4


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "elsewhere"
    make_bundle(folder)
    return folder, rewrite(folder, made_elsewhere)


def test_it_is_refused_with_both_versions_named(bundle):
    with pytest.raises(ContractError, match=r"golden rows differ .* scikit-learn 1\.5\.0 \(here "):
        load_bundle(*bundle)


def test_one_that_cannot_even_be_loaded_is_refused_with_both_versions_named(tmp_path):
    make_bundle(tmp_path)
    replace_model(tmp_path, archive({"schema.json": '{"protocol": 2, "_skops_version": "9", "__loader__": "NewNode"}'}))
    digest = rewrite(tmp_path, made_elsewhere)
    with pytest.raises(ContractError, match=r"cannot be loaded here .* scikit-learn 1\.5\.0 \(here "):
        load_bundle(tmp_path, digest)


def test_another_version_whose_golden_rows_come_out_the_same_is_taken(tmp_path):
    make_bundle(tmp_path)
    digest = rewrite(tmp_path, lambda content: content["versions"].update({"scikit-learn": "1.5.0"}))
    assert load_bundle(tmp_path, digest).manifest.versions["scikit-learn"] == "1.5.0"


def test_the_probe_measures_how_far_off_it_is(bundle, tmp_path):
    probe = probe_bundle(*bundle, home(tmp_path / "home"))
    assert probe.loaded
    assert 1e-9 < probe.difference < 1e-3
    assert "golden rows differ" in probe.problem(1e-9)


def test_it_sees_no_traffic(bundle, tmp_path):
    settings = home(tmp_path / "home", follow_seconds=0.02)
    engine = database.connect(settings)
    promote(engine, tmp_path / "good", make_bundle(tmp_path / "good", rows=700), 1)
    with serving(settings) as client:
        eventually(lambda: version_of(client) == 1)
        promote(engine, *bundle, 2)
        error = eventually(lambda: client.get("/readyz").json()["error"])
        assert "version 2 is refused, version 1 serves on" in error
        assert client.post("/predict", json=ROW).json()["version"] == 1
