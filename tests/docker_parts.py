"""The Docker engine of the tests: found or started, and the base image that stands in for a registry's."""

import os
import shutil
import subprocess
from pathlib import Path

from services_parts import missing

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT.parent / "shared" / "docker-base.sh"
BASE = "EVERGREEN_TEST_BASE_IMAGE"  # names an image with Python 3.11 to build on
UNPRIVILEGED = ["--read-only", "--tmpfs", "/tmp:mode=1777", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]


def client() -> str:
    """Return the Docker client that answers; Debian's own is asked first."""
    for name in ("/usr/bin/docker", shutil.which("docker")):
        if (
            name
            and Path(name).exists()
            and subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0
        ):
            return name
    return ""


def base_image() -> tuple[str, str]:
    """Return the Docker client and the image to build on; skips or fails where there is no engine."""
    wanted = os.environ.get(BASE)
    if wanted is None and SCRIPT.exists() and os.geteuid() == 0:
        done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True, timeout=600, check=False)
        if done.returncode == 0:
            wanted = done.stdout.split()[-1]
    docker = client()
    if not docker:
        missing("no Docker engine answers here")
    return docker, wanted or "python:3.11-slim-bookworm"


def build(docker: str, base: str, kind: str) -> str:
    """Build an image, with what the environment says of the package index as secrets, and return its name."""
    name = f"evergreen-{kind}:test"
    secrets = []
    for secret, path in (("pip", os.environ.get("PIP_CONFIG_FILE")), ("uv", os.environ.get("UV_CONFIG_FILE"))):
        secrets += ["--secret", f"id={secret},src={path}"] if path and Path(path).exists() else []
    done = subprocess.run(
        [docker, "build", "--network", "host", "--build-arg", f"BASE_IMAGE={base}", *secrets,
         "-f", f"docker/Dockerfile.{kind}", "-t", name, "."],
        cwd=ROOT, env=os.environ | {"DOCKER_BUILDKIT": "1"}, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return name


def megabytes(docker: str, image: str) -> float:
    """Return the size of an image in MB (10^6 bytes)."""
    done = subprocess.run(
        [docker, "image", "inspect", "--format", "{{.Size}}", image], capture_output=True, text=True, check=True
    )
    return int(done.stdout) / 1e6
