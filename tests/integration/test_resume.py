"""A run that is killed at the boundary of two stages is gone on with: what is finished is not done again.

One child process imports the flows once and forks for each run. In the fork the real flow runs; it is killed with SIGKILL
as soon as the stage that is named has its record. Each run is a new one, as after the loss of a machine.
"""

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa
from training_parts import artifact, champion, copy_home, featurized, history, numbers, opened

from flows import database, ledger, run_records
from flows.models.taxi.spec import spec
from flows.steps import registry

CHILD = """
import json, os, signal, sys
import feast, ibis, matplotlib.pyplot, optuna, sklearn.tree, skops.io, sqlalchemy.orm  # once, for all forks
import mlflow.store.tracking.sqlalchemy_store, mlflow.store.model_registry.sqlalchemy_store
sqlalchemy.orm.configure_mappers()
from flows.steps import stages
import flows.featurize, flows.promote, flows.train
finish = stages.Work.finish
for line in sys.stdin:
    asked = json.loads(line)
    for boundary in asked["boundaries"]:
        def finish_and_die(work, stage, *rest):
            finish(work, stage, *rest)
            if stage.name == boundary:
                os.kill(os.getpid(), signal.SIGKILL)
        pid = os.fork()
        if pid == 0:
            os.environ.update(asked["environment"])
            stages.Work.finish = finish_and_die
            getattr(getattr(flows, asked["flow"]), asked["flow"])(**asked["options"])
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != -signal.SIGKILL:
            sys.exit(f"{boundary} was not reached")
    print("done", flush=True)
"""
TRAINING = [
    "build-training-set", "tune", "fit", "predict", "evaluate", "save-bundle", "write-reference", "probe", "judge",
    "log-run", "register",
]  # fmt: skip
OPTIONS = {"estimator": "team.estimators:tree", "trials": 2, "reason": "newer data"}


@pytest.fixture
def base(tmp_path_factory, simulated_days, prefect_api):
    return featurized(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)


@pytest.fixture(scope="module")
def kill_after(prefect_api, tmp_path_factory):
    """Return what runs a flow once for each boundary, in the home that is open, and kills it there."""
    folder = tmp_path_factory.mktemp("child")
    with opened(folder, prefect_api), (folder / "stderr").open("w+") as errors:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD], env=os.environ | {"PREFECT_LOGGING_LEVEL": "ERROR"}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
    assert child.stdin
    assert child.stdout

    def kill(flow: str, options: dict, *boundaries: str) -> None:
        asked = {"flow": flow, "options": options, "boundaries": boundaries, "environment": dict(os.environ)}
        child.stdin.write(json.dumps(asked) + "\n")
        child.stdin.flush()
        assert child.stdout.readline() == "done\n", (folder / "stderr").read_text()[-3000:]

    yield kill
    child.stdin.close()
    child.wait(60)


def runs(home, flow: str) -> list[run_records.Run]:
    """Return the runs of a flow, oldest first."""
    return [run for run in reversed(run_records.newest(database.connect(home), "taxi", 100)) if run.flow == flow]


def made(home) -> dict:
    """Return what a training must make to the bit, wherever and in however many goes."""
    version = registry.get_version(home, "taxi", numbers(home)[0])
    lineage = artifact(home, version.run_id, "lineage.json")
    evidence = registry.read_evidence(version)
    evidence["gates"] = [gate for gate in evidence["gates"] if gate["gate"] != "latency"]  # it is a measurement
    same = ("training_set_sha256", "params", "features", "train_rows", "judge_rows")
    return {
        "digest": version.digest, "evidence": evidence, **{name: lineage[name] for name in same},
        "drift": (Path(version.folder) / "drift.json").read_text(),
    }  # fmt: skip


def test_killed_after_each_stage_in_turn_a_training_ends_with_the_same_version_and_no_stage_runs_twice(
    base, tmp_path, prefect_api, kill_after
):
    from flows.train import train

    with opened(tmp_path / "whole", prefect_api) as home:
        copy_home(base, home)
        assert train(**OPTIONS)["promoted"]
        expected = made(home)
        assert not list(home.stages("taxi").glob("*/"))  # nothing is kept of a run that is through

    with opened(tmp_path / "killed", prefect_api) as home:
        copy_home(base, home)
        kill_after("train", OPTIONS, *TRAINING[:5])
    # Another machine that sees the same home under another name goes on.
    shutil.move(tmp_path / "killed", tmp_path / "moved")
    with opened(tmp_path / "moved", prefect_api) as home:
        kill_after("train", OPTIONS, *TRAINING[5:])
        assert (numbers(home), champion(home)) == ([1], None)
        found = train(**OPTIONS)
        assert (found["version"], found["promoted"]) == (1, True)
        assert (numbers(home), history(home)) == ([1], [(1, "promote", 1, None)])
        assert made(home) == expected

        killed = runs(home, "train")[:-1]
        assert [run.state for run in killed] == ["crashed"] * len(TRAINING)
        assert all("its process is gone" in run.summary["error"] for run in killed)
        lineage = artifact(home, registry.get_version(home, "taxi", 1).run_id, "lineage.json")
        stages = [stage for stage in lineage["stages"] if stage["name"] in TRAINING]
        assert [stage["name"] for stage in stages] == TRAINING[: len(stages)] == TRAINING[:9]
        assert [stage["run_id"] for stage in stages] == [run.id for run in killed[:9]]
        assert [stage["executor"] for stage in stages] == [run.executor for run in killed[:9]]
        assert all(earlier["end"] <= later["start"] for earlier, later in pairwise(stages))
        client = registry.open_client(home)
        logged = client.search_runs([client.get_experiment_by_name("taxi").experiment_id])
        assert [run.info.status for run in logged] == ["FINISHED"]


def test_a_training_whose_kept_files_were_altered_does_what_comes_after_them_again(
    base, tmp_path, prefect_api, kill_after
):
    from flows.train import train

    with opened(tmp_path / "home", prefect_api) as home:
        copy_home(base, home)
        kill_after("train", {}, "evaluate")
        (model,) = home.stages("taxi").glob("*/bundle/model.skops")
        model.write_bytes(model.read_bytes()[:-1])
        assert train()["promoted"]
        killed, last = runs(home, "train")
        who = {stage["name"]: stage["run_id"] for stage in last.summary["stages"]}
        assert last.summary["resumed"] == ["build-training-set"]
        assert who["build-training-set"] == killed.id
        assert {who["fit"], who["predict"], who["evaluate"]} == {last.id}


def test_a_changed_estimator_and_force_train_again_and_do_not_take_what_a_killed_run_has_left(
    base, tmp_path, prefect_api, kill_after
):
    from flows.train import train

    with opened(tmp_path / "home", prefect_api) as home:
        copy_home(base, home)
        kill_after("train", {}, "judge")
        train(estimator="team.held:build")
        train(force=True)
        assert [run.summary.get("resumed") for run in runs(home, "train")] == [None, None, None]


def test_featurize_killed_after_each_stage_writes_each_table_once(base, tmp_path, prefect_api, kill_after):
    from flows.featurize import featurize

    with opened(tmp_path / "home", prefect_api) as home:
        copy_home(base, home)
        spec_tables = home.features("taxi")
        shutil.rmtree(spec_tables)
        engine = database.connect(home)
        with database.write(engine) as connection:
            connection.execute(database.partitions.update().values(featurized_at=None))
        kill_after("featurize", {}, "compute", "materialize")
        written = sorted(spec_tables.rglob("*.parquet"))
        found = featurize()
        assert sorted(spec_tables.rglob("*.parquet")) == written != []
        assert len(written) == len(found["rows"])
        first, second, last = runs(home, "featurize")[-3:]
        who = {stage["name"]: stage["run_id"] for stage in last.summary["stages"]}
        assert (who["compute"], who["materialize"]) == (first.id, second.id)
        assert not list(home.stages("taxi-features").glob("*/"))
        assert all(one.featurized_at for one in ledger.list_partitions(engine, "taxi", "accepted"))


def test_rows_that_were_made_anew_are_new_to_what_was_computed_or_trained_of_others(
    base, tmp_path, prefect_api, kill_after
):
    from flows.featurize import featurize
    from flows.steps import lineage
    from flows.steps.training_set import choose_window

    with opened(tmp_path / "home", prefect_api) as home:
        copy_home(base, home)
        engine = database.connect(home)

        def mark():
            accepted = ledger.list_partitions(engine, "taxi", "accepted")
            return lineage.fingerprint(spec, accepted, choose_window(spec, accepted), "", spec.estimator, 0)

        before = mark()
        some = ledger.list_partitions(engine, "taxi", "accepted")[-1]
        ledger.decide_partition(engine, some.id, "accepted", accepted_sha256="of one `rows`")
        kill_after("featurize", {}, "compute")
        ledger.decide_partition(engine, some.id, "accepted", accepted_sha256="of another")
        featurize()
        last = runs(home, "featurize")[-1]
        assert not last.summary.get("resumed")
        assert mark() != before


def test_rows_that_are_made_anew_while_features_are_computed_wait_for_theirs(base, tmp_path, prefect_api, monkeypatch):
    from flows import featurize

    with opened(tmp_path / "home", prefect_api) as home:
        copy_home(base, home)
        engine = database.connect(home)
        *_, other, some = ledger.list_partitions(engine, "taxi", "accepted")
        for one in (other, some):
            ledger.decide_partition(engine, one.id, "accepted", accepted_sha256="of one `rows`")

        def ingest_meanwhile(*_):
            ledger.decide_partition(engine, some.id, "accepted", accepted_sha256="of another")

        monkeypatch.setattr(featurize, "materialize", ingest_meanwhile)
        featurize.featurize()
        waiting = [one.id for one in ledger.list_partitions(engine, "taxi", "accepted") if one.featurized_at is None]
        assert waiting == [some.id]


def test_what_a_killed_featurization_may_have_written_is_known(base, tmp_path, prefect_api, kill_after):
    """A correction that leaves a part of it out would leave those values: nobody knew that there were any."""
    with opened(tmp_path / "home", prefect_api) as home:
        copy_home(base, home)
        engine = database.connect(home)
        some = ledger.list_partitions(engine, "taxi", "accepted")[-1]
        with database.write(engine) as connection:
            connection.execute(
                database.partitions.update().where(sa.column("id") == some.id).values(featurized_at=None)
            )
        kill_after("featurize", {}, "compute")
        killed = ledger.list_partitions(engine, "taxi", "accepted")[-1]
        assert (killed.id, killed.featurized_at, killed.featured) == (
            some.id,
            None,
            (some.first_event, some.last_event),
        )
        refused = ledger.decide_partition(engine, some.id, "quarantined")
        assert refused.featured == killed.featured
