"""The second model: the tool finds what leaks in its file, and the demo of any model runs on it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.models.bike.simulator import history
from flows.models.bike.source import COLUMNS, LAYOUT
from flows.settings import Settings
from flows.steps.in_memory import connect
from flows.steps.new import choose, table
from flows.steps.new.wanted import Wanted, refuse

FILE = Path(__file__).resolve().parents[3] / "shared" / "data" / "bike_sharing_hour.csv"


def test_the_leaks_of_the_public_file_are_found(home: Settings) -> None:
    if not FILE.exists():
        assert os.environ.get("EVERGREEN_REQUIRE_DATA") != "1", f"{FILE} is missing"
        pytest.skip(f"{FILE} is not here; the project does not ship it")
    wanted = Wanted(name="rent", data=str(FILE), time=("dteday",), label="cnt")
    with connect(home.home) as connection:
        looked = table.load(connection, str(FILE), home)
        chosen = choose.choose(connection, looked, wanted, refuse, "own.rent", "own.rent.definitions")
    for name in ("casual", "registered"):
        assert f"{name} is left out: gives the label away: casual + registered = cnt" in chosen.warnings
        assert name in chosen.draft.ignored
    assert chosen.draft.time_columns == ("dteday", "hr")
    assert chosen.draft.columns == COLUMNS
    assert chosen.draft.layout == LAYOUT


def test_the_simulated_table_is_like_the_public_one() -> None:
    made = history(days=60, seed=3)
    assert tuple(made.columns) == LAYOUT
    assert (made["casual"] + made["registered"] == made["cnt"]).all()
    assert made.equals(history(days=60, seed=3))


@pytest.mark.long
def test_the_demo_of_the_bike_model(tmp_path: Path) -> None:
    data, outcome = tmp_path / "rent.parquet", tmp_path / "demo.json"
    history(days=200).to_parquet(data)
    start = "from flows.cli import main; main()"
    words = ["demo", "--model", "bike", "--data", data, "--home", tmp_path / "home", "--json", outcome]
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    done = subprocess.run(
        [sys.executable, "-c", start, *map(str, words)],
        env=environment, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    steps = {step["step"]: step["happened"] for step in json.loads(outcome.read_text())["steps"]}
    # Of the 19 days that are asked about before they land, the newest past counts for seven, its last moment included.
    assert f"{19 * 24} rows answered" in steps["serve"]
    assert f"; {(19 - 7) * 24 - 1} without a past" in steps["serve"]
    assert "baseline" in steps["refuse"]
