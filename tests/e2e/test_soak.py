"""Sixty simulated days at full speed on a real stack, while it is killed, started anew and fed with bad files.

Days come in files of twelve; twelve accepted partitions ask for a training. At the end the ledger, the registry and the
promotions must fit each other, whatever happened in between.
"""

import time
from collections import Counter
from datetime import date, timedelta

import httpx
import pandas as pd
import psutil
import pytest
from stack_parts import Stack, stack
from training_parts import artifact, opened

from flows import arrivals, causes, database, ledger, run_records
from flows.models.taxi.simulator import simulate_day
from flows.steps import registry

pytestmark = pytest.mark.long

FIRST = date(2024, 1, 1)
DAYS, TRIPS = 60, 400
SECONDS = 300.0
LATE, MENDED = 17, 40  # days whose rows come after the others of their file, the second as a malformed file at first


def days(*numbers: int) -> pd.DataFrame:
    found = [simulate_day(FIRST + timedelta(days=number), trips=TRIPS) for number in numbers]
    return pd.concat(found, ignore_index=True)


def key(number: int) -> str:
    return str(FIRST + timedelta(days=number))


def drop(up: Stack, name: str, rows: pd.DataFrame) -> None:
    """Let a file arrive as a whole."""
    rows.to_parquet(up.landing / f".{name}")
    (up.landing / f".{name}").rename(up.landing / f"{name}.parquet")


class Soak:
    """The stack and what its stores say; what was done to it is counted."""

    def __init__(self, up: Stack, home) -> None:
        self.up = up
        self.home = home
        self.engine = database.connect(home)
        self.done = Counter()

    def taken(self) -> bool:
        """Say whether every file was ingested and every partition decided."""
        if arrivals.untaken(self.engine, "taxi", self.up.landing):
            return False
        return not ledger.list_partitions(self.engine, "taxi", "landed") and not self.running("ingest")

    def running(self, flow: str) -> list[run_records.Run]:
        return [run for run in run_records.under_way(self.engine, "taxi") if run.flow == flow]

    def quiet(self, trainings: int) -> bool:
        """Say whether all files are taken and so many causes of new data have their answer."""
        found = [one for one in causes.listed(self.engine, "taxi") if one.kind == "new data"]
        answered = [one for one in found if one.answered_at]
        return self.taken() and len(answered) >= trainings and len(answered) == len(found)

    def in_mid_training(self) -> bool:
        """Say whether a training has its training set and is not through."""
        return bool(list(self.home.stages("taxi").glob("*/build-training-set.json")) and self.running("train"))

    def in_mid_ingest(self) -> bool:
        return bool(self.running("ingest") and ledger.list_partitions(self.engine, "taxi", "landed"))

    def kill(self, words: str) -> None:
        """Kill -9 the stack's process with these words in its command, and its children; the others end by themselves."""
        all_of_it = psutil.Process(self.up.process.pid).children(recursive=True)
        (victim,) = [one for one in all_of_it if words in " ".join(one.cmdline()) and "sh" not in one.name()]
        for process in [victim, *victim.children(recursive=True)]:
            process.kill()
        self.up.process.wait(60)
        self.done[f"kill -9 of {words}"] += 1
        self.restart()

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        assert self.up.interrupt() == 130
        self.done["Ctrl-C"] += 1
        self.restart()

    def restart(self) -> None:
        """Start the stack again on its home."""
        self.up.start()


@pytest.fixture(scope="module")
def soak(tmp_path_factory):
    with (
        stack(tmp_path_factory.mktemp("soak") / "home", '["team.soak"]') as up,
        opened(up.home, up.api, '["team.soak"]') as home,
    ):
        yield Soak(up, home)


def test_sixty_days_with_faults_lose_nothing_and_train_nothing_twice(soak):
    up, began = soak.up, time.monotonic()
    up.wait(soak.up.landing.is_dir, 30)

    drop(up, "one", days(*range(12)))
    up.wait(lambda: soak.quiet(1), SECONDS)

    # The same rows under another name, a day that is missing, and comes late.
    drop(up, "one-again", days(*range(12)))
    drop(up, "two", days(*(number for number in range(12, 24) if number != LATE)))
    up.wait(soak.taken, SECONDS)
    drop(up, "two-late", days(LATE))
    up.wait(lambda: soak.quiet(2), SECONDS)

    # The worker is killed in mid-run, with the run; the stack ends, the next one goes on.
    drop(up, "three", days(*range(24, 36)))
    up.wait(soak.in_mid_training, SECONDS)
    soak.kill("prefect worker start")
    up.wait(lambda: soak.quiet(3), SECONDS)

    # The server is killed while files are being taken, and one of the days is malformed.
    drop(up, "four-bad", days(MENDED).rename(columns={"trip_distance": "miles"}))
    drop(up, "four", days(*(number for number in range(36, 48) if number != MENDED)))
    up.wait(soak.in_mid_ingest, SECONDS)
    soak.kill("prefect server start")
    up.wait(soak.taken, SECONDS)
    assert [one.key for one in quarantined(soak) if one.key == key(MENDED)]
    drop(up, "four-mended", days(MENDED))
    up.wait(lambda: soak.quiet(4), SECONDS)

    # A person presses Ctrl-C with a training under way.
    drop(up, "five", days(*range(48, 60)))
    up.wait(soak.in_mid_training, SECONDS)
    soak.interrupt()
    up.wait(lambda: soak.quiet(5), SECONDS)

    up.wait(lambda: httpx.get(f"{up.service}/readyz").status_code == 200, 60)
    print(f"{time.monotonic() - began:.0f} s")
    print(", ".join(f"{what}: {count}" for what, count in soak.done.items()))


def quarantined(soak: Soak) -> list[ledger.Partition]:
    return ledger.list_partitions(soak.engine, "taxi", "quarantined")


def test_no_partition_is_lost_or_decided_twice(soak):
    found = ledger.list_partitions(soak.engine, "taxi")
    wanted = {key(number) for number in range(DAYS)}
    kept = Counter(one.key for one in found if one.status == "accepted")
    assert {name: kept[name] for name in wanted} == dict.fromkeys(wanted, 1)
    assert set(kept) == wanted
    assert not [one for one in found if one.status == "landed"]
    rows = sum(one.accepted_rows for one in found if one.status == "accepted")
    states = Counter(one.status for one in found)
    print(f"partitions: {dict(states)}, {rows:,} accepted rows")


def test_each_accepted_partition_is_the_cause_of_one_training_and_of_no_other(soak):
    found = [one for one in causes.listed(soak.engine, "taxi") if one.kind == "new data"]
    asked = Counter(name for one in found for name in one.payload["partitions"])
    assert asked == Counter({key(number): 1 for number in range(DAYS)})
    assert all(one.claimed_by and one.outcome and "trained" in one.outcome for one in found), found
    print(f"causes of new data: {len(found)}: {Counter(one.outcome.partition(' version')[0] for one in found)}")


def test_every_version_has_its_lineage_and_no_data_made_two(soak):
    versions = registry.versions(soak.home, "taxi")
    digests = {(one.key, one.digest) for one in ledger.list_partitions(soak.engine, "taxi")}
    runs = {run.id: run for run in run_records.newest(soak.engine, "taxi", 1000)}
    made = Counter()
    for version in versions:
        lineage = artifact(soak.home, version.run_id, "lineage.json")
        assert lineage["reason"] == version.reason
        assert lineage["run_id"] in runs
        assert lineage["partitions"]
        assert {(one["key"], one["digest"]) for one in lineage["partitions"]} <= digests
        made[lineage["fingerprint"]] += 1
    assert set(made.values()) == {1}
    trained = [run for run in runs.values() if run.flow == "train" and run.state == "completed"]
    assert sorted(run.summary["version"] for run in trained if run.summary["version"]) == sorted(
        one.version for one in versions
    )
    assert not soak.running("train")
    print(f"versions: {len(versions)}; runs: {dict(Counter((run.flow, run.state) for run in runs.values()))}")


def test_there_was_one_champion_at_every_moment(soak):
    history = ledger.list_promotions(soak.engine, "taxi")[::-1]
    assert [one.sequence for one in history] == list(range(1, len(history) + 1))
    assert [one.previous_version for one in history] == [None, *(one.version for one in history[:-1])]
    assert [one.at for one in history] == sorted(one.at for one in history)
    assert len({one.version for one in history}) == len(history)
    assert registry.aliases(soak.home, "taxi").get("champion") == history[-1].version
    print(f"promotions: {[one.version for one in history]}")


def test_runs_that_were_killed_are_told_as_crashed_and_none_is_left_running(soak):
    ended = Counter(run.state for run in run_records.newest(soak.engine, "taxi", 1000))
    assert ended["running"] == 0
    assert ended["crashed"] >= 1
