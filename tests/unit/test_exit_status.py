"""What the shell is told: an ingest that accepted nothing is a refusal."""

import pytest
from typer.testing import CliRunner

from flows import cli


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
