"""Commands of the stack that end with it, also when it is killed and can end nothing itself."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Any

from honcho.process import Popen, Process

from flows.steps.processes import end

BEAT_SECONDS = 0.5


class Tied(Process):  # type: ignore[misc]  # honcho has no types
    """Honcho's keeper of a command: a process that reads what the command prints, and ends it when the stack is gone."""

    def run(self, *arguments: Any, **keywords: Any) -> None:
        """Start the command and keep it until it ends."""
        os.setsid()  # what kills the stack's process group, or hangs up its terminal, leaves the keeper to its work
        self._child_ctor = _start
        super().run(*arguments, **keywords)


def _start(command: str, **options: Any) -> Any:
    child, stack = Popen(command, **options), os.getppid()

    def watch() -> None:
        while os.getppid() == stack:
            time.sleep(BEAT_SECONDS)
        end(child.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)  # children whose own parent ended before
        os._exit(1)  # nobody is left to read what was printed

    threading.Thread(target=watch, name="stack", daemon=True).start()
    return child
