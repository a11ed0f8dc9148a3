"""The probe: opens a bundle in a fresh process, as the serving environment does, and says how that went."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
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


def probe_bundle(folder: Path, digest: str, settings: Settings, timeout: float = TIMEOUT_SECONDS) -> Probe:
    """Open a bundle in a process of its own; a crash, a refusal or a time-out is ``loaded=False`` with the reason."""
    environment = os.environ | settings.environment() | {
        "EVERGREEN_TRUSTED_TYPES": json.dumps(settings.trusted_types),
        "OMP_NUM_THREADS": "1",  # as the service: one row is not worth a team of threads
    }  # fmt: skip
    command = [sys.executable, "-m", "flows.steps.probe", str(folder), digest]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return _refused(f"it did not open and answer within {timeout:.0f} s")
    try:
        return Probe.model_validate_json(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        return _refused(f"the process ended with status {done.returncode}: {last[0][:300]}")


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


def main(folder: str, digest: str) -> None:
    """Print the probe of a bundle as one line of JSON; what the estimator itself prints goes to stderr."""
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    probe = probe_here(Path(folder), digest, Settings().trusted_types)
    with os.fdopen(answer, "w") as output:
        output.write(probe.model_dump_json() + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
