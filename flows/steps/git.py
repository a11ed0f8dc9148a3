"""Git, by its own program."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from flows.errors import UnavailableError

TIMEOUT_SECONDS = 60


def git(folder: Path, *arguments: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run git in a folder, whatever repository a hook that calls us has named; raises UnavailableError if it hangs,
    FileNotFoundError where there is no git."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or "_NAME" in name or "_EMAIL" in name
    }
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],  # noqa: S607 (the git of the PATH is the user's)
            input=text, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False, encoding="utf-8",
            env=inherited | {"GIT_TERMINAL_PROMPT": "0"} | environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(
            f"git {arguments[0]} in {folder} took over {TIMEOUT_SECONDS} s; look what holds it"
        ) from error
