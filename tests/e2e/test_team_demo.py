"""The README's first command on a team's servers, beside the same on one machine: what comes out, and how long each takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from team_parts import SECRETS, holders_of_secrets, mlflow_server, stores

EVERGREEN = Path(sys.executable).with_name("evergreen")


@pytest.mark.long
def test_every_step_comes_out_on_servers_as_it_does_on_one_machine(tmp_path, postgres, s3):
    def demo(name, environment):
        report = tmp_path / f"{name}.json"
        done = subprocess.run(
            [EVERGREEN, "demo", "--home", tmp_path / name, "--json", report], env=environment, capture_output=True,
            text=True, timeout=900, check=False,
        )  # fmt: skip
        print(done.stdout, done.stderr)
        assert not [word for word in SECRETS.values() if word in done.stdout + done.stderr]
        return done.returncode, json.loads(report.read_text()) if report.exists() else done.stderr

    plain = {name: value for name, value in os.environ.items() if not name.startswith(("EVERGREEN_", "PREFECT_"))}
    with stores(tmp_path, postgres, s3, "demo") as team, mlflow_server(team):
        servers = plain | {
            n: v for n, v in team.environment.items() if n not in ("EVERGREEN_MODEL_PACKAGES", "PYTHONPATH")
        }
        status, here = demo("local", plain)
        assert (status, here["ok"]) == (0, True)
        status, there = demo("servers", servers)
        for one, other in zip(here["steps"], there["steps"], strict=True):
            print(
                f"{one['step']:10} {one['seconds']:7.1f} s local {other['seconds']:7.1f} s on servers  {other['happened']}"
            )
        assert (status, there["ok"]) == (0, True)
        assert holders_of_secrets(tmp_path / "servers") == []
        status, told = demo("again", servers)  # the servers know the model now
        assert (status, "knows taxi already" in told) == (2, True)
