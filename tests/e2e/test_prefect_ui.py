"""What a person sees in the Prefect UI: the deployments, a training's graph, the gates with their pictures.

Runs in Debian's Chromium, headless; the screenshots are kept with pytest's temporary files.
"""

import io
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from services_parts import missing
from training_parts import copy_home, featurized, opened

from flows import database, run_records

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE = 30  # seconds until a page must show what it is to show


@pytest.fixture(scope="module")
def home(tmp_path_factory, simulated_days, prefect_api):
    from flows.train import train

    source = featurized(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)
    with opened(tmp_path_factory.mktemp("ui") / "home", prefect_api) as settings:
        copy_home(source, settings)
        assert train()["promoted"]  # on the server whose pages are looked at
        yield settings


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator:
    if not CHROMIUM or not DRIVER:
        missing("chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--window-size=1400,1100", f"--user-data-dir={profile}"):  # fmt: skip
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, prefect_api, tmp_path):
    """Open a page of the UI, wait for something that it must show, and keep a picture of it."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def show(path: str, what: str):
        browser.get(prefect_api.removesuffix("/api") + path)
        found = WebDriverWait(browser, PATIENCE).until(lambda driver: driver.find_elements(By.XPATH, what))
        browser.save_screenshot(str(tmp_path / f"{path.strip('/').split('/')[0]}.png"))
        return found

    return show


def training(home) -> str:
    """Return the flow run that made the champion; other tests of the session train on the same server."""
    return next(run.id for run in run_records.newest(database.connect(home), "taxi") if run.flow == "train")


def test_the_deployments_are_listed(home, page):
    from deployments.deploy import deploy

    deploy(home)
    shown = page("/deployments", "//*[normalize-space()='monitor']")
    assert shown
    assert page("/deployments", "//*[normalize-space()='retrain']")


def green(picture: bytes) -> float:
    """Return the share of a picture's pixels in the colour of a finished run."""
    image = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=int)
    red, greens, blue = image[..., 0], image[..., 1], image[..., 2]
    return float(((greens > 120) & (greens > red + 60) & (greens > blue + 40)).mean())


def test_a_training_shows_its_stages_as_a_graph(home, browser, page, tmp_path):
    from prefect import get_client
    from selenium.webdriver.support.ui import WebDriverWait

    run = training(home)
    (canvas,) = page(f"/runs/flow-run/{run}", "//canvas")
    # The graph is drawn on a canvas, so its bars can be seen, and its data is what the page asks the server for.
    WebDriverWait(browser, PATIENCE).until(lambda _: green(canvas.screenshot_as_png) > 0.01)
    browser.save_screenshot(str(tmp_path / "graph.png"))
    with get_client(sync_client=True) as client:
        nodes = client.request("GET", "/flow_runs/{id}/graph-v2", path_params={"id": run}).json()["nodes"]
    labels = {node["label"].rsplit("-", 1)[0] for _, node in nodes}
    assert {"build-training-set", "fit", "evaluate", "probe", "register"} <= labels


def test_the_gates_of_a_training_are_on_its_page_with_the_pictures(home, page):
    from prefect import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["gates-taxi"])))
    artifacts = [one for one in found if str(one.flow_run_id) == training(home)]
    assert "[MLflow run](http://127.0.0.1:5000/#/experiments/" in str(artifacts[0].data)
    gates = page(f"/artifacts/artifact/{artifacts[0].id}", "//td[normalize-space()='same predictions']")
    assert gates
    drawn = page(f"/artifacts/artifact/{artifacts[0].id}", "//img[starts-with(@src, 'data:image/png')]")
    assert len(drawn) == 2
    assert all(int(picture.get_property("naturalWidth")) > 500 for picture in drawn)
