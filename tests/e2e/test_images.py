"""Both images are built and used for real: a training in one, a prediction from the other, nobody being root.

About two minutes on two idle cores, of which the builds take more than one if the engine's cache is empty.
"""

import json
import os
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from docker_parts import UNPRIVILEGED, base_image, build, megabytes

from flows.settings import Settings

pytestmark = pytest.mark.long

MOST_ABOVE_BASE = 500  # MB, of the service image
LEFT_OUT = ("prefect", "great_expectations", "mlflow", "feast", "optuna", "matplotlib", "pip", "uv", "pytest", "boto3")
TOOLS = ("gcc", "cc", "make", "git", "uv", "curl")
USER = 10001
ASK = """
import json, urllib.request as request
row = {"lpep_pickup_datetime": "2024-01-09T08:30:00", "PULocationID": 74, "DOLocationID": 42, "trip_distance": 2.4}
call = request.Request("http://127.0.0.1:8300/predict", json.dumps(row).encode(), {"content-type": "application/json"})
print(request.urlopen(call, timeout=10).read().decode())
"""


TRAIN = """
import json, logging, os, warnings
os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
warnings.simplefilter("ignore")
from flows.settings import load
from flows.steps.prefect_server import prefect_server
with prefect_server(load()):
    from flows.featurize import featurize
    from flows.ingest import ingest
    from flows.runs import settle
    from flows.train import train
    ingest("/days")
    featurize()
    said = train()
    settle()
print(json.dumps(said, default=str))
"""


class Images:
    """The built images and what runs them."""

    def __init__(self, docker: str, base: str) -> None:
        self.docker, self.base = docker, base
        self.train, self.service = build(docker, base, "train"), build(docker, base, "service")

    def run(self, image: str, *command: str, options: tuple[str, ...] = (), seconds: float = 300) -> str:
        """Run a command in an image, unprivileged, and return what it printed."""
        name = f"evergreen-{uuid.uuid4().hex[:12]}"
        call = [self.docker, "run", "--rm", "--name", name, *UNPRIVILEGED, *options, image, *command]
        try:
            done = subprocess.run(call, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            subprocess.run([self.docker, "rm", "-f", name], capture_output=True, check=False)
            raise
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-3000:]}{done.stdout[-1000:]}"
        return done.stdout


def _healthy(docker: str, name: str, seconds: float = 90) -> bool:
    """Wait until Docker calls a container healthy."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = subprocess.run(
            [docker, "inspect", "--format", "{{.State.Health.Status}}", name],
            capture_output=True,
            text=True,
            check=False,
        )
        if state.stdout.strip() == "healthy":
            return True
        time.sleep(0.5)
    return False


def _logs(docker: str, name: str) -> str:
    done = subprocess.run([docker, "logs", name], capture_output=True, text=True, check=False)
    return f"{done.stdout[-2000:]}{done.stderr[-2000:]}"


@pytest.fixture(scope="module")
def images() -> Images:
    return Images(*base_image())


@pytest.fixture(scope="module")
def trained(images: Images, simulated_days: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Return a home that the train image has filled, and what the training said."""
    home = tmp_path_factory.mktemp("image") / "home"
    home.mkdir()
    os.chown(home, USER, USER)
    for folder in (home.parent, home.parent.parent, home.parent.parent.parent, simulated_days):
        folder.chmod(0o755)  # pytest keeps them to its own user
    mounts = ("-v", f"{home}:/data", "-v", f"{simulated_days}:/days:ro")
    said = images.run(images.train, "python", "-c", TRAIN, options=mounts)
    return home, json.loads(said.splitlines()[-1])


def test_a_model_is_trained_inside_the_train_image(trained: tuple[Path, dict]) -> None:
    home, said = trained
    assert said["promoted"]
    assert said["failed"] == []
    assert (home / "ledger.db").stat().st_uid == USER


def test_the_service_image_serves_that_model(images: Images, trained: tuple[Path, dict]) -> None:
    home, said = trained
    name = f"evergreen-{uuid.uuid4().hex[:12]}"
    start = [images.docker, "run", "-d", "--name", name, *UNPRIVILEGED, "-v", f"{home}:/data", images.service]
    subprocess.run(start, capture_output=True, check=True, timeout=60)
    try:
        assert _healthy(images.docker, name), _logs(images.docker, name)
        answer, deadline = None, time.monotonic() + 30
        while answer is None:
            asked = subprocess.run(
                [images.docker, "exec", name, "python", "-c", ASK],
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            if asked.returncode == 0:
                answer = json.loads(asked.stdout)
            assert time.monotonic() < deadline, asked.stderr + _logs(images.docker, name)
        assert answer["version"] == said["version"]
        (predicted,) = answer["predictions"]
        assert 1 < predicted["prediction"] < 60
        # The zones' features were read from the online store, without Feast; nobody has driven this route in a week.
        assert set(predicted["unknown"]) <= {"route"}
    finally:
        subprocess.run([images.docker, "rm", "-f", name], capture_output=True, check=False, timeout=60)


def test_a_train_image_is_delivered_as_a_source_tree_is(
    images: Images, tmp_path: Path, prefect_api: str, restored_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deployments.delivery import deliver, live
    from flows import database
    from flows.models.taxi.spec import spec

    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    monkeypatch.setenv("EVERGREEN_DOCKER", images.docker)
    place = Settings(home=tmp_path / "place").activate()
    said = deliver(place, spec, images.train, "an image", "for a test", trial=False)
    assert said["steps"] == ["plan", "featurize", "deploy"]
    found = live(database.connect(place), "taxi")
    assert found is not None
    assert found.summary["source"] == images.train


def test_neither_image_runs_as_root_or_holds_what_it_does_not_need(images: Images) -> None:
    for image in (images.train, images.service):
        assert images.run(image, "-u", options=("--entrypoint", "id")).strip() == str(USER)
        found = images.run(image, "-c", f"command -v {' '.join(TOOLS)}; true", options=("--entrypoint", "sh"))
        assert found.split() == []
    look = f"from importlib.util import find_spec; print([name for name in {LEFT_OUT} if find_spec(name)])"
    assert images.run(images.service, "-c", look, options=("--entrypoint", "python")).strip() == "[]"


def test_the_images_are_small(images: Images, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {name: megabytes(images.docker, name) for name in (images.base, images.train, images.service)}
    with capsys.disabled():
        print("\n" + "\n".join(f"{name}: {size:.0f} MB" for name, size in sizes.items()))
    assert sizes[images.service] - sizes[images.base] <= MOST_ABOVE_BASE
