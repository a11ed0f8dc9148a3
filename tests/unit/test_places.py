"""Places: each has its own servers, whatever place the shell was set up for."""

import os

import pytest

from deployments import places
from flows.errors import UsageError
from flows.settings import SERVERS

URLS = {
    "LEDGER_URL": "postgresql+psycopg://u:p@127.0.0.1:1/ledger",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:2",
    "FEATURE_REGISTRY_URL": "postgresql+psycopg://u:p@127.0.0.1:1/feast",
    "ONLINE_STORE_URL": "redis://127.0.0.1:3/1",
    "STORAGE_URL": "s3://staging/store",
}


@pytest.fixture
def shell(monkeypatch, tmp_path):
    """Be in a shell that was set up for another place's servers."""
    for name in [name for name in os.environ if name.startswith(("EVERGREEN_", "PREFECT_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_HOME", "PREFECT_API_URL"):
        monkeypatch.setenv(name, "another place's")
    monkeypatch.setenv("EVERGREEN_PROFILE", "team")
    for name, url in URLS.items():
        monkeypatch.setenv(f"EVERGREEN_{name}", url)
    monkeypatch.setenv("EVERGREEN_PROD_HOME", str(tmp_path / "prod"))
    with monkeypatch.context() as context:
        context.setattr(os, "environ", os.environ.copy())
        yield context


def servers(settings):
    return {name: getattr(settings, name) for name in SERVERS}


@pytest.mark.parametrize("kind", ["by name", "by folder"])
def test_a_place_without_servers_takes_none_of_the_shells(shell, tmp_path, kind):
    (tmp_path / "prod").mkdir()
    place = "prod" if kind == "by name" else str(tmp_path / "prod")
    for settings in (places.settings_of(place), places.enter(place)):
        assert settings.home == tmp_path / "prod"
        assert servers(settings) == dict.fromkeys(SERVERS, "")
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path / 'prod' / 'mlflow.db'}"
    # What a child of this process reads.
    assert servers(type(settings)()) == dict.fromkeys(SERVERS, "")


def test_a_place_has_the_servers_that_it_names(shell, tmp_path):
    mine = {name: url.replace("staging", "prod").replace("127.0.0.1", "10.0.0.1") for name, url in URLS.items()}
    for name, url in mine.items():
        shell.setitem(os.environ, f"EVERGREEN_PROD_{name}", url)
    shell.setitem(os.environ, "EVERGREEN_PROD_PROFILE", "team")
    settings = places.enter("prod")
    assert settings.profile == "team"
    assert servers(settings) == {name.lower(): url for name, url in mine.items()}
    assert servers(type(settings)()) == servers(settings)


def test_what_is_no_place_is_told(shell):
    with pytest.raises(UsageError, match=r"neither a place \(local, prod, staging\)"):
        places.settings_of("nowhere")
