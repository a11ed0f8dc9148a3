"""Tables that nobody prepared go through new, demo and backtest; what is written for them passes linters, types and tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tables_parts import five

ROOT = Path(__file__).resolve().parents[2]
TABLES = five()


def evergreen(root, *words, seconds=500):
    """Run a command in a team's own folder, as the last lines of ``evergreen new`` say."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL", "EVERGREEN_HOME")
    }
    environment |= {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
        "EVERGREEN_MODEL_PACKAGES": '["flows.models", "own_models"]',
    }
    start = [sys.executable, "-c", "from flows.cli import main; main()"]
    return subprocess.run(
        [*start, *map(str, words)], cwd=root, env=environment, capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_table_becomes_a_model_that_is_shown_and_replayed(name, tmp_path):
    table, options = TABLES[name]
    root = tmp_path / "root"
    (root / "own_models").mkdir(parents=True)
    table.to_csv(root / "table.csv", index=False)
    done = evergreen(
        root, "new", name, "--data", "table.csv", "--into", "own_models", *options, "--home", tmp_path / "new"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = root / "own_models" / name
    config = ("--config", str(ROOT / "pyproject.toml"))
    types = [
        "mypy",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--cache-dir",
        os.devnull,
        "-p",
        f"own_models.{name}",
    ]
    for call in (
        ["ruff", "check", "--no-cache", *config, str(folder)],
        ["ruff", "format", "--check", "--no-cache", *config, str(folder)],
        types,
        ["pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(folder)],
    ):
        told = subprocess.run(
            [sys.executable, "-m", *call], cwd=root, env=os.environ | {"PYTHONPATH": str(root), "MYPYPATH": str(root)},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert told.returncode == 0, f"{call[:2]}: {told.stdout[-2000:]}{told.stderr[-2000:]}"

    shown = tmp_path / "demo.json"
    done = evergreen(root, "demo", "--model", name, "--home", tmp_path / "demo", "--json", shown)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert all(step["ok"] for step in json.loads(shown.read_text())["steps"])

    done = evergreen(root, "backtest", "--model", name, "--home", tmp_path / "back", "--json")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found["periods"]) >= 4
    assert len(found["outcomes"]) == 15
    assert all(one["total"] >= found["best"]["total"] - 1e-9 for one in found["outcomes"])
