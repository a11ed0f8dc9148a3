"""What the shell is told: an ingest that accepted nothing is a refusal, and so is a look at a home that is not there."""

import pytest
from typer.testing import CliRunner

from flows import cli
from flows.errors import UsageError


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ((), 0),
        (("accepted", "quarantined"), 0),
        (("quarantined", "quarantined"), 1),
        (("superseded",), 0),
    ],
)
def test_an_ingest_that_accepted_nothing_of_what_came_is_a_refusal(monkeypatch, tmp_path, statuses, code):
    names = ("key", "revision", "rows", "accepted_rows", "rejected_rows", "reasons")
    found = [dict.fromkeys(names, 0) | {"key": "2024-01-01", "reasons": [], "status": status} for status in statuses]
    monkeypatch.setattr(cli, "run_flow", lambda *_, **__: found)
    done = CliRunner().invoke(cli.app, ["ingest", "--home", str(tmp_path)])
    assert done.exit_code == code, done.output


@pytest.mark.parametrize(
    "command", [("status",), ("partitions",), ("versions",), ("trial",), ("lineage",), ("diff", "1", "2")]
)
def test_who_looks_at_a_home_that_is_not_there_is_told_and_makes_none(tmp_path, command):
    done = CliRunner().invoke(cli.app, [*command, "--home", str(tmp_path / "misspelt")])
    assert isinstance(done.exception, UsageError)
    assert "misspelt is no folder" in str(done.exception)
    assert not list(tmp_path.iterdir())
