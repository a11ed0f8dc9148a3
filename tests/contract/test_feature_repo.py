"""The feature repository as Feast's own command line sees it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from feast.repo_config import load_repo_config

from flows.errors import ContractError
from flows.models.taxi.spec import spec
from flows.settings import Settings
from flows.steps import feature_store

REPO = Path(__file__).resolve().parents[2] / "feature_repo"


def test_the_yaml_says_what_the_settings_say(home: Settings) -> None:
    ours = feature_store.open_store(home).config.model_dump(exclude={"repo_path"})
    theirs = load_repo_config(REPO, REPO / "feature_store.yaml").model_dump(exclude={"repo_path"})
    assert theirs == ours


def test_what_the_spec_names_must_be_there(home: Settings) -> None:
    triggers = spec.triggers.model_copy(update={"drift_columns": ("hour", "distnace_miles", "label", "prediction")})
    for change, words in (
        ({"slices": ("weekday", "rush")}, "taxi: slices names 'rush', and there is .*rush_hour"),
        ({"triggers": triggers}, "taxi: triggers.drift_columns names 'distnace_miles', and there is .*distance_miles"),
        ({"entities": {**spec.entities, "rout": ("zone",)}}, "taxi: entities names 'rout', which is not registered"),
        ({"key": ("id",)}, r"must return a column 'id' \(key\)"),
    ):
        with pytest.raises(ContractError, match=words):
            feature_store.apply_definitions(home, spec.model_copy(update=change))
    feature_store.check_names(feature_store.open_store(home), spec)


def test_feasts_command_line_lists_what_the_flows_applied(home: Settings) -> None:
    feature_store.apply_definitions(home, spec)
    call = [str(Path(sys.executable).with_name("feast")), "-c", str(REPO), "feature-services", "list"]
    done = subprocess.run(
        call,
        env=os.environ | {"EVERGREEN_HOME": str(home.home)},
        cwd=REPO.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert spec.feature_service in done.stdout, done.stderr
