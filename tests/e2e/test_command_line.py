"""Wrong calls: one clear line, the right exit status, no traceback, nothing changed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from test_demo import EVERGREEN, environment, run

from flows import database, ledger
from flows.settings import Settings


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        (["status", "--model", "nosuch"], 2, "known are: bike, taxi"),
        (["train", "--model", "../etc"], 2, "not allowed"),
        (["ingest", "no-such-file.parquet"], 2, "no-such-file.parquet"),
        (["ingest", "ftp://example.org/x.parquet"], 2, "ftp"),
        (["ingest", "README.md", "--partition-by", "hour"], 2, "hour"),
        (["train"], 1, "evergreen ingest"),
        (["promote"], 1, "no challenger"),
        (["promote", "7"], 1, "no version 7"),
        (["rollback"], 1, "nothing to roll back to"),
        (["monitor"], 1, "evergreen train"),
        (["deploy", "--env", "nosuch"], 2, "known are: local"),
        (["score", "in.csv", "out.csv"], 1, "evergreen train"),
        (["features"], 2, "is no folder"),
        (["adopt", "0"], 2, "is no folder"),
    ],
)
def test_a_wrong_or_refused_call_is_one_line(tmp_path: Path, arguments: list[str], status: int, named: str) -> None:
    done = run(*arguments, "--home", str(tmp_path / "home"))
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("evergreen: ")
    assert named in done.stderr


@pytest.mark.parametrize("arguments", [["promote", "one"], ["nosuch"], ["score"], ["serve", "--port", "99999"]])
def test_a_call_that_cannot_be_read_is_told_so(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in (
        "demo", "ingest", "label", "featurize", "train", "promote", "rollback", "monitor", "score", "serve", "status",
        "partitions", "versions", "up", "deploy", "triggers", "features", "adopt",
    ):  # fmt: skip
        assert f" {command} " in done.stdout


def test_a_sign_that_the_terminal_lacks_is_replaced(tmp_path: Path) -> None:
    home = Settings(home=tmp_path / "home")
    engine = database.connect(home)
    ledger.add_partition(
        engine, model="taxi", key="2024-01-01", digest="d", source="s", uri="u", rows=1, reasons=["minutes ≤ 180"]
    )
    engine.dispose()
    done = subprocess.run(
        [EVERGREEN, "partitions", "--home", home.home], env=environment(LC_ALL="C", PYTHONUTF8="0", COLUMNS="200"),
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"minutes ? 180" in done.stdout
