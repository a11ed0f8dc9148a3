"""The service with two workers under load at eight connections: swaps, stores taken away, a worker killed."""

import http.client
import json
import os
import shutil
import signal
import sqlite3
import threading
import time
from dataclasses import dataclass

import httpx
import numpy as np
import psutil
import pytest
from online_parts import launch, make_online_store, ready, record
from serving_parts import ROW, eventually, home, make_bundle, promote

from flows import database, ledger
from flows.models.taxi.spec import spec
from flows.steps.prediction_log import read_predictions

CONNECTIONS = 8
FOLLOWED_SECONDS = 2.0  # within which each worker serves a promotion
BODY = json.dumps(ROW).encode()


@dataclass(frozen=True)
class Asked:
    """One request: when it was asked and answered (monotonic seconds), and with what; status 0 if not at all."""

    start: float
    end: float
    status: int
    version: int
    request_id: str


class Load:
    """Eight connections, each asking one request after the other until the end of the block."""

    def __init__(self, url):
        self.host = url.removeprefix("http://")
        self.asked = []
        self.stop = threading.Event()

    def __enter__(self):
        self.threads = [threading.Thread(target=self.ask) for _ in range(CONNECTIONS)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def ask(self):
        connection = http.client.HTTPConnection(self.host, timeout=30)
        while not self.stop.is_set():
            start = time.monotonic()
            try:
                connection.request("POST", "/predict", BODY)
                answer = connection.getresponse()
                content = json.loads(answer.read())
                found = (answer.status, content.get("version", 0), content.get("request_id", ""))
            except (OSError, http.client.HTTPException):
                connection.close()
                found = (0, 0, "")
            self.asked.append(Asked(start, time.monotonic(), *found))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A home with features, three versions that can be promoted, and the first one promoted."""
    settings = home(tmp_path_factory.mktemp("home"), follow_seconds=0.2)
    make_online_store(settings)
    bundles = {}
    for version in (1, 2, 3):
        folder = settings.home / "bundles" / str(version)
        bundles[version] = (folder, make_bundle(folder, rows=500 + 100 * version))
    engine = database.connect(settings)
    promote(engine, *bundles[1], 1)
    yield settings, engine, bundles
    engine.dispose()


@pytest.fixture(scope="module")
def service(place):
    """The running service: the parent's process and the URL."""
    process = launch(place[0], "--port", "0", "--workers", "2")
    try:
        url = record(place[0], process)["url"]
        ready(url)
        eventually(lambda: len(served_by_worker(url)) == 2, 60)
        yield process, url
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=30)
        assert "Traceback" not in errors


def served_by_worker(url):
    """Return the version that each worker serves."""
    lines = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()
    found = [line for line in lines if line.startswith("evergreen_model_version{")]
    return {line.partition('worker="')[2].partition('"')[0]: float(line.rpartition(" ")[2]) for line in found}


def p99(asked):
    return float(np.quantile([one.end - one.start for one in asked], 0.99)) * 1000


def test_twenty_promotions_and_rollbacks_fail_no_request_and_no_answer_is_of_a_version_that_was_not_champion(
    place, service, capsys
):
    _, engine, bundles = place
    reigned = [(time.monotonic() - 10.0, 1)]  # since when which version was champion
    quiet, swapping = [], []
    for _ in range(2):
        with Load(service[1]) as load:
            time.sleep(2.0)
        quiet += load.asked
        with Load(service[1]) as load:
            for _ in range(10):
                version = 1 + len(reigned) % 3
                reigned.append((time.monotonic(), version))
                promote(engine, *bundles[version], version, "rollback" if version == 1 else "promote")
                time.sleep(0.4)
        swapping += load.asked
    assert {one.status for one in quiet + swapping} == {200}
    assert {one.version for one in swapping} == {1, 2, 3}
    ends = [start for start, _ in reigned[1:]] + [time.monotonic() + 10.0]
    for one in swapping:
        assert any(
            start <= one.end and one.start <= end + FOLLOWED_SECONDS
            for (start, version), end in zip(reigned, ends, strict=True)
            if version == one.version
        )
    with capsys.disabled():
        print(
            f"\nswaps at {CONNECTIONS} connections: p99 {p99(swapping):.1f} ms while swapping ({len(swapping)} requests), "
            f"{p99(quiet):.1f} ms in quiet ({len(quiet)}), {p99(swapping) / p99(quiet):.2f} times"
        )
    assert p99(swapping) <= 3 * p99(quiet)


def test_every_worker_serves_a_promotion_within_two_seconds(place, service):
    _, engine, bundles = place
    for version in (2, 3):
        promoted = time.monotonic()
        promote(engine, *bundles[version], version)
        with httpx.Client() as client:
            while time.monotonic() < promoted + FOLLOWED_SECONDS:
                client.get(f"{service[1]}/healthz")
                time.sleep(0.05)
        with Load(service[1]) as load:
            time.sleep(0.5)
        assert {one.version for one in load.asked} == {version}


def test_ledger_bundles_and_online_store_taken_away_in_turn_fail_no_request(place, service):
    settings, _, _ = place
    url = service[1]
    store = next(path for path in settings.home.rglob("*.db") if "online" in path.name)

    def state(name):
        return httpx.get(f"{url}/readyz", timeout=30).json()[name]

    with Load(url) as load:
        time.sleep(0.5)
        with sqlite3.connect(settings.home / "ledger.db") as connection:
            connection.execute("ALTER TABLE promotions RENAME TO away")
        eventually(lambda: state("ledger_answers") is False)
        eventually(lambda: "the ledger does not answer" in (state("error") or ""))  # whichever worker is asked
        with sqlite3.connect(settings.home / "ledger.db") as connection:
            connection.execute("ALTER TABLE away RENAME TO promotions")
        eventually(lambda: state("following"))
        (settings.home / "bundles").rename(settings.home / "bundles-away")
        shutil.rmtree(settings.cache)
        time.sleep(0.5)
        (settings.home / "bundles-away").rename(settings.home / "bundles")
        store.rename(store.with_suffix(".away"))
        eventually(lambda: state("features_error"))
        time.sleep(0.5)
        store.with_suffix(".away").rename(store)
        eventually(lambda: state("features_error") is None)
    assert {one.status for one in load.asked} == {200}


def test_a_killed_worker_loses_no_answered_prediction_and_is_started_again(place, service):
    settings, _, _ = place
    process, url = service
    before = psutil.Process(process.pid).children()
    with Load(url) as load:
        time.sleep(1.0)
        os.kill(before[0].pid, signal.SIGKILL)
        time.sleep(1.0)
    answered = [one.request_id for one in load.asked if one.status == 200]
    broken = [one for one in load.asked if one.status != 200]
    assert len(broken) <= CONNECTIONS  # those that the killed worker had under way
    assert {one.status for one in broken} <= {0}
    assert len(answered) > 100
    assert set(answered) <= set(read_predictions(settings, spec)["request_id"].to_pylist())
    eventually(lambda: len(psutil.Process(process.pid).children()) == 2)
    champion = ledger.champion(database.connect(settings), "taxi").version
    eventually(lambda: list(served_by_worker(url).values()) == [champion] * 2, 60)


def test_a_worker_that_is_started_again_takes_no_request_before_it_can_answer(service):
    process, url = service
    with Load(url) as load:
        for _ in range(4):
            victim = psutil.Process(process.pid).children()[0]
            time.sleep(6.0)  # one that dies sooner after its start is started again later
            victim.kill()
            eventually(lambda known=victim.pid: known not in workers(process), 30)
            eventually(lambda: len(workers(process)) == 2, 30)
        time.sleep(6.0)
    assert {one.status for one in load.asked} <= {200, 0}
    assert len([one for one in load.asked if one.status == 0]) <= 4 * CONNECTIONS  # those that were under way
    assert len([one for one in load.asked if one.status == 200]) > 400


def workers(process):
    """Return the numbers of the living workers."""
    return [one.pid for one in psutil.Process(process.pid).children() if one.status() != psutil.STATUS_ZOMBIE]
