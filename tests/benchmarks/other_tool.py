"""The taxi pipeline written plainly in Kedro with MLflow and pandera, beside ours, on the same simulated days.

The project of the other side is ``kedro_taxi/``, as somebody would write it who knows Kedro; it has an environment of its
own with the versions of ours. A round is what a person types when data came: one ``kedro run``, or ``evergreen ingest``,
``featurize``, ``train`` and ``score``, each a process; ours on a Prefect server that runs already, as it does under
``evergreen up``. Both must reach the same error. What the other lacks is in ``other_tool_lacks.py``.

``uv run evergreen bench other_tool``
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from flows.settings import Settings
from flows.steps.bench import Difference, Figure, compared
from tests.benchmarks.lines import lines_of
from tests.benchmarks.other_tool_lacks import LACKS, try_broken_day, try_training

ROOT = Path(__file__).resolve().parents[2]
PROJECT = Path(__file__).with_name("kedro_taxi")
BESIDE = "Kedro 1.7.0 with MLflow"
FIRST, DAYS, ROUNDS = date(2024, 1, 1), 28, 3
LIMIT = 900  # seconds for one command
SAME = 0.01  # by what share the two errors may differ: means of ours are rounded to six decimals
MINE = ("flows/models/taxi", "feature_repo/taxi.py")
NOT_THE_MODEL = ("simulator.py", "broken.py")  # of that folder: the data, and a mistake for the demo


def install(folder: Path) -> Path:
    """Make the environment of the Kedro project and return its ``bin``; raises SystemExit without uv or PyPI."""
    made = folder / "kedro-env"
    requirements = ["-r", str(PROJECT / "requirements.txt")]
    for command in (
        ["uv", "venv", "-q", "--python", sys.executable, str(made)],
        ["uv", "pip", "install", "-q", "--compile-bytecode", "--python", str(made / "bin" / "python"), *requirements],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, cwd=folder)
        except FileNotFoundError:
            raise SystemExit("uv is not installed; it makes Kedro's environment") from None
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise SystemExit(f"Kedro could not be installed; this benchmark needs PyPI, or uv's cache of it ({why})")
    return made / "bin"


class Kedro:
    """The Kedro project in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.bin = install(folder)
        self.home = folder / "kedro"
        shutil.copytree(PROJECT, self.home, ignore=shutil.ignore_patterns("__pycache__"))
        (self.home / "data" / "raw").mkdir(parents=True)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the pipeline."""
        quiet = {"DO_NOT_TRACK": "1", "KEDRO_DISABLE_TELEMETRY": "1"}
        return subprocess.run(
            [str(self.bin / "kedro"), "run", *arguments], cwd=self.home, env=_without_ours() | quiet,
            capture_output=True, text=True, timeout=LIMIT,
        )  # fmt: skip

    def round(self, new: list[Path], requests: Path) -> None:
        """Take new days, and everything that follows; the data's copying is not the tool's work."""
        for day in new:
            shutil.copy(day, self.home / "data" / "raw")
        shutil.copy(requests, self.home / "data" / "requests.parquet")
        done = self.run()
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def error(self) -> float:
        """Return the newest error on the days that judge."""
        newest = max((self.home / "data" / "metrics.json").iterdir())
        return float(json.loads((newest / "metrics.json").read_text())["judge_root_mean_squared_error"])

    def versions(self) -> tuple[int, str]:
        """Return how many versions are registered, and which of them the alias names."""
        code = (
            "import mlflow; c = mlflow.MlflowClient('sqlite:///mlflow.db'); "
            "print(len(c.search_model_versions(\"name = 'taxi'\")), c.get_model_version_by_alias('taxi', 'champion').version)"
        )
        done = subprocess.run(
            [str(self.bin / "python"), "-c", code], cwd=self.home, env=_without_ours(), capture_output=True, text=True,
            timeout=LIMIT, check=True,
        )  # fmt: skip
        count, champion = done.stdout.split()
        return int(count), champion


class Ours:
    """A home of ours, worked on by the command line."""

    def __init__(self, folder: Path) -> None:
        self.home, self.folder = folder / "home", folder
        self.trained: dict[str, Any] = {}

    def call(self, *arguments: str) -> Any:
        """Run a command and return what it reports."""
        command = [str(Path(sys.executable).with_name("evergreen")), *arguments, "--home", str(self.home), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, cwd=self.folder)
        assert done.stdout, f"{' '.join(arguments)}: {done.stderr[-3000:]}"
        return json.loads(done.stdout)

    def round(self, new: list[Path], requests: Path) -> None:
        """Take new days, and everything that follows, printing the seconds of each command."""
        source = new[0] if len(new) == 1 else new[0].parent
        told = []
        for arguments in (
            ["ingest", str(source)], ["featurize"], ["train"],
            ["score", str(requests), str(self.folder / "scored.parquet")],
        ):  # fmt: skip
            began = time.perf_counter()
            found = self.call(*arguments)
            told.append(f"{arguments[0]} {time.perf_counter() - began:.1f} s")
            if arguments[0] == "train":
                self.trained = found
        print(f"  evergreen: {', '.join(told)}", flush=True)


def measure(folder: Path) -> tuple[dict[str, list[float]], Kedro, Ours]:
    """Return the seconds of both sides by round; the first is of 28 days, each later one of one day more."""
    from flows.models.taxi.simulator import simulate_day

    source = folder / "days"
    source.mkdir()
    days = []
    for number in range(DAYS + ROUNDS + 1):
        day = FIRST + timedelta(days=number)
        simulate_day(day).to_parquet((source if number < DAYS else folder) / f"{day}.parquet")
        days.append((source if number < DAYS else folder) / f"{day}.parquet")
    theirs, ours = Kedro(folder), Ours(folder)
    taken: dict[str, list[float]] = {"kedro": [], "evergreen": []}
    for number in range(ROUNDS + 1):
        new = days[:DAYS] if number == 0 else [days[DAYS + number - 1]]
        requests = _requests(days[DAYS + number], folder)
        sides = [("kedro", theirs), ("evergreen", ours)]
        for name, side in sides[number % 2 :] + sides[: number % 2]:
            began = time.perf_counter()
            side.round(new, requests)
            taken[name].append(time.perf_counter() - began)
        errors = ours.trained["error"], theirs.error()
        assert abs(errors[0] / errors[1] - 1) < SAME, errors
        print(f"{new[-1].stem}: " + ", ".join(f"{name} {taken[name][-1]:.1f} s" for name in taken), end=" ", flush=True)
        print(f"error {errors[0]:.4f} and {errors[1]:.4f}", flush=True)
        if number == 0:  # both have just made a version
            try_training(theirs, ours)
    return taken, theirs, ours


def _requests(day: Path, folder: Path) -> Path:
    """Write what is known at pick-up of the trips of a day, and return the file."""
    import pandas as pd

    path = folder / "requests.parquet"
    pd.read_parquet(day).drop(columns="lpep_dropoff_datetime").to_parquet(path)
    return path


def _without_ours() -> dict[str, str]:
    """Return this process's environment without what is meant for our own libraries."""
    ours = ("EVERGREEN_", "PREFECT_", "MLFLOW_", "PYTHONPATH", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def differences() -> tuple[Difference, ...]:
    """Return what ours does that theirs does not."""
    return LACKS


def figures() -> list[Figure]:
    """Return the time of a round with 28 days and of one with a day more, and the lines that a team writes."""
    from flows.steps.prefect_server import prefect_server

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with prefect_server(Settings(home=folder / "home").activate()):
            taken, theirs, ours = measure(folder)
            try_broken_day(theirs, ours, FIRST + timedelta(days=DAYS + ROUNDS), folder / "more")
    mine = [path for place in MINE for path in _python(ROOT / place) if path.name not in NOT_THE_MODEL]
    their = [*_python(PROJECT), *sorted((PROJECT / "conf").rglob("*.yml"))]
    system = lines_of([path for part in ("flows", "feature_repo", "deployments") for path in _python(ROOT / part)])
    return [
        compared(
            f"from {DAYS} days of files to a version and scores", BESIDE, taken["evergreen"][:1], taken["kedro"][:1],
            note="ours is four commands beside one, and also judges eight gates, writes lineage and fills the online store",
        ),
        compared("the same with one day more", BESIDE, taken["evergreen"][1:], taken["kedro"][1:]),
        compared(
            "lines that a team writes", BESIDE, [lines_of(mine)], [lines_of(their)], "lines",
            note=f"neither blank, comment nor docstring; Evergreen itself is {system:,.0f} lines, which the other does without",
        ),
    ]  # fmt: skip


def _python(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(place.rglob("*.py"))
