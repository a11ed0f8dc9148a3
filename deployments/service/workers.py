"""Several processes on one port: the parent holds the listening socket, starts a worker again that died, ends all."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from flows.settings import Settings

BEAT_SECONDS = 0.1
PATIENCE_SECONDS = 5.0  # from asking a worker to end until it is killed
SOON_SECONDS = 5.0  # a worker that ends sooner after its start is not started again at once
log = logging.getLogger("evergreen.service")


def supervise(settings: Settings, model: str, listener: socket.socket, count: int) -> None:
    """Keep ``count`` workers on a listening socket until this process is told to end.

    All accept from one queue: while one is started again, the others answer.
    """
    listener.set_inheritable(True)
    workers = [_start(settings, model, listener, number) for number in range(count)]
    started = [time.monotonic()] * count
    try:
        while True:
            time.sleep(BEAT_SECONDS)
            for number, worker in enumerate(workers):
                if worker.poll() is None:
                    continue
                if time.monotonic() - started[number] < SOON_SECONDS:
                    time.sleep(1.0)
                log.error("worker %d ended with status %s; started again", number, worker.returncode)
                workers[number] = _start(settings, model, listener, number)
                started[number] = time.monotonic()
    finally:
        _end(workers)


def end_with_parent() -> None:
    """Let this process end in order when the one that started it is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _start(settings: Settings, model: str, listener: socket.socket, number: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "deployments.service", "--model", model, "--home", str(settings.home),
        "--worker", str(number), "--socket", str(listener.fileno()),
    ]  # fmt: skip
    return subprocess.Popen(
        command, env=os.environ | settings.environment(), stdin=subprocess.DEVNULL, pass_fds=[listener.fileno()]
    )


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + PATIENCE_SECONDS
    for worker in workers:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
