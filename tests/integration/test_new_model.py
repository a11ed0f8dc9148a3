"""From a table with odd names to a model that trains; and what cannot be is one line, with nothing written."""

import importlib
import os
import shlex
import subprocess
import sys

import duckdb
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.errors import UsageError
from flows.lookup import load_model

ROWS = 6000
KIND = """it's "{{ 7 * 7 }}" {% raw %}"""


@pytest.fixture
def package(tmp_path, monkeypatch, restored_environment):
    """Return a folder that is a package of models, and in which the command runs."""
    root = tmp_path / "root"
    folder = root / "own_models"
    folder.mkdir(parents=True)
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(str(root))
    for name in [name for name in sys.modules if name.partition(".")[0] == "own_models"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    os.environ.update(
        EVERGREEN_MODEL_PACKAGES='["flows.models", "own_models"]',
        PYTHONPATH=os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
        EVERGREEN_HOME=str(tmp_path / "home"),
    )
    return folder


@pytest.fixture(scope="module")
def odd_table(tmp_path_factory):
    """Return a parquet file whose names try everything: payments of 30 days, 3 % of them fraud."""
    rng = np.random.default_rng(0)
    when = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.sort(rng.integers(0, 30 * 86400, ROWS)), unit="s")
    shop, kind = rng.integers(0, 10, ROWS), rng.choice(["web", "app", KIND], ROWS, p=[0.6, 0.3, 0.1])
    amount = rng.lognormal(3, 1, ROWS)
    chance = 1 / (1 + np.exp(5.5 - 2.5 * (kind == KIND) - 0.25 * shop))
    table = pd.DataFrame(
        {
            "when": when,
            "shop": shop,
            KIND: kind,
            'Betrag (€) "; DROP TABLE rows; --': np.where(rng.random(ROWS) < 0.1, np.nan, amount),
            "class": rng.random(ROWS) < 0.5,
            "always": 1,
            "id": [f"p{number}" for number in range(ROWS)],
            "label": rng.random(ROWS) < chance,
        }
    )
    path = tmp_path_factory.mktemp("odd") / "payments.parquet"
    table.to_parquet(path)
    return path


def new(*words):
    return CliRunner().invoke(app, ["new", *map(str, words)])


def test_an_odd_table_becomes_files_that_pass_and_a_model_that_trains(package, odd_table, prefect_api):
    done = new("payments", "--data", odd_table, "--label", "label", "--entity", "shop", "--into", "own_models")
    assert done.exit_code == 0, done.exception
    words = " ".join(done.output.split())
    assert "always is left out: is constant" in words
    assert "id is left out: is an id" in words
    assert "class 'true' of label is" in words
    folder = package / "payments"
    config = str(importlib.import_module("flows").__path__[0]) + "/../pyproject.toml"
    for command in (["check", "--ignore", "E501,I001"], ["format", "--check"]):
        call = [sys.executable, "-m", "ruff", command[0], "--no-cache", "--config", config, *command[1:], str(folder)]
        told = subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
        assert told.returncode == 0, told.stdout + told.stderr
    own = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(folder)]
    told = subprocess.run(own, capture_output=True, text=True, timeout=300, check=False)
    assert told.returncode == 0, told.stdout

    from flows.featurize import featurize
    from flows.ingest import ingest
    from flows.settings import load
    from flows.train import train

    os.environ["PREFECT_API_URL"] = prefect_api
    spec = load_model("payments", load())
    assert spec.task == "binary"
    landed = ingest(source=str(odd_table), model="payments")
    assert {one["status"] for one in landed} == {"accepted"}
    assert sum(one["rejected_rows"] for one in landed) == 0  # the amounts that are missing cost no row
    featurize(model="payments")
    found = train(model="payments")
    assert found["promoted"], found
    assert found["error"] < 0.95 * found["baseline_error"]


def test_what_cannot_be_is_one_line_and_nothing_is_written(package, tmp_path):
    path = tmp_path / "some.csv"
    frame = pd.DataFrame({"n": range(600), "x": np.sin(np.arange(600)), "y": np.arange(600) % 3, "z": "same"})
    frame["seconds"] = 1_700_000_000 + frame["n"] * 60
    frame["year"] = 1985 + frame["n"] // 20
    frame["comma"] = [f"{value:.4f}".replace(".", ",") if value else "" for value in frame["x"]]
    frame["slips"] = [f"{value:.4f}" if number % 50 else "n/a" for number, value in enumerate(frame["x"])]
    frame.to_csv(path, index=False)
    counts = ("--time", "n", "--start", "2024-01-01", "--every", "1h")
    for words, told in (
        (("m", *counts), "--label"),
        (("m", "--label", "y"), "--time"),
        (("m", "--label", "y", "--time", "n"), "--start"),
        (("m", "--label", "y", *counts), "--task"),
        (("m", "--label", "y", "--task", "binary", *counts), "not two"),
        (("m", "--label", "nothing", *counts), "no column 'nothing'"),
        (("m", "--label", "z", *counts), "constant"),
        (("m", "--label", "y", "--task", "regression", "--drop", "q", *counts), "no column 'q'"),
        (("m", "--label", "x", *counts[:5], "1s"), "--every"),
        (("m", "--label", "x", "--zone", "Europe/Berln", *counts), "--zone 'Europe/Berln' is not known"),
        (("taxi", "--label", "x", *counts), "a model already"),
        (("No Name", "--label", "x", *counts), "is no name"),
        (("class", "--label", "x", *counts), "is no name"),
        (("m", "--label", "x", "--time", "seconds"), "seems to hold seconds since 1970"),
        (("m", "--label", "x", "--time", "year", *counts[2:]), "seems to hold years (1985 to 2014)"),
        (("m", "--label", "comma", *counts), "decimal comma, write a point: 599 rows"),
        (("m", "--label", "slips", *counts), "but for 'n/a' and the like"),
        (("m", "--label", "x", "--into", "elsewhere", *counts), "no folder"),
    ):
        into = () if "--into" in words else ("--into", "own_models")
        done = new(*words, "--data", path, *into)
        assert isinstance(done.exception, UsageError), (words, done.output)
        assert told in str(done.exception), done.exception
        assert "\n" not in str(done.exception)
        assert list(package.iterdir()) == []


def test_files_of_a_table_have_the_same_columns(package, tmp_path):
    frame = pd.DataFrame({"t": pd.date_range("2024-01-01", periods=600, freq="h"), "x": range(600), "y": range(600)})
    (tmp_path / "months").mkdir()
    frame.to_csv(tmp_path / "months" / "1.csv", index=False)
    for other, told in (
        (frame[["x", "t", "y"]], "it has them in another order"),
        (frame.rename(columns={"x": "new"}), "it lacks 'x' and adds 'new'"),
    ):
        other.to_csv(tmp_path / "months" / "2.csv", index=False)
        done = new("m", "--data", tmp_path / "months", "--time", "t", "--label", "y", "--into", "own_models")
        assert isinstance(done.exception, UsageError)
        assert told in str(done.exception)


def test_the_newest_value_may_be_infinite_and_a_key_grows_until_it_names_one_row(package, tmp_path):
    rng = np.random.default_rng(0)
    times = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.sort(rng.integers(0, 60 * 24 * 60, 5000)), unit="min")
    frame = pd.DataFrame({"t": times, "shop": rng.integers(0, 9, 5000), "x": rng.normal(size=5000)})
    frame["y"] = frame["x"] + rng.normal(size=5000)
    frame.loc[4999, "x"] = np.inf
    frame = pd.concat([frame, frame[:3]], ignore_index=True).sort_values("t", ignore_index=True)
    frame.to_parquet(tmp_path / "t.parquet")
    done = new("m", "--data", tmp_path / "t.parquet", "--time", "t", "--label", "y", "--into", "own_models")
    assert done.exit_code == 0, done.exception
    assert "3 rows have the t, x of a row before them" in " ".join(done.output.split())
    assert 'key=("t", "x")' in (package / "m" / "spec.py").read_text()


def test_the_setting_to_be_made_keeps_the_packages_that_are_set(package, tmp_path):
    path = tmp_path / "some.parquet"
    duckdb.sql(
        "SELECT TIMESTAMP '2024-01-01' + to_hours(CAST(i AS INTEGER)) AS t, sin(i) AS y FROM range(900) r(i)"
    ).write_parquet(str(path))
    done = new("known", "--data", path, "--label", "y", "--into", "own_models")
    assert done.exit_code == 0, done.exception
    assert "EVERGREEN_MODEL_PACKAGES" not in done.output
    (package.parent / "other_models").mkdir()
    os.environ["EVERGREEN_MODEL_PACKAGES"] = '["other_models", "flows.models"]'
    words = " ".join(new("unknown", "--data", path, "--label", "y", "--into", "own_models").output.split())
    assert """export EVERGREEN_MODEL_PACKAGES='["other_models", "flows.models", "own_models"]'""" in words


def test_the_command_that_lands_a_glob_can_be_copied(package, tmp_path):
    folder = tmp_path / ("daily files, " + "as they come, " * 6)
    folder.mkdir()
    for day in range(20):
        hours = f"SELECT TIMESTAMP '2024-01-01' + to_hours(24 * {day} + CAST(i AS INTEGER)) AS t, sin(i) AS y FROM range(24) r(i)"
        duckdb.sql(hours).write_csv(str(folder / f"{day:02}.csv"))
    done = new("many", "--data", folder / "*.csv", "--time", "t", "--label", "y", "--into", "own_models")
    assert done.exit_code == 0, done.exception
    (line,) = (line for line in done.output.splitlines() if " evergreen ingest " in line)
    words = ["uv", "run", "evergreen", "ingest", str(folder / "*.csv"), "--model", "many"]
    assert shlex.split(line) == words


def test_a_model_that_is_there_is_left_alone(package, tmp_path):
    path = tmp_path / "some.parquet"
    duckdb.sql(
        "SELECT TIMESTAMP '2024-01-01' + to_hours(CAST(i AS INTEGER)) AS t, sin(i) AS y FROM range(900) r(i)"
    ).write_parquet(str(path))
    assert new("twice", "--data", path, "--label", "y", "--into", "own_models").exit_code == 0
    before = {file.name: file.read_bytes() for file in (package / "twice").glob("*.py")}
    again = new("twice", "--data", path, "--label", "y", "--into", "own_models")
    assert isinstance(again.exception, UsageError)
    assert {file.name: file.read_bytes() for file in (package / "twice").glob("*.py")} == before
    assert [entry.name for entry in package.iterdir()] == ["twice"]
