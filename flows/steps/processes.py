"""Processes of our own: a free port for them, their end, children included, and whose they are."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import subprocess
import sys
from typing import NoReturn

SLACK_SECONDS = 5.0  # a process is older than the first record of it; clocks are not that exact


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lives(pid: int, since: float) -> bool:
    """Say whether the process still lives that had a number at a time, in seconds of the epoch; it may be another's by now."""
    import psutil

    try:
        process = psutil.Process(pid)
        return bool(process.create_time() <= since + SLACK_SECONDS and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def stop(process: subprocess.Popen[bytes], patience: float = 8.0) -> None:
    """End a process that this one started, and all its children: asked first, killed after ``patience`` seconds."""
    end(process.pid, patience)
    process.wait()


def end(pid: int, patience: float = 8.0) -> None:
    """End a process and all its children: asked first, killed after ``patience`` seconds."""
    import psutil

    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=patience)
    for member in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


def leave(status: int) -> NoReturn:
    """End this process at once and ask its children to end; nothing that libraries do at the end of a process is waited for."""
    import psutil

    for member in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def person() -> str:
    """Return the name of the user whose process this is, or ``unknown`` where the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user has no name
        return "unknown"
