"""Fault 8: the stores that training works with are away when the service starts, and later.

The service needs the ledger alone, and that only to learn of changes: MLflow and the bundles' own folders may be gone.
It serves the last good model from its cache, or is not ready.
"""

import re
import shutil
import threading

import pytest
import sqlalchemy as sa
from serving_parts import ROW, eventually, home, make_bundle, promote, serving, version_of

from deployments.service import cache, follower
from flows import database, ledger

NOBODY = "http://127.0.0.1:9"  # the discard port, on which nobody listens


@pytest.fixture
def origin(tmp_path):
    folder = tmp_path / "origin"
    return folder, make_bundle(folder)


@pytest.fixture
def settings(tmp_path):
    return home(tmp_path / "home", follow_seconds=0.02, mlflow_tracking_uri=NOBODY)


def without_ledger(settings):
    """Return the settings of the same home with a ledger that is out of reach."""
    return home(settings.home, follow_seconds=0.02, ledger_url="sqlite:////proc/nowhere/ledger.db")


def served_once(settings, origin, version=1):
    """Let a service serve a version, so that it is in the cache."""
    promote(database.connect(settings), *origin, version)
    with serving(settings) as client:
        eventually(lambda: version_of(client) == version)
        return client.post("/predict", json=ROW).json()["predictions"]


def test_the_last_good_model_is_served_from_the_cache_when_ledger_and_bundles_are_away(settings, origin):
    before = served_once(settings, origin)
    shutil.rmtree(origin[0])
    with serving(without_ledger(settings)) as client:
        eventually(lambda: version_of(client) == 1)
        state = eventually(lambda: client.get("/readyz").json() if client.get("/readyz").json()["error"] else None)
        assert (state["ready"], state["following"], state["ledger_answers"]) == (True, False, False)
        assert "the ledger does not answer" in state["error"]
        assert client.post("/predict", json=ROW).json()["predictions"] == before


def test_the_champions_copy_outlives_all_that_were_on_trial_beside_it(settings, origin, monkeypatch):
    from sklearn.ensemble import HistGradientBoostingRegressor

    monkeypatch.setattr(cache, "KEPT", 2)
    copies = cache.BundleCache(settings, "taxi")
    served = promote(database.connect(settings), *origin, 1)
    copies.fetch(served)
    copies.remember(served)
    for number in range(3):
        folder = settings.home / f"trial-{number}"
        digest = make_bundle(folder, HistGradientBoostingRegressor(max_iter=2 + number, random_state=0))
        copies.fetch(served.model_copy(update={"model_uri": str(folder), "digest": digest}))
    assert copies.last()[0] == served
    assert len([path for path in (settings.cache / "taxi").iterdir() if path.is_dir()]) == 3


def test_a_ledger_that_hangs_is_told_like_one_that_is_away(settings, origin, monkeypatch):
    promote(database.connect(settings), *origin, 1)
    monkeypatch.setattr(follower, "STALE_SECONDS", 0.3)
    asked, answers = ledger.champion, threading.Event()
    answers.set()
    monkeypatch.setattr(follower.ledger, "champion", lambda *wanted: answers.wait(60) and asked(*wanted))
    with serving(settings) as client:
        eventually(lambda: client.get("/readyz").json()["following"])
        answers.clear()
        state = eventually(lambda: found if (found := client.get("/readyz").json())["error"] else None)
        assert (state["ready"], state["following"], state["ledger_answers"]) == (True, False, False)
        assert "the ledger has not answered since" in state["error"]
        eventually(lambda: re.search(r"^evergreen_ledger_up\{.* 0\.0$", client.get("/metrics").text, re.MULTILINE))
        assert client.post("/predict", json=ROW).status_code == 200
        answers.set()
        eventually(lambda: client.get("/readyz").json()["following"])


def test_without_a_cache_it_is_not_ready_and_says_why(settings):
    with serving(without_ledger(settings)) as client:
        error = eventually(lambda: client.get("/readyz").json()["error"])
        assert "the ledger does not answer" in error
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        assert client.post("/predict", json=ROW).status_code == 503


@pytest.mark.parametrize("name", ["model.skops", "serving.json", "last.json"])
def test_a_damaged_cache_is_never_served(name, settings, origin):
    served_once(settings, origin)
    (path,) = settings.cache.rglob(name)
    path.write_bytes(path.read_bytes()[:-20] + b"x" * 20)
    with serving(without_ledger(settings)) as client:
        eventually(lambda: client.get("/readyz").json()["error"])
        assert client.get("/readyz").status_code == 503


def test_a_damaged_cache_is_made_again_from_the_bundle(settings, origin):
    before = served_once(settings, origin)
    (path,) = settings.cache.rglob("model.skops")
    path.write_bytes(b"damaged")
    with serving(settings) as client:
        eventually(lambda: version_of(client) == 1)
        assert client.post("/predict", json=ROW).json()["predictions"] == before
    assert path.read_bytes() == (origin[0] / "model.skops").read_bytes()


def test_a_champion_that_is_gone_leaves_the_last_good_one_at_the_next_start(settings, origin, tmp_path):
    served_once(settings, origin)
    promote(database.connect(settings), tmp_path / "gone", "0" * 64, 2)
    with serving(settings) as client:
        eventually(lambda: version_of(client) == 1)
        assert "version 2 is refused" in eventually(lambda: client.get("/readyz").json()["error"])


def test_a_ledger_that_breaks_later_stops_nothing_and_is_followed_again_once_mended(settings, origin, tmp_path):
    engine = database.connect(settings)
    promote(engine, *origin, 1)
    with serving(settings) as client:
        eventually(lambda: client.get("/readyz").json()["following"])
        with database.write(engine) as connection:
            connection.execute(sa.text("ALTER TABLE promotions RENAME TO away"))
        eventually(lambda: not client.get("/readyz").json()["ledger_answers"])
        assert client.get("/readyz").status_code == 200
        assert client.post("/predict", json=ROW).json()["version"] == 1
        with database.write(engine) as connection:
            connection.execute(sa.text("ALTER TABLE away RENAME TO promotions"))
        eventually(lambda: client.get("/readyz").json()["following"])
        promote(engine, tmp_path / "other", make_bundle(tmp_path / "other", rows=700), 2)
        eventually(lambda: version_of(client) == 2)
