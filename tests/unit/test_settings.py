"""Settings that cannot be right are told in one line, and nothing is guessed in their place."""

import re

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

from flows.cli_error import told
from flows.errors import UsageError
from flows.settings import Settings


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HOME", "", "setting EVERGREEN_HOME: it names no folder"),
        ("HOME", "/tmp/a?b", r".* has a \? or % in it"),
        ("HOME", "/tmp/a%20b", r".* has a \? or % in it"),
        ("HOME", "/tmp/a[1]", r".* has a \* or \[ in it"),
        ("HOME", "/tmp/a*", r".* has a \* or \[ in it"),
        ("LEDGER_URL", "bogus", r"setting EVERGREEN_LEDGER_URL: it is not of the form postgresql\+psycopg://"),
        ("LEDGER_URL", "mysql://who:secret@x/y", "setting EVERGREEN_LEDGER_URL: it is not of the form"),
        ("FEATURE_REGISTRY_URL", "zzz", "setting EVERGREEN_FEATURE_REGISTRY_URL: it is not of the form"),
        ("MODEL_PACKAGES", "foo", "setting EVERGREEN_MODEL_PACKAGES: it is no list in JSON"),
        ("TRUSTED_TYPES", "x", "setting EVERGREEN_TRUSTED_TYPES: it is no list in JSON"),
        ("SERVICE_PORT", "many", "setting EVERGREEN_SERVICE_PORT: "),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_is_not_taken(monkeypatch, name, value, words):
    monkeypatch.setenv(f"EVERGREEN_{name}", value)
    with pytest.raises((ValidationError, SettingsError)) as refused:
        Settings()
    line, status = told(refused.value)
    assert status == 2
    assert re.match(f".*{words}", line)
    assert "secret" not in line
    assert "\n" not in line


def test_secrets_whose_folder_is_not_there_are_not_passed_over(monkeypatch, tmp_path):
    monkeypatch.setenv("EVERGREEN_SECRETS_DIR", str(tmp_path))
    (tmp_path / "EVERGREEN_SERVICE_API_KEY").write_text("a key")
    assert Settings().service_api_key.get_secret_value() == "a key"
    monkeypatch.setenv("EVERGREEN_SECRETS_DIR", str(tmp_path / "typo"))
    with pytest.raises(UsageError, match=r"names .*typo, which is no folder"):
        Settings()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "the disk is full"),
        (OSError(30, "Read-only file system", "/home/ledger.lock"), "a file may not be read or written"),
        (PermissionError(13, "Permission denied", "/home/ledger.lock"), "a file may not be read or written"),
        (
            RuntimeError("(sqlite3.OperationalError) attempt to write a readonly database"),
            "a file may not be read or written",
        ),
        (
            RuntimeError("(sqlite3.OperationalError) database is locked"),
            "a database of the home was held by another process",
        ),
        (RuntimeError("(sqlite3.OperationalError) disk I/O error"), "a database could not be read or written"),
        (RuntimeError("(sqlite3.DatabaseError) file is not a database"), "a database of the home is damaged"),
        (RuntimeError("Invalid Input Error: No magic bytes found at end of file 'x'"), "a file of the home is damaged"),
        (RuntimeError("else\nand more"), "unforeseen RuntimeError: else"),
    ],
)
def test_what_has_one_cause_is_told_by_it(error, words):
    line, status = told(error)
    assert line.startswith(words)
    assert status == 1
    assert "\n" not in line
