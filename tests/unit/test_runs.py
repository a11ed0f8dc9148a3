"""What is known of a run elsewhere: nothing, soon, where the server does not answer."""

import socket
import time
import uuid

from flows import runs


def test_a_server_that_hangs_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(runs, "LOOK_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        assert runs._in_prefect(str(uuid.uuid4()), f"http://127.0.0.1:{silent.getsockname()[1]}/api") == []
    assert time.monotonic() - begun < 60  # Prefect's own time-out, of which it makes several attempts
