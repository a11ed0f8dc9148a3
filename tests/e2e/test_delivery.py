"""The delivery of two pipeline versions through two places, by the commands that cd.yml runs, in its order.

The first passes in staging and goes on to prod; the second is broken: staging puts the first back, prod never sees it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from training_parts import QUICK, TESTS, champion, history, opened

from deployments.delivery import live
from flows import database
from flows.settings import Settings

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
EVERGREEN = Path(sys.executable).parent / "evergreen"
LOAD = ["--seconds", "2", "--p99", "5000"]
BROKEN = """

def fit(*arguments, **options):
    raise RuntimeError("this pipeline version is broken on purpose")
"""


def source_tree(folder: Path) -> Path:
    """Return a copy of the sources, as a checkout of another commit would be."""
    for name in ("flows", "feature_repo", "deployments"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


class Places:
    """The places staging and prod, and the command line in their environment."""

    def __init__(self, folder: Path, api_url: str) -> None:
        self.staging, self.prod = Settings(home=folder / "staging"), Settings(home=folder / "prod")
        path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("EVERGREEN_")} | {
            "EVERGREEN_STAGING_HOME": str(self.staging.home), "EVERGREEN_PROD_HOME": str(self.prod.home),
            "EVERGREEN_STAGING_PREFECT_API_URL": api_url, "EVERGREEN_PROD_PREFECT_API_URL": api_url,
            "EVERGREEN_MODEL_PACKAGES": QUICK, "PYTHONPATH": path,
        }  # fmt: skip

    def evergreen(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [EVERGREEN, *words], env=self._environment, capture_output=True, text=True, timeout=600, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def well(self, *words: str) -> dict:
        done = self.evergreen(*words, "--json")
        assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-500:]
        return json.loads(done.stdout)

    def in_force(self, place: Settings) -> str | None:
        found = live(database.connect(place), "taxi")
        return found.summary["version"] if found else None


@pytest.fixture(scope="module")
def places(tmp_path_factory, simulated_days, prefect_api):
    folder = tmp_path_factory.mktemp("delivery")
    found = Places(folder, prefect_api)
    with opened(found.staging.home, prefect_api):
        from flows.ingest import ingest

        ingest(str(simulated_days))
    return found


@pytest.fixture(scope="module")
def good(places, tmp_path_factory):
    """Return the source tree of the first version and what staging said of it."""
    tree = source_tree(tmp_path_factory.mktemp("versions") / "one")
    return tree, places.well("deliver", str(tree), "--to", "staging", "--why", "first", *LOAD)


def test_a_version_passes_in_staging_with_a_training_and_a_service_under_load(places, good):
    _, said = good
    assert said["steps"] == ["plan", "featurize", "deploy", "train", "smoke"]
    assert places.in_force(places.staging) == "one"
    assert champion(places.staging) == 1


def test_what_passed_goes_to_prod_and_its_model_is_copied_not_trained(places, good):
    tree, _ = good
    said = places.well("deliver", str(tree), "--to", "prod", "--after", "staging", "--why", "passed in staging")
    assert said["steps"] == ["plan", "featurize", "deploy"]
    made = places.well("promote", "--from", "staging", "--to", "prod")
    assert made["version"] == 1
    assert champion(places.prod) == 1
    with database.connect(places.prod).connect() as connection:
        flows = {row[0] for row in connection.exec_driver_sql("SELECT flow FROM runs")}
    assert "train" not in flows
    assert places.well("doctor", "--home", str(places.prod.home))


def test_a_broken_version_is_rolled_back_in_staging_and_never_reaches_prod(places, good, tmp_path):
    before = history(places.staging), history(places.prod)
    tree = source_tree(tmp_path / "two")
    with (tree / "flows" / "steps" / "fitting.py").open("a") as file:
        file.write(BROKEN)
    done = places.evergreen("deliver", str(tree), "--to", "staging", "--why", "second", *LOAD)
    assert done.returncode == 1
    assert "broken on purpose" in done.stderr
    assert "version one is in force again" in done.stderr
    refused = places.evergreen("deliver", str(tree), "--to", "prod", "--after", "staging")
    assert refused.returncode == 1
    assert "version two is not what passed in staging (one is)" in refused.stderr
    assert places.in_force(places.staging) == "one"
    assert (history(places.staging), history(places.prod)) == before


def test_a_version_that_takes_a_feature_away_is_refused_before_anything_is_changed(places, good, tmp_path):
    tree = source_tree(tmp_path / "three")
    file = tree / "feature_repo" / "taxi.py"
    file.write_text(
        file.read_text().replace('"mph_mean_7d": (Float64, "mean speed in miles an hour, last 7 days"),', "")
    )
    done = places.evergreen("deliver", str(tree), "--to", "staging", *LOAD)
    assert done.returncode == 1
    assert "destructive: feature" in done.stderr
    assert "mph_mean_7d" in done.stderr


def test_the_version_before_is_put_back_by_hand_with_the_reason_in_the_ledger(places, good, tmp_path):
    tree, _ = good
    places.well("deliver", str(tree), "--to", "staging", "--name", "four", "--no-trial")
    assert places.in_force(places.staging) == "four"
    places.well("deliver", "-", "--to", "staging", "--why", "four was too slow")
    assert places.in_force(places.staging) == "one"
    assert live(database.connect(places.staging), "taxi").reason == "four was too slow"
