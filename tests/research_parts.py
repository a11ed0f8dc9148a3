"""A team's own package with the taxi model, kept in git: what an experiment is adopted into."""

import subprocess
from pathlib import Path

from training_parts import TESTS

ROOT = TESTS.parent
PACKAGES = '["acme"]'
IDENTITY = ("-c", "user.name=Ada", "-c", "user.email=ada@acme.example")


def cloned(folder: Path) -> Path:
    """Make a repository whose package ``acme`` has the taxi model with few and quick trees, and return a clone of it."""
    made, clone = folder / "origin", folder / "clone"
    model = made / "acme" / "taxi"
    model.mkdir(parents=True)
    taxi = ROOT / "flows" / "models" / "taxi"
    spec = (taxi / "spec.py").read_text().replace("flows.models.taxi.estimator", "acme.taxi.estimator")
    (model / "__init__.py").touch()
    (model / "spec.py").write_text(
        spec.replace('"learning_rate": 0.08, "max_iter": 200', '"learning_rate": 0.15, "max_iter": 40')
    )
    (model / "estimator.py").write_text((taxi / "estimator.py").read_text())
    git(made, "init", "--quiet", "--initial-branch", "main")
    git(made, "add", ".")
    git(made, *IDENTITY, "commit", "--quiet", "--message", "The taxi model")
    git(folder, "clone", "--quiet", str(made), str(clone))
    git(clone, "config", "user.name", "Ada")
    git(clone, "config", "user.email", "ada@acme.example")
    return clone


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
