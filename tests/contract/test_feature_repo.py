"""The feature repository as Feast's own command line sees it."""

import os
import subprocess
import sys
from pathlib import Path

from feast.repo_config import load_repo_config

from flows.models.taxi.spec import spec
from flows.settings import Settings
from flows.steps import feature_store

REPO = Path(__file__).resolve().parents[2] / "feature_repo"


def test_the_yaml_says_what_the_settings_say(home: Settings) -> None:
    ours = feature_store.open_store(home).config.model_dump(exclude={"repo_path"})
    theirs = load_repo_config(REPO, REPO / "feature_store.yaml").model_dump(exclude={"repo_path"})
    assert theirs == ours


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
