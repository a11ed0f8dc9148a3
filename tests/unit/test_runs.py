"""What is known of a run: what it told before, and of others nothing, soon, where the server does not answer."""

import socket
import time
import uuid

import pytest

from flows import database, run_records, runs
from flows.settings import Settings


def test_a_server_that_hangs_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(runs, "LOOK_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        assert runs._in_prefect(str(uuid.uuid4()), f"http://127.0.0.1:{silent.getsockname()[1]}/api") == []
    assert time.monotonic() - begun < 60  # Prefect's own time-out, of which it makes several attempts


def test_a_retry_of_a_run_keeps_what_it_told_before(tmp_path, monkeypatch):
    """A featurization that was killed has written values by the expressions that it told."""
    engine = database.connect(Settings(home=tmp_path))
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(uuid.uuid4()))

    def told() -> dict[str, object]:
        (run,) = run_records.newest(engine, "taxi")
        return run.summary

    def attempt(error: str, noted: dict[str, object]) -> None:
        with runs.recorded(engine, "taxi", "featurize") as run:
            if noted:
                run_records.note(engine, run.id, noted)
                run.summary = noted
            assert told() == {"expressions": {"view": "a"}}
            raise OSError(error)

    for error, noted in (("the disk is full", {"expressions": {"view": "a"}}), ("it still is", {})):
        with pytest.raises(OSError, match=error):
            attempt(error, noted)
        assert told() == {"expressions": {"view": "a"}, "error": f"OSError: {error}", "stages": []}
    with runs.recorded(engine, "taxi", "featurize") as run:
        run.summary = {"ticks": 3}
    assert told() == {"ticks": 3, "stages": []}
