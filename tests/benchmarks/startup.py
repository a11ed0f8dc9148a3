"""How long the command line takes to answer ``--help``, beside a bare start of the interpreter."""

from __future__ import annotations

import subprocess
import sys

from flows.steps.bench import Figure, compared
from tests.benchmarks import rounds

LIMIT = 0.4  # seconds


def figures() -> list[Figure]:
    """Return the start of `evergreen --help` and of a command's help."""

    def run(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=60)

    call = "from flows.cli import main; main()"
    ways = {
        "help": lambda: run("-c", call, "--help"),
        "train": lambda: run("-c", call, "train", "--help"),
        "bare": lambda: run("-c", "pass"),
    }
    rounds.seconds(ways, 1)  # reads the files into the cache of the system
    taken = rounds.seconds(ways, 7)
    return [
        compared(name, "python -c pass", taken[way], taken["bare"], at_most=LIMIT)
        for name, way in (("evergreen --help", "help"), ("evergreen train --help", "train"))
    ]
