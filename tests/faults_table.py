"""The table of faults: what Evergreen survives, which tests show it, and how they ended; `make faults` prints it.

A test belongs to the fault whose number its file is named by: ``test_fault_05_two_promoters.py``; in a file of several
faults, to the one that its own name begins with (``test_14_...``), else to all of them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

FOLDER = Path(__file__).parent / "faults"
# What happens, and what must hold.
FAULTS = {
    1: ("worker and flow killed in mid-training", "found crashed within 2 min; a rerun resumes; one version"),
    2: ("SIGTERM of the worker", "it drains, or its run is found crashed; the slot is free"),
    3: ("killed between registering a version and promoting it", "champion unchanged; resumed or cleanly refused"),
    4: ("killed between the ledger's row and MLflow's alias", "the alias is repaired from the ledger; history whole"),
    5: ("two promoters at once, 100 rounds, SQLite and Postgres", "one wins, the other is told; each row fits the one before"),
    6: ("promoting a version whose artifact is missing or altered", "refused, with the reason"),
    7: ("champion or rollback target deleted in MLflow", "told; serves on; how to mend it is said"),
    8: ("ledger and model files away at the service's start, and later", "last good model, or not ready; serves on"),
    9: ("MLflow answers 500 or slowly while a run is logged", "bounded retries; no half-logged run is promoted"),
    10: ("disk full while landing, training, saving", "clean failure, no alias, nothing torn"),
    11: ("six processes start on a fresh home at once", "all succeed: migrations run once"),
    12: ("twenty writers at once", "retries or one clear error; nothing lost"),
    13: ("an older window materialized again, a shuffled batch", "the newest value stays"),
    14: ("materialization to a time in the future", "refused"),
    15: ("naive, daylight-saving and foreign-zone times", "point-in-time join right, no leak"),
    16: ("killed in mid-materialization, run twice more", "the same store as without the kill"),
    17: ("six applies at once", "all views exist"),
    18: ("bad partitions of every kind; a suite that evaluated nothing", "refused with the reason, quarantined"),
    19: ("an event twice, or lost", "one run; what was lost is caught up with"),
    20: ("canary with errors, NaN answers, slowness; a shadow that hangs", "ended by itself; users not touched"),
    21: ("malicious model files", "never loaded, no code runs"),
    22: ("a model made with another scikit-learn", "refused before traffic by its golden rows"),
    23: ("bad requests, fuzzing, no or wrong key", "4xx, bounded memory, never 500"),
    24: ("secrets, injected paths and templates, a poisoned window", "redacted; rejected; one training at most"),
}  # fmt: skip
Result = Literal["passed", "failed", "skipped", "not run", "missing"]


@dataclass(frozen=True)
class Function:
    """A test function of the folder of faults; ``fault`` is None for what is no row of the table."""

    file: str
    name: str
    faults: tuple[int, ...]


def functions_of(files: Iterable[Path]) -> list[Function]:
    """Return the test functions of some files, as they are written there."""
    found = []
    for file in sorted(files):
        known = re.match(r"test_fault((?:_\d\d)+)_", file.name)
        numbers = tuple(int(one) for one in known[1].strip("_").split("_")) if known else ()
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                own = re.match(r"test_(\d\d)_", node.name)
                found.append(Function(file.name, node.name, (int(own[1]),) if own else numbers))
    return found


def outcomes(reports: Mapping[str, Iterable[object]]) -> dict[tuple[str, str], set[str]]:
    """Return by file and name how a test's cases ended, from the terminal's reports by kind."""
    found: dict[tuple[str, str], set[str]] = {}
    for kind, name in (("passed", "passed"), ("failed", "failed"), ("error", "failed"), ("skipped", "skipped")):
        for report in reports.get(kind, ()):
            path, _, function = getattr(report, "nodeid", "").partition("::")
            found.setdefault((Path(path).name, function.partition("[")[0]), set()).add(name)
    return found


def judge(tests: list[Function], ended: Mapping[tuple[str, str], set[str]]) -> tuple[Result, str]:
    """Return what came of a fault's tests, and how many of them ran."""
    ran = [ended[one.file, one.name] for one in tests if (one.file, one.name) in ended]
    kinds = set().union(*ran)
    count = f"{len(ran)} of {len(tests)}"
    for kind in ("failed", "skipped"):
        if kind in kinds:
            return kind, count
    if len(ran) < len(tests):
        return "not run", count
    return ("passed" if tests else "missing"), count


def write(reporter: pytest.TerminalReporter) -> None:
    """Write the table at the end of a run."""
    tests, ended = functions_of(FOLDER.glob("test_*.py")), outcomes(reporter.stats)
    reporter.section("faults")
    rows = [(f"{number:2}", *texts, [one for one in tests if number in one.faults]) for number, texts in FAULTS.items()]
    results = []
    for number, fault, outcome, mine in rows:
        result, count = judge(mine, ended)
        results.append(result)
        reporter.write_line(
            f"{number}  {fault:66}{outcome:60}{result:8}{count:>9}", red=result in ("failed", "missing")
        )
    for file in sorted({one.file for one in tests if not one.faults}):
        mine = [one for one in tests if one.file == file]
        result, count = judge(mine, ended)
        reporter.write_line(
            f" +  {file.removeprefix('test_').removesuffix('.py').replace('_', ' '):126}{result:8}{count:>9}"
        )
    passed = results.count("passed")
    rest = "; those that take minutes are run as well by `make faults`" if "not run" in results else ""
    reporter.write_line(f"{passed} of {len(FAULTS)} faults are survived as they must be{rest}")
