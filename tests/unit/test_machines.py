"""The setting that names a Dask cluster, what is said where its parts are missing, and the replay that its workers open."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError
from timeline_parts import history

from flows.errors import UnavailableError
from flows.settings import Settings
from flows.steps import machines
from flows.steps.backtest.kept import keep, opened
from flows.steps.processes import free_port


@pytest.mark.parametrize("url", ["", "tcp://scheduler:8786", "tls://10.0.0.1:8786"])
def test_addresses_of_schedulers_are_taken(tmp_path: Path, url: str) -> None:
    settings = Settings(home=tmp_path, dask_url=url)
    assert settings.dask_url == url
    assert settings.apart(tmp_path / "other").dask_url == ""


@pytest.mark.parametrize("url", ["scheduler:8786", "tcp://scheduler", "http://scheduler:8786", "tcp://me:word@host:1"])
def test_anything_else_is_refused_without_repeating_it(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValidationError, match="tcp:// or tls://HOST:PORT") as refusal:
        Settings(home=tmp_path, dask_url=url)
    assert url not in str(refusal.value)


def test_without_the_extra_or_a_scheduler_the_mend_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path, dask_url=f"tcp://127.0.0.1:{free_port()}")
    with monkeypatch.context() as patched:
        patched.setattr(machines, "find_spec", lambda _: None)
        with pytest.raises(UnavailableError, match="uv sync --extra dask"):
            machines.reach(settings)
    monkeypatch.setattr(machines, "find_spec", lambda name: name)
    with pytest.raises(UnavailableError, match=r"^no Dask scheduler answers at tcp://[^\n]*EVERGREEN_DASK_URL away$"):
        machines.reach(settings)


def test_a_replay_is_opened_as_it_was_kept_until_another_takes_its_place(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    first = history(20, lambda number: f"{number % 2}")
    place = keep(settings, first)
    found = opened(settings, place)
    assert found is opened(settings, place)
    assert (found.rows, found.steps, found.partitions) == (first.rows, first.steps, first.partitions)
    assert found.digest == place.digest
    other = keep(settings, history(30, lambda number: f"{number % 3}"))
    assert isinstance(opened(settings, other).rows, pa.Table)
    with pytest.raises(UnavailableError, match=r"is not there any more; run the backtest again$"):
        opened(settings, place)
    assert sorted(path.name for path in settings.backtests("taxi").iterdir()) == ["replay.arrow", "replay.json"]
