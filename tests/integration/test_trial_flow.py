"""A challenger from shadow to canary to champion: the real flows, a real service process, real labels."""

import os

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from online_parts import launch, ready, record
from serving_parts import eventually
from training_parts import champion, copy_home, history, log_again, numbers, opened, trained

from flows import database, ledger, trials
from flows.errors import ConflictError, RefusedError
from flows.lookup import load_model
from flows.steps import registry
from flows.steps.prediction_log import Answer, PredictionLog, read_predictions
from flows.steps.status import status

ROWS = 20  # of a request
TRIED = '["team.tried"]'


@pytest.fixture
def home(tmp_path, tmp_path_factory, simulated_days, prefect_api):
    """A home in which version 1 serves and version 2, the same bundle, waits."""
    source = trained(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)
    with opened(tmp_path / "home", prefect_api, TRIED) as settings:
        copy_home(source, settings)
        (tmp_path / "again").mkdir()
        log_again(settings, tmp_path / "again", champion=1)
        yield settings


@pytest.fixture
def service(home, tmp_path):
    """The service of the home, as a process."""
    os.environ["EVERGREEN_FOLLOW_SECONDS"] = "0.1"
    with (tmp_path / "service.txt").open("w") as output:
        process = launch(home, "--port", "0", output=output)
        try:
            url = record(home, process)["url"]
            ready(url)
            yield url
        finally:
            process.kill()
            process.wait()


def labelled_trips(engine, count):
    """Return the newest accepted trips that have a label, as a table."""
    uris = [one.accepted_uri for one in ledger.list_partitions(engine, "taxi", "accepted")]
    found = pa.concat_tables([pq.read_table(uri) for uri in uris], promote_options="permissive")
    return found.slice(found.num_rows - count)


def ask(url, trips, spec):
    """Ask for all trips, some rows a request, and return which versions answered how many requests."""
    names = [field.name for field in spec.request]
    rows = [
        {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in row.items()}
        for row in trips.select(names).to_pylist()
    ]
    counts = {}
    with httpx.Client(timeout=60) as client:
        for start in range(0, len(rows), ROWS):
            answer = client.post(f"{url}/predict", json={"rows": rows[start : start + ROWS]})
            assert answer.status_code == 200, answer.text
            version = answer.json()["version"]
            counts[version] = counts.get(version, 0) + 1
    return counts


def trial_of(url):
    return httpx.get(f"{url}/readyz", timeout=30).json()["trial"]


def test_a_shadow_that_is_not_worse_goes_on_as_canary_and_is_promoted(home, service):
    from flows.rollout import begin_trial, judge_trial

    spec, engine = load_model("taxi", home), database.connect(home)
    begun = begin_trial(kind="shadow", share=0.5, why="newer data")
    assert (begun["version"], begun["kind"], begun["state"]) == (2, "shadow", "running")
    with pytest.raises(ConflictError, match="is on trial as shadow"):
        begin_trial(version=2)
    eventually(lambda: trial_of(service))
    trips = labelled_trips(engine, 4000)
    assert ask(service, trips.slice(0, 800), spec) == {1: 40}
    eventually(lambda: trial_of(service)["counts"]["requests"] + trial_of(service)["counts"]["dropped"] == 40)
    assert trial_of(service)["counts"]["dropped"] == 0

    served = read_predictions(home, spec)
    shadow = read_predictions(home, spec, role="shadow")
    assert set(served["version"].to_pylist()) == {1}
    assert shadow["prediction"].to_pylist() == served["prediction"].to_pylist()
    assert champion(home) == 1

    judged = judge_trial()
    assert (judged["kind"], judged["state"]) == ("canary", "running")
    tried = trials.listed(engine, "taxi")
    assert [(one.kind, one.state) for one in tried] == [("canary", "running"), ("shadow", "passed")]
    assert tried[1].evidence["scores"]["interval"] == [0.0, 0.0]
    assert status(home, spec, engine)["trial"]["kind"] == "canary"

    eventually(lambda: (trial_of(service) or {}).get("kind") == "canary")
    first = ask(service, trips, spec)
    assert min(first[1], first[2]) > 60
    assert ask(service, trips.slice(0, 600), spec) == ask(service, trips.slice(0, 600), spec)  # sticky
    passed = judge_trial()
    assert passed["state"] == "passed", passed
    assert history(home)[-1][1:] == ("promote", 2, 1)
    reigning = ledger.champion(engine, "taxi")
    assert reigning.evidence["trial"]["scores"]["labelled"] >= spec.rollout.min_labels
    assert "passed as canary" in reigning.why
    assert registry.aliases(home, "taxi")["champion"] == 2
    eventually(lambda: httpx.get(f"{service}/readyz").json()["version"] == 2)
    eventually(lambda: trial_of(service) is None)
    assert judge_trial()["state"] == "passed"  # nothing is left to do
    assert len(history(home)) == 2


def log_answers(home, spec, engine, off, count=600):
    """Log answers of both versions to trips with labels: the champion's good, the challenger's off by some minutes."""
    log = PredictionLog(home, spec)
    trips = labelled_trips(engine, 2 * count)
    names = [field.name for field in spec.request]
    noise = np.random.default_rng(0).normal(0, 1, 2 * count)
    for number, trip in enumerate(trips.to_pylist()):
        version = 1 + number % 2
        value = trip["label"] + noise[number] + (off if version == 2 else 0.0)
        row = {name: trip[name] for name in names}
        log.append(f"r{number}", database.now(), version, [row], [Answer(value, None, {"hour": 1.0}, [])])
    log.close()


def test_a_canary_that_is_worse_on_its_labels_is_ended_and_not_tried_again_by_itself(home):
    from flows.rollout import begin_trial, judge_trial
    from flows.train import hand_over

    spec, engine = load_model("taxi", home), database.connect(home)
    asked = hand_over(home, engine, spec, 2, "newer data", "canary")
    assert asked == {"promoted": False, "trial": "canary"}
    assert hand_over(home, engine, spec, 2, "newer data", "canary") == {"promoted": False}  # it is on trial already
    assert judge_trial()["state"] == "running"
    log_answers(home, spec, engine, off=3.0)
    before = history(home)
    judged = judge_trial()
    assert judged["state"] == "failed"
    assert judged["outcome"].startswith("worse: rmse")
    assert judged["evidence"]["scores"]["labelled"] > 550
    assert history(home) == before
    assert numbers(home) == [2, 1]
    for mode in ("automatic", "canary", "shadow"):
        assert hand_over(home, engine, spec, 2, "newer data", mode) == {"promoted": False}
    assert begin_trial(version=2)["state"] == "running"  # a person may


def test_what_passes_while_another_is_on_trial_waits_and_is_tried_afterwards(home, tmp_path):
    from flows.rollout import begin_trial, judge_trial
    from flows.train import hand_over

    spec, engine = load_model("taxi", home), database.connect(home)
    begin_trial(version=2)
    (tmp_path / "third").mkdir()
    log_again(home, tmp_path / "third", champion=1)
    for mode in ("canary", "shadow"):
        assert hand_over(home, engine, spec, 3, "newer data", mode) == {"promoted": False, "waits_for": 2}
    log_answers(home, spec, engine, off=3.0)
    assert judge_trial()["state"] == "failed"
    assert hand_over(home, engine, spec, 3, "newer data", "canary") == {"promoted": False, "trial": "canary"}


def test_what_was_refused_by_a_figure_that_is_measured_anew_is_logged_anew_when_it_passes(home, tmp_path):
    made = []
    for number, failed in enumerate(([], ["latency"], ["latency"], [])):
        (tmp_path / str(number)).mkdir()
        made.append(log_again(home, tmp_path / str(number), work_key="one work", champion=1, failed=failed))
    assert made[1].run_id == made[2].run_id != made[0].run_id == made[3].run_id
    assert [registry.read_evidence(one)["failed"] for one in made] == [[], ["latency"], ["latency"], []]


def test_a_trial_beside_a_champion_that_has_changed_is_stopped(home):
    from flows.promote import promote
    from flows.rollout import begin_trial, judge_trial

    engine = database.connect(home)
    begin_trial()
    promote(version=2, why="a person is in a hurry")
    assert trials.running(engine, "taxi") is None
    stopped = judge_trial()
    assert (stopped["state"], champion(home)) == ("stopped", 2)
    assert "a person is in a hurry" in stopped["outcome"]
    with pytest.raises(RefusedError, match="is the champion already"):
        begin_trial(version=2)


def test_a_run_that_broke_off_after_its_verdict_is_gone_on_with(home):
    from flows.rollout import begin_trial, judge_trial

    engine = database.connect(home)
    begin_trial()
    trials.end(engine, trials.running(engine, "taxi").id, "passed", "not worse", {"scores": {}})
    assert champion(home) == 1
    assert judge_trial()["state"] == "passed"
    assert history(home)[-1][1:] == ("promote", 2, 1)
