"""The setting that names a Spark cluster: what it takes, and what is said where its parts are missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from flows.errors import UnavailableError
from flows.settings import Settings
from flows.steps import spark


@pytest.mark.parametrize("url", ["", "spark://master:7077", "spark://10.0.0.1:7077,standby.example.org:7077"])
def test_addresses_of_standalone_masters_are_taken(tmp_path: Path, url: str) -> None:
    assert Settings(home=tmp_path, compute_url=url).compute_url == url


@pytest.mark.parametrize("url", ["spark://master", "local[2]", "https://master:7077", "spark://user:word@master:7077"])
def test_anything_else_is_refused_without_repeating_it(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValidationError, match="spark://HOST:PORT") as refusal:
        Settings(home=tmp_path, compute_url=url)
    assert url not in str(refusal.value)


def test_a_home_of_its_own_uses_no_cluster(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, compute_url="spark://master:7077")
    assert settings.apart(tmp_path / "other").compute_url == ""


def test_without_pyspark_the_mend_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark, "find_spec", lambda _: None)
    with pytest.raises(UnavailableError, match="uv sync --extra spark"):
        spark.session(Settings(home=tmp_path, compute_url="spark://127.0.0.1:7077"))
