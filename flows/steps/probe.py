"""The probe: opens a bundle in a fresh process, as the serving environment does, and says how that went."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ConfigDict

from flows.errors import EvergreenError
from flows.settings import Settings
from flows.spec import Frozen

TIMEOUT_SECONDS = 120.0
WARM_UP = 5
LATENCY_ROWS = 50


class Probe(Frozen):
    """What came of it; ``reason`` is empty if it loaded.

    ``difference`` is the largest relative difference of the golden rows, serialized against fitted (infinite if they
    could not be predicted); ``latency_ms`` the median time of a prediction of one row, from values to values, by what
    would serve. ``compiled_difference`` is that of the compiled form from scikit-learn, on the test set when it was saved
    or on the golden rows here, whichever is larger; ``not_compiled`` says why there is no such form.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    loaded: bool
    reason: str
    rows: int
    difference: float | None
    latency_ms: float | None
    compiled_difference: float | None = None
    not_compiled: str = ""

    def problem(self, tolerance: float) -> str | None:
        """Return why the bundle may not serve, None if it may: it did not load, or predicts other than when fitted."""
        if not self.loaded:
            return self.reason
        if self.difference is None or not self.difference <= tolerance:
            return (
                f"its golden rows differ by {self.difference} (relative) from what was fitted, tolerated {tolerance:g}"
            )
        return None


@contextmanager
def started(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """Start a process that gets ready to open a bundle, and end it at last.

    Most of its seconds are imports, which need not be waited for if it is started before there is a bundle.
    """
    environment = os.environ | settings.environment() | {
        "EVERGREEN_TRUSTED_TYPES": json.dumps(settings.trusted_types),
        "OMP_NUM_THREADS": "1",  # as the service: one row is not worth a team of threads
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "flows.steps.probe"], env=environment, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str], folder: Path, digest: str) -> None:
    """Have a started process open a bundle; ``probe_in`` waits for what comes of it."""
    stdin = process.stdin
    with suppress(BrokenPipeError):  # it has ended, and ``probe_in`` says how
        if stdin:
            stdin.write(json.dumps([str(folder), digest]) + "\n")
            stdin.flush()


def probe_in(process: subprocess.Popen[str]) -> Probe:
    """Return what came of the bundle that a process was asked for; a crash, a refusal or a time-out is
    ``loaded=False`` with the reason.
    """
    try:
        said, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return _refused(f"it did not open and answer within {TIMEOUT_SECONDS:.0f} s")
    try:
        return Probe.model_validate_json(said.splitlines()[-1])
    except (IndexError, ValueError):
        last = errors.strip().splitlines()[-1:] or ["no message"]
        return _refused(f"the process ended with status {process.returncode}: {last[0][:300]}")


def probe_bundle(folder: Path, digest: str, settings: Settings) -> Probe:
    """Open a bundle in a process of its own and return what came of it, as ``probe_in`` does."""
    with started(settings) as process:
        ask(process, folder, digest)
        return probe_in(process)


def probe_here(folder: Path, digest: str, trusted_types: Sequence[str]) -> Probe:
    """Open a bundle in this process, compare its golden rows, and time predictions of one row."""
    from flows.steps.bundle import compiled_difference, golden_difference, open_bundle

    try:
        bundle = open_bundle(folder, digest, trusted_types)
    except EvergreenError as error:
        return _refused(str(error))
    inputs = bundle.manifest.golden.inputs
    difference = golden_difference(bundle)
    latency = None
    if difference != float("inf"):
        times = []
        for turn in range(WARM_UP + LATENCY_ROWS):
            start = time.perf_counter()
            bundle.answers([[value] for value in inputs[turn % len(inputs)]])
            times.append(time.perf_counter() - start)
        latency = sorted(times[WARM_UP:])[LATENCY_ROWS // 2] * 1000.0
    form = bundle.manifest.compiled
    compiled = None
    if bundle.compiled is not None and form.difference is not None:
        compiled = max(compiled_difference(bundle), form.difference)
    return Probe(
        loaded=True, reason="", rows=len(inputs), difference=difference, latency_ms=latency,
        compiled_difference=compiled, not_compiled=form.reason if bundle.compiled is None else "",
    )  # fmt: skip


def _refused(reason: str) -> Probe:
    return Probe(loaded=False, reason=reason, rows=0, difference=None, latency_ms=None)


def main() -> None:
    """Print the probe of the bundle that stdin names, as one line of JSON; what the estimator itself prints goes to stderr."""
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    import skops.io  # noqa: F401  (before there is a bundle: it imports all of scikit-learn)

    folder, digest = json.loads(sys.stdin.readline())
    probe = probe_here(Path(folder), digest, Settings().trusted_types)
    with os.fdopen(answer, "w") as output:
        output.write(probe.model_dump_json() + "\n")


if __name__ == "__main__":
    main()
