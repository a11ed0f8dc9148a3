"""The profile of a team: whole or refused, secrets from files, and never shown."""

import pytest
from pydantic import ValidationError

from flows.secret import shown
from flows.settings import Settings

WORD = "s3cret-word"
TEAM = {
    "EVERGREEN_LEDGER_URL": f"postgresql+psycopg://evergreen:{WORD}@db:5432/evergreen",
    "EVERGREEN_MLFLOW_TRACKING_URI": "http://mlflow:5000",
    "EVERGREEN_FEATURE_REGISTRY_URL": f"postgresql://evergreen:{WORD}@db:5432/feast",
    "EVERGREEN_ONLINE_STORE_URL": f"redis://:{WORD}@redis:6379/0",
    "EVERGREEN_STORAGE_URL": "s3://evergreen/prod/",
}


@pytest.fixture
def team(monkeypatch, tmp_path):
    for name, value in {**TEAM, "EVERGREEN_PROFILE": "team", "EVERGREEN_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_the_team_profile_is_read_from_the_environment(team):
    settings = Settings()
    assert (settings.profile, settings.storage_url) == ("team", "s3://evergreen/prod")
    assert settings.ledger == TEAM["EVERGREEN_LEDGER_URL"]


@pytest.mark.parametrize("name", TEAM)
def test_a_part_that_would_stay_on_this_machine_is_named_and_refused(team, name):
    team.delenv(name)
    with pytest.raises(ValidationError, match=name):
        Settings()


@pytest.mark.parametrize(
    ("name", "value"), [("STORAGE_URL", "/somewhere"), ("STORAGE_URL", "s3://"), ("ONLINE_STORE_URL", f"{WORD}:6379")]
)
def test_an_address_of_another_form_is_refused_without_being_repeated(monkeypatch, name, value):
    monkeypatch.setenv(f"EVERGREEN_{name}", value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert "not of the form" in str(refused.value)
    assert WORD not in str(refused.value)


def test_secrets_come_from_files_and_the_environment_goes_before_them(team, tmp_path):
    folder = tmp_path / "secrets"
    folder.mkdir()
    team.setenv("EVERGREEN_SECRETS_DIR", str(folder))
    team.delenv("EVERGREEN_LEDGER_URL")
    for name in ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY"):
        team.delenv(name, raising=False)
    (folder / "EVERGREEN_LEDGER_URL").write_text("postgresql://from-a-file/evergreen\n")
    (folder / "EVERGREEN_ONLINE_STORE_URL").write_text("redis://from-a-file")
    (folder / "MLFLOW_TRACKING_PASSWORD").write_text(f"{WORD}\n")
    (folder / "AWS_SECRET_ACCESS_KEY").write_text("file")
    team.setenv("AWS_SECRET_ACCESS_KEY", "environment")
    settings = Settings()
    assert settings.ledger_url == "postgresql://from-a-file/evergreen"
    assert settings.online_store_url == TEAM["EVERGREEN_ONLINE_STORE_URL"]
    assert settings.environment()["MLFLOW_TRACKING_PASSWORD"] == WORD
    assert "AWS_SECRET_ACCESS_KEY" not in settings.environment()


def test_no_secret_is_in_what_settings_look_like_or_in_a_url_that_is_shown(team):
    settings = Settings()
    assert WORD not in repr(settings) + str(settings)
    assert shown(settings.ledger_url) == "postgresql+psycopg://db:5432/evergreen"
    assert shown(settings.online_store_url) == "redis://redis:6379/0"
