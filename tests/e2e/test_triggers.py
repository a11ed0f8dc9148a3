"""Each of the six triggers on a real stack: cause in, training out, with its reason in its parameters and in the lineage.

All of it on one machine, then on a team's Postgres, Redis and S3. The tests of each share one `evergreen up` and come in
the order of this file: each takes the home as the one before left it.
"""

import json
import shutil
import socket
import statistics
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from stack_parts import Stack, at, stack
from team_parts import prefect_on_servers, stores
from training_parts import artifact, opened

from deployments import declared
from flows import causes, database, events, ledger
from flows.models.taxi.simulator import simulate_day
from flows.steps import registry

pytestmark = pytest.mark.long

# `up` runs all parts on one machine, which the profile `team` refuses; the servers are a team's all the same.
LOCAL = {"EVERGREEN_PROFILE": "local"}
FIRST = date(2024, 1, 1)
KEYS = [f"2024-01-{day:02}" for day in range(1, 9)]
_scheduled: list[float] = []  # seconds from the event to the run
_begun: list[float] = []  # and to its first line


@pytest.fixture(scope="module", params=["one machine", "servers"])
def up(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("triggers")
    _scheduled.clear()
    _begun.clear()
    if request.param == "one machine":
        with stack(folder / "home") as running:
            yield running
    else:
        postgres, s3 = (request.getfixturevalue(name) for name in ("postgres", "s3"))
        with (
            stores(folder, postgres, s3, "triggers") as team,
            stack(folder / "home", servers=team.environment | prefect_on_servers(team) | LOCAL) as running,
        ):
            yield running


@pytest.fixture(scope="module")
def home(up):
    with opened(up.home, up.api, servers=up.servers) as settings:
        yield settings


def land(up: Stack, number: int, **change) -> Path:
    """Ingest one more day, as `evergreen ingest` does; it is too little to be a cause by itself."""
    from flows.ingest import ingest

    file = up.home / "source" / f"{FIRST + timedelta(days=number)}.parquet"
    file.parent.mkdir(exist_ok=True)
    simulate_day(FIRST + timedelta(days=number), trips=2000, **change).to_parquet(file)
    assert [one["status"] for one in ingest(str(file))] == ["accepted"]
    return file


def trained(home, up: Stack, before: int, kind: str, *words: str) -> registry.Version:
    """Return the one version that a retraining made after ``before`` versions, with the reason where it belongs."""
    found = registry.versions(home, "taxi")
    assert len(found) == before + 1, [one.reason for one in found]
    version = found[0]
    lineage = artifact(home, version.run_id, "lineage.json")
    (run,) = [one for one in up.runs("train") if one["id"] == lineage["run_id"]]
    assert run["parameters"]["reason"] == lineage["reason"] == version.reason
    assert version.reason.split(":")[0] == kind
    assert all(word in version.reason for word in words), version.reason
    champion = ledger.champion(database.connect(home), "taxi")
    assert (champion.version, champion.why) == (version.version, version.reason)
    return version


def timed(run: dict, event: str, up: Stack) -> None:
    """Note how long after the newest event of a name a run was scheduled, and began."""
    body = {"filter": {"event": {"name": [event]}}, "limit": 50}
    times = [at(one["occurred"]) for one in up.ask("events/filter", body)["events"]]
    told = max(time for time in times if time <= at(run["created"]))
    _scheduled.append((at(run["created"]) - told).total_seconds())
    logs = up.ask("logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "sort": "TIMESTAMP_ASC"})
    line = next(at(one["timestamp"]) for one in logs if one["name"] == "prefect.flow_runs")
    _begun.append((line - told).total_seconds())


def test_the_stack_answers_before_there_is_anything(up):
    assert httpx.get(f"{up.service}/readyz").status_code == 503
    for page in up.pages:
        up.wait(lambda page=page: _answers(page), 60)
    assert httpx.get(up.docs).status_code == 200
    settings = httpx.get(f"{up.pages[0]}/ui-settings", follow_redirects=True).json()
    assert settings["api_url"] == up.api


def _answers(page: str) -> bool:
    try:
        return httpx.get(page, timeout=5, follow_redirects=True).status_code == 200
    except httpx.HTTPError:
        return False


def test_new_data_in_the_landing_folder_trains_with_the_partitions_as_parameters(up, home, simulated_days):
    for file in sorted(simulated_days.glob("*.parquet")):
        shutil.copy(file, up.landing / f".{file.name}")
        (up.landing / f".{file.name}").rename(up.landing / file.name)
    (run,) = up.finished("retrain", 0)
    assert run["state_type"] == "COMPLETED"
    assert (run["parameters"]["trigger"], run["parameters"]["partitions"]) == ("new data", KEYS)
    version = trained(home, up, 0, "new data", "8 partitions (2024-01-01 to 2024-01-08)")
    assert run["parameters"]["reason"] == version.reason
    assert [one["key"] for one in artifact(home, version.run_id, "lineage.json")["partitions"]] == KEYS
    (cause,) = causes.listed(database.connect(home), "taxi")
    assert (cause.claimed_by, cause.outcome) == (run["id"], "trained version 1, promoted")
    timed(run, events.DATA_READY, up)
    (taken,) = up.runs("ingest")
    (training,) = up.runs("train")
    assert taken["name"] == "taxi: files have arrived"
    assert run["name"] == training["name"] == f"taxi: {version.reason}"
    timed(taken, events.LANDING_CHANGED, up)
    up.wait(lambda: httpx.get(f"{up.service}/readyz").status_code == 200, 30)


def test_predictions_that_went_wrong_train_once_for_performance_and_distribution(up, home):
    import pandas as pd

    from flows.runs import settle
    from flows.steps import serving

    for number in (8, 9):
        trips = pd.read_parquet(land(up, number, roads_changed=True))
        trips = trips[trips["lpep_pickup_datetime"].dt.date == FIRST + timedelta(days=number)]
        asked = trips.drop(columns="lpep_dropoff_datetime").assign(
            lpep_pickup_datetime=trips["lpep_pickup_datetime"].astype(str)
        )
        for start in range(0, len(asked), 500):
            serving.predict(up.service, asked[start : start + 500].to_dict("records"))
    settle()
    known = len(up.runs("retrain"))
    up.command("prefect", "deployment", "run", "monitor/taxi")
    up.finished("monitor", 0)
    runs = up.wait(lambda: len(up.runs("retrain")) >= known + 2 and up.finished("retrain", known), 300)
    assert {one["parameters"]["trigger"] for one in runs} == {"performance", "distribution"}
    version = trained(home, up, 1, "performance", "performance: rmse", "drift: ")
    assert [one.version for one in registry.versions(home, "taxi")] == [2, 1]
    answers = {one.kind: one.outcome for one in causes.listed(database.connect(home), "taxi")}
    assert answers["performance"] == answers["distribution"] == f"trained version {version.version}, promoted"
    for run in runs:
        timed(run, {"performance": events.MODEL_DEGRADED}.get(run["parameters"]["trigger"], events.DATA_DRIFTED), up)


def test_on_demand_a_training_is_started_by_hand(up, home):
    known, before = len(up.runs("train")), len(registry.versions(home, "taxi"))
    started = datetime.now(UTC)
    asked = ("-p", "reason=asked by hand", "-p", "force=true", "--flow-run-name", "my own name")
    up.command("prefect", "deployment", "run", "train/taxi", *asked)
    (run,) = up.finished("train", known)
    assert run["parameters"]["reason"] == "asked by hand"
    assert run["name"] == "my own name"
    assert up.runs("promote")[-1]["name"] == f"taxi version {before + 1}: asked by hand"
    trained(home, up, before, "asked by hand")
    assert at(run["created"]) > started


def test_a_schedule_trains_when_there_is_new_data_and_ends_at_once_without(up, home):
    known, before = len(up.runs("retrain")), len(registry.versions(home, "taxi"))
    (weekly,) = _deployment(up, "retrain")["schedules"]
    assert (weekly["schedule"]["cron"], weekly["schedule"]["timezone"]) == ("0 3 * * 1", "America/New_York")

    up.command("prefect", "deployment", "run", "retrain/taxi", "-p", "trigger=schedule", "-p", "reason=weekly")
    (idle,) = up.finished("retrain", known)
    assert idle["state_type"] == "COMPLETED"
    assert len(registry.versions(home, "taxi")) == before
    assert "nothing new" in causes.listed(database.connect(home), "taxi")[0].outcome

    land(up, 10, roads_changed=True)
    soon = datetime.now(UTC) + timedelta(seconds=10)
    schedule = {"interval": 60, "anchor_date": soon.isoformat(), "timezone": "America/New_York"}
    body = [{"schedule": schedule, "active": True, "parameters": weekly["parameters"]}]
    path = f"deployments/{_deployment(up, 'retrain')['id']}/schedules"
    made = up.send("POST", path, body)
    up.wait(lambda: len(up.runs("retrain")) > known + 1, 120)
    up.send("DELETE", f"{path}/{made[0]['id']}")
    run, *_ = up.finished("retrain", known + 1)
    assert (run["parameters"]["trigger"], run["parameters"]["reason"]) == ("schedule", "weekly")
    assert run["auto_scheduled"]
    assert run["name"] == "taxi: weekly"
    trained(home, up, before, "schedule", "schedule: weekly")


def _deployment(up: Stack, flow: str) -> dict:
    return up.send("GET", f"deployments/name/{flow}/taxi")


def test_silence_trains_for_staleness(up, home):
    before = len(registry.versions(home, "taxi"))
    (silence,) = [one for one in up.ask("automations/filter", {}) if one["name"] == "taxi: no new partition"]
    assert silence["trigger"]["within"] == 2 * 86400
    fields = ("name", "description", "enabled", "trigger", "actions", "actions_on_trigger", "actions_on_resolve")
    shorter = {name: silence[name] for name in fields}
    shorter["trigger"] = {**silence["trigger"], "within": 10}
    up.send("PUT", f"automations/{silence['id']}", shorter)
    land(up, 11, roads_changed=True)
    (run,) = up.wait(lambda: [one for one in up.runs("retrain") if one["parameters"]["trigger"] == "staleness"], 120)
    up.wait(lambda: up.send("GET", f"flow_runs/{run['id']}")["end_time"], 300)
    trained(home, up, before, "staleness", "no partition was accepted for 2 days")


def test_a_malformed_partition_is_told_and_trains_nothing(up, home):
    known, before = len(up.runs("retrain")), len(registry.versions(home, "taxi"))
    ingests = len(up.runs("ingest"))
    bad = simulate_day(FIRST + timedelta(days=12), trips=500).rename(columns={"trip_distance": "miles"})
    bad.to_parquet(up.landing / ".bad")
    (up.landing / ".bad").rename(up.landing / "bad.parquet")
    up.finished("ingest", ingests)
    found = ledger.list_partitions(database.connect(home), "taxi", "quarantined")
    assert any("trip_distance" in reason for one in found for reason in one.reasons)
    body = {"filter": {"event": {"name": [events.PARTITION_QUARANTINED]}}}
    up.wait(lambda: up.ask("events/filter", body)["events"], 10)
    assert (len(up.runs("retrain")), len(registry.versions(home, "taxi"))) == (known, before)


def test_the_worker_goes_on_with_a_promotion_that_waited_for_a_person(up, home):
    known = len(up.runs("promote"))
    options = {"version": 1, "approve": True, "why": "the newer ones are slow"}
    up.command("prefect", "deployment", "run", "promote/taxi", "--params", json.dumps(options))
    waiting = up.wait(lambda: [one for one in up.runs("promote")[known:] if one["state_name"] == "Suspended"], 120)
    assert ledger.champion(database.connect(home), "taxi").version != 1
    body = {"run_input": {"approve": True, "who": "Ada", "why": "looked at the slices"}}
    up.send("POST", f"flow_runs/{waiting[0]['id']}/resume", body)
    (run,) = up.finished("promote", known)
    assert (run["id"], run["state_type"]) == (waiting[0]["id"], "COMPLETED")
    champion = ledger.champion(database.connect(home), "taxi")
    assert (champion.version, champion.who, champion.why) == (1, "Ada", "looked at the slices")


def test_triggers_are_listed_with_when_they_fired_last_and_why(up, home):
    found = {one["name"]: one for one in json.loads(up.command("evergreen", "triggers", "--json"))}
    assert {one["kind"] for one in found.values()} == {
        "on demand", "schedule", "new data", "performance", "distribution", "staleness",
    }  # fmt: skip
    assert found["taxi: on demand"]["why"] == "asked by hand"
    for name, word in (
        ("taxi: new data", "8 partitions"), ("taxi: performance", "rmse"), ("taxi: distribution", "drift"),
        ("taxi: retrain weekly", "weekly"), ("taxi: no new partition", "2 days"),
    ):  # fmt: skip
        assert word in found[name]["why"], name
        assert found[name]["last_fired"]
        assert "trained version" in found[name]["outcome"]
    assert (found["taxi: staleness"]["last_fired"], found["taxi: old champion"]["last_fired"]) == (None, None)
    assert found["taxi: files have arrived"]["last_fired"]
    assert found["taxi: ingest hourly"]["next"]
    assert "retrain weekly" in up.command("evergreen", "triggers")


def test_prefects_own_command_makes_the_same_deployments(up):
    ours = _declared(up)
    assert len(ours[0]) == len(declared.read())
    up.command("evergreen", "deploy")
    again = _declared(up)
    up.command("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    assert _declared(up) == again
    assert [one["id"] for one in again[0]] == [one["id"] for one in ours[0]]
    assert [one["name"] for one in again[1]] == [one["name"] for one in ours[1]]


def _declared(up: Stack) -> tuple[list[dict], list[dict]]:
    """Return the deployments and the automations, without what differs from one writing to the next."""
    flows = {one["id"]: one["name"] for one in up.ask("flows/filter", {})}
    left_out = {
        "created", "updated", "last_polled", "status", "version_id", "version_info", "schedules",
        "global_concurrency_limit",
    }  # fmt: skip
    deployments = [
        {
            **{name: value for name, value in one.items() if name not in left_out},
            "flow": flows[one["flow_id"]],
            "schedules": [
                (s["schedule"], s["active"], s["slug"], s["parameters"]) for s in one["schedules"] if s["slug"]
            ],
            "limit": (one["global_concurrency_limit"] or {}).get("limit"),
        }
        for one in up.ask("deployments/filter", {})
    ]
    automations = [
        {
            "name": one["name"], "description": one["description"], "enabled": one["enabled"], "actions": one["actions"],
            "trigger": {name: value for name, value in one["trigger"].items() if name != "id"},
        }
        for one in up.ask("automations/filter", {})
    ]  # fmt: skip
    return sorted(deployments, key=lambda one: one["flow"]), sorted(automations, key=lambda one: one["name"])


def test_a_killed_stack_leaves_nothing_and_starts_again_on_its_ports(up):
    children = psutil.Process(up.process.pid).children(recursive=True)
    up.process.kill()
    up.process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    up.start()


def test_control_c_ends_all_of_it(up):
    children = psutil.Process(up.process.pid).children(recursive=True)
    assert len(children) >= 6
    assert up.interrupt() == 130
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    for address in (up.api, *up.pages, up.service):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(address.split(":")[2].split("/")[0]))) != 0
    assert not (up.home / "prefect" / "server.json").exists()
    if _begun:
        print(
            f"from the event to its run {statistics.median(_scheduled):.2f} s (most {max(_scheduled):.2f}), to the run's "
            f"first line {statistics.median(_begun):.1f} s (most {max(_begun):.1f}); {len(_begun)} events"
        )
