"""What the shell is told: an ingest that accepted nothing is a refusal, and so is a look at a home that is not there."""

import pytest
from typer.testing import CliRunner

from flows import cli, cli_data
from flows.cli_error import told
from flows.errors import UsageError


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ((), 0),
        (("accepted", "quarantined"), 0),
        (("quarantined", "quarantined"), 1),
        (("replaced",), 0),
    ],
)
@pytest.mark.parametrize("command", [("ingest",), ("label", "labels.csv")])
def test_accepting_nothing_of_what_came_is_a_refusal(monkeypatch, tmp_path, statuses, code, command):
    names = ("key", "revision", "rows", "accepted_rows", "rejected_rows", "reasons")
    found = [dict.fromkeys(names, 0) | {"key": "2024-01-01", "reasons": [], "status": status} for status in statuses]
    if command[0] == "label":
        found = {"labels": 2, "met": 2, "rows": 2, "others": ("verdict_date",), "partitions": found}
    monkeypatch.setattr(cli_data, "run_flow", lambda *_, **__: found)
    done = CliRunner().invoke(cli.app, [*command, "--home", str(tmp_path)])
    assert done.exit_code == code, done.output


@pytest.mark.parametrize(
    "command", [("status",), ("partitions",), ("versions",), ("trial",), ("lineage",), ("diff", "1", "2")]
)
def test_who_looks_at_a_home_that_is_not_there_is_told_and_makes_none(tmp_path, command):
    done = CliRunner().invoke(cli.app, [*command, "--home", str(tmp_path / "misspelt")])
    assert isinstance(done.exception, UsageError)
    assert "misspelt is no folder" in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_a_prefect_server_that_fails_is_told_as_what_it_is():
    from httpx import URL, HTTPStatusError, Request, Response
    from prefect.exceptions import PrefectHTTPStatusError

    request = Request("POST", URL("http://127.0.0.1:4200/api/flow_runs/"))
    answer = Response(500, request=request, json={"exception_message": "Internal Server Error"})
    with pytest.raises(HTTPStatusError) as raised:
        answer.raise_for_status()
    line, status = told(PrefectHTTPStatusError.from_httpx_error(raised.value))
    assert line.startswith("the Prefect server failed (Server error '500")
    assert "run the same command again" in line
    assert status == 1
