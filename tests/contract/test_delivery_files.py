"""The files of delivery: compose.yaml is taken by docker-compose and holds no secret, workflows run what people can run."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from services_parts import missing

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker" / "compose.yaml"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SECRET = re.compile(r"PASSWORD|SECRET|API_KEY|ACCESS_KEY|AUTH_STRING|AUTH$")


def compose_config(tmp_path: Path, text: str, *files: Path) -> subprocess.CompletedProcess[str]:
    program = next(filter(None, map(shutil.which, ("docker-compose",))), None)
    if program is None:
        missing("no docker-compose here")
    (tmp_path / "env").write_text(text)
    named = [part for file in files for part in ("-f", file)]
    return subprocess.run(
        [program, *named, "--env-file", tmp_path / "env", "config"], env={"PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_compose_takes_the_example_once_it_is_filled_in(tmp_path):
    example = (ROOT / ".env.example").read_text()
    filled = re.sub(r"=$", "=filled", example, flags=re.MULTILINE)
    done = compose_config(tmp_path, filled, COMPOSE)
    assert done.returncode == 0, done.stderr
    made = yaml.safe_load(done.stdout)["services"]
    assert made["service"]["deploy"]["replicas"] == 2
    for name, part in made.items():
        assert part["restart"] == "unless-stopped", name
        # The worker's and the service's are in their images.
        assert "healthcheck" in part or part["image"].startswith("evergreen-"), name


def test_deliveries_reach_the_stores_by_loopback_alone_and_others_do_not(tmp_path):
    filled = re.sub(r"=$", "=filled", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)
    closed, opened = (
        yaml.safe_load(compose_config(tmp_path, filled, *files).stdout)["services"]
        for files in ([COMPOSE], [COMPOSE, ROOT / "docker" / "compose.delivery.yaml"])
    )
    for name in ("postgres", "redis", "s3"):
        assert "ports" not in closed[name]
        (port,) = opened[name]["ports"]
        assert (port if isinstance(port, str) else port["host_ip"]).startswith("127.0.0.1")  # as the version has it
        assert set(opened[name]["networks"]) == {"inside", "outside"}


def test_what_push_prints_is_what_a_workflow_reads():
    done = subprocess.run(
        ["make", "push", "DOCKER=echo", "REPOSITORY=here", "TAG=1"], cwd=ROOT, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert [line.partition("=")[0] for line in done.stdout.splitlines()] == ["train", "service"]


def place(folder: Path, *words: str) -> list[str]:
    """Run a target of the Makefile in a place's folder, its other programs stood in for, and return the images that are up."""
    (folder / "uv").write_text("#!/bin/sh\n")
    (folder / "uv").chmod(0o755)
    subprocess.run(
        ["make", "--silent", "-f", ROOT / "Makefile", *words, "COMPOSE=true"], cwd=folder, capture_output=True,
        env={"PATH": f"{folder}:/usr/bin:/bin"}, timeout=60, check=True,
    )  # fmt: skip
    return re.findall(r"=(.+)", (folder / ".images").read_text())


def test_images_go_back_one_by_one_and_the_same_ones_twice_count_once(tmp_path):
    for name in ("one", "two", "three", "three"):
        assert place(tmp_path, "up", f"TRAIN=train@{name}", f"SERVICE=service@{name}") == [
            f"train@{name}",
            f"service@{name}",
        ]
    assert place(tmp_path, "back", "PLACE=staging", "WHY=a test") == ["train@two", "service@two"]
    assert place(tmp_path, "back", "PLACE=staging", "WHY=a test") == ["train@one", "service@one"]
    with pytest.raises(subprocess.CalledProcessError) as failed:
        place(tmp_path, "back", "PLACE=staging", "WHY=a test")
    assert b"no images were up before these" in failed.value.stderr


def test_a_job_that_is_cancelled_or_out_of_time_is_put_back_and_a_rollback_waits_for_no_approval():
    cd, rollback = (yaml.safe_load((WORKFLOWS[0].parent / f"{name}.yml").read_text()) for name in ("cd", "rollback"))
    for name in ("staging", "production"):
        (step,) = [one for one in cd["jobs"][name]["steps"] if "make back" in one.get("run", "")]
        assert "cancelled()" in step["if"]
    assert rollback["concurrency"]["group"] != cd["concurrency"]["group"]


def test_security_names_each_finding_of_the_linter_that_stands():
    rows = [line for line in (ROOT / "SECURITY.md").read_text().splitlines() if line.startswith("| S")]
    for file in (one for folder in ("flows", "deployments", "feature_repo") for one in (ROOT / folder).rglob("*.py")):
        name = file.relative_to(ROOT)
        places = {f"`{place}`" for place in (name, *name.parents)}
        for rule in re.findall(r"#\s*noqa: (S\d+)", file.read_text()):
            assert any(rule in row and any(place in row for place in places) for row in rows), f"{name}: {rule}"


def test_compose_does_not_start_without_its_secrets(tmp_path):
    done = compose_config(tmp_path, (ROOT / ".env.example").read_text(), COMPOSE)
    assert done.returncode != 0
    assert ".env.example" in done.stderr


def test_no_secret_has_a_default():
    found = 0
    for part in yaml.safe_load(COMPOSE.read_text())["services"].values():
        for name, value in (part.get("environment") or {}).items():
            if SECRET.search(name):
                found += 1
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name
    assert found >= 8
    for line in (ROOT / ".env.example").read_text().splitlines():
        name, _, value = line.partition("=")
        assert line.startswith("#") or not SECRET.search(name) or not value, name


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflows_pin_their_actions_and_run_what_a_person_can_run(file):
    from typer.main import get_command

    from flows.cli import app

    commands = get_command(app).commands.keys()
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    content = yaml.safe_load(file.read_text())
    assert content["permissions"] == {"contents": "read"}
    assert content["concurrency"]["group"]
    for job in content["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
            for command in re.findall(r"uv run evergreen (\w+)", step.get("run", "")):
                assert command in commands
            for target in re.findall(r"\bmake (\w+)", step.get("run", "")):
                assert target in targets
