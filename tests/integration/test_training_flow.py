"""The training flow from end to end: when it trains, what it refuses, what it leaves behind.

The tests share a home and look at what has changed; none needs another one before it.
"""

import hashlib
from datetime import date, timedelta
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from serving_parts import eventually
from training_parts import (
    MANUAL,
    artifact,
    champion,
    copy_home,
    history,
    log_again,
    numbers,
    opened,
    state,
    trained,
)

from flows import database, ledger, run_records
from flows.errors import ContractError, RefusedError, TamperedError
from flows.lookup import load_model
from flows.models.taxi.simulator import simulate_day
from flows.steps import feature_record, feature_store, registry
from flows.steps.lineage import ROOT, Lineage

OF_ID = database.partitions.c.id
GATES = ["baseline", "champion", "slices", "loads", "same predictions", "compiled", "api", "latency"]


@pytest.fixture(scope="module")
def home(tmp_path_factory, simulated_days, prefect_api):
    source = trained(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)
    with opened(tmp_path_factory.mktemp("training") / "home", prefect_api) as settings:
        copy_home(source, settings)
        yield settings


def tags(home, run_id: str) -> dict[str, str]:
    run = registry.open_client(home).get_run(run_id)
    assert run.info.status == "FINISHED"
    return run.data.tags


def test_a_correction_of_days_before_the_window_is_no_training_of_the_same(home, monkeypatch):
    """The features of the window's rows look back on them."""
    from flows import train

    spec = load_model("taxi", home)
    short = spec.model_copy(update={"training": spec.training.model_copy(update={"window": timedelta(days=2)})})
    engine = database.connect(home)
    marks = []

    def find_made(_settings, _engine, _spec, mark):
        marks.append(mark)
        raise RefusedError("enough is known")

    monkeypatch.setattr(train, "load_model", lambda *_: short)
    monkeypatch.setattr(train, "find_made", find_made)
    first = ledger.list_partitions(engine, "taxi", "accepted")[0]
    for digest in (first.accepted_sha256, first.accepted_sha256, "of a correction"):
        with database.write(engine) as connection:
            connection.execute(database.partitions.update().where(first.id == OF_ID).values(accepted_sha256=digest))
        with pytest.raises(RefusedError, match="enough is known"):
            train.train()
    with database.write(engine) as connection:
        connection.execute(
            database.partitions.update().where(first.id == OF_ID).values(accepted_sha256=first.accepted_sha256)
        )
    assert marks[0] == marks[1] != marks[2]


def test_the_same_again_trains_nothing_and_force_trains_a_new_version_that_a_rollback_takes_back_for_good(home):
    from flows.promote import rollback
    from flows.train import train

    before = train()
    made, reigning = numbers(home), champion(home)
    again = train()
    assert (again["unchanged"], again["version"], again["promoted"]) == (True, before["version"], False)
    assert (numbers(home), champion(home)) == (made, reigning)

    forced = train(force=True, reason="by hand")
    assert (forced["version"], forced["promoted"]) == (made[0] + 1, True)
    assert numbers(home) == [forced["version"], *made]
    assert champion(home) == forced["version"]

    rollback(why="customers complain")
    assert champion(home) == reigning
    after = history(home)
    assert after[-1][1:] == ("rollback", reigning, forced["version"])
    assert train()["promoted"] is False
    assert history(home) == after
    assert registry.aliases(home, "taxi") == {"champion": reigning}


def test_newer_data_is_trained_on_once_it_is_in_the_feature_tables(home, tmp_path):
    from flows.featurize import featurize
    from flows.ingest import ingest
    from flows.train import train

    day = date(2024, 1, 9)
    simulate_day(day, trips=2000).to_parquet(tmp_path / f"{day}.parquet")
    ingest(str(tmp_path))
    before = state(home)
    with pytest.raises(
        RefusedError, match=r"feature tables lack 1 accepted partitions \(2024-01-09\); run `evergreen featurize"
    ):
        train()
    assert state(home) == before
    featurize()
    found = train(reason="newer data")
    assert "unchanged" not in found
    lineage = Lineage.model_validate(artifact(home, found["run_id"], "lineage.json"))
    assert [one.key for one in lineage.partitions] == [f"2024-01-0{number}" for number in range(1, 10)]
    assert lineage.champion_version == before[0][-1][2] == found["champion_version"]
    assert found["champion_error"] > 0


def test_with_manual_promotion_changed_parameters_make_a_challenger_that_a_person_promotes(home, monkeypatch):
    from flows.promote import promote
    from flows.train import train

    monkeypatch.setenv("EVERGREEN_MODEL_PACKAGES", MANUAL)
    before = history(home)
    found = train()
    assert "unchanged" not in found
    assert found["promoted"] is False
    assert numbers(home)[0] == found["version"]
    assert history(home) == before
    assert registry.aliases(home, "taxi") == {"champion": before[-1][2], "challenger": found["version"]}
    assert train() == {
        "version": found["version"], "run_id": found["run_id"], "failed": [], "reason": "on demand", "unchanged": True,
        "promoted": False,
    }  # fmt: skip

    promoted = promote(why="looked at it")
    assert (promoted["version"], promoted["previous_version"]) == (found["version"], before[-1][2])
    assert registry.aliases(home, "taxi") == {"champion": found["version"]}
    again = history(home)
    with pytest.raises(RefusedError, match="no challenger waits"):
        promote()
    with pytest.raises(RefusedError, match="is the champion already"):
        promote(version=found["version"])
    assert history(home) == again


def test_a_broken_estimator_is_refused_by_named_gates_logged_and_not_registered(home):
    from flows.train import train

    before = state(home)
    found = train(estimator="flows.models.taxi.broken:build", reason="made it faster")
    assert (found["version"], found["promoted"]) == (None, False)
    assert {"champion", "slices"} <= set(found["failed"])
    assert not {"loads", "same predictions", "compiled", "api"} & set(found["failed"])
    assert [text.split()[0] for text in found["refusals"]] == found["failed"]
    assert state(home) == before

    logged = tags(home, found["run_id"])
    assert (logged["evergreen.gates"], logged["evergreen.failed_gates"]) == ("refused", ", ".join(found["failed"]))
    evidence = artifact(home, found["run_id"], registry.EVIDENCE)
    assert [gate["gate"] for gate in evidence["gates"]] == GATES
    assert [gate["gate"] for gate in evidence["gates"] if not gate["passed"]] == found["failed"]
    figures = registry.open_client(home).get_run(found["run_id"]).data.metrics
    assert figures["gate_baseline"] == pytest.approx(found["error"] / found["baseline_error"])
    assert figures["gate_slices"] > 1 + load_model("taxi", home).gates.slice_tolerance
    assert figures["gate_champion"] > 0
    (run,) = [one for one in run_records.newest(database.connect(home), "taxi", 1) if one.flow == "train"]
    assert (run.state, run.summary["failed"]) == ("completed", found["failed"])


def test_accepted_rows_that_were_altered_by_hand_train_nothing(home):
    from flows.train import train

    (*_, newest) = ledger.list_partitions(database.connect(home), "taxi", "accepted")
    path, made = Path(newest.accepted_uri), numbers(home)
    whole, rows = path.read_bytes(), pq.read_table(path)
    pq.write_table(
        rows.set_column(rows.schema.get_field_index("label"), "label", pc.multiply(rows["label"], 1.5)), path
    )
    try:
        with pytest.raises(
            TamperedError, match=f"the rows of {newest.key} that were accepted: somebody has altered it"
        ):
            train(force=True)
    finally:
        path.write_bytes(whole)
    assert numbers(home) == made


def test_an_estimator_of_a_type_that_nobody_trusts_is_refused_by_the_gate_loads(home):
    from flows.train import train

    before = state(home)
    found = train(estimator="team.estimators:homemade")
    assert "loads" in found["failed"]
    assert found["version"] is None
    evidence = artifact(home, found["run_id"], registry.EVIDENCE)
    (reason,) = [gate["reason"] for gate in evidence["gates"] if gate["gate"] == "loads"]
    assert "team.estimators.Homemade" in reason
    assert "EVERGREEN_TRUSTED_TYPES" in reason
    assert state(home) == before


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("team.estimators:raising", r"team\.estimators:raising failed with .*ValueError: the learning rate is missing"),
        ("team.estimators:nothing", r"team\.estimators:nothing returned NoneType, which has no fit\(\)"),
        ("team.estimators:unfit", r"team\.estimators:unfit: fit failed .*RuntimeError: no column named fare"),
        ("team.estimators:absent", r"team\.estimators:absent cannot be imported"),
        ("team.nowhere:build", r"team\.nowhere:build cannot be imported"),
    ],
)
def test_an_estimator_that_cannot_be_made_or_fitted_is_an_error_of_one_line_and_leaves_nothing(home, factory, reason):
    from flows.train import train

    before, runs = state(home), logged_runs(home)
    with pytest.raises(ContractError, match=reason) as error:
        train(estimator=factory)
    assert "\n" not in str(error.value)
    assert (state(home), logged_runs(home)) == (before, runs)
    assert [path for path in home.stages("taxi").rglob("*") if path.name.endswith(".tmp")] == []
    (run,) = run_records.newest(database.connect(home), "taxi", 1)
    assert (run.flow, run.state) == ("train", "failed")
    assert str(error.value) in run.summary["error"]


def logged_runs(home) -> set[str]:
    client = registry.open_client(home)
    return {run.info.run_id for run in client.search_runs([client.get_experiment_by_name("taxi").experiment_id])}


def test_tuning_tunes_the_estimator_that_is_trained_with_what_suggest_makes_of_its_trials(home):
    from flows.train import train

    found = train(estimator="team.estimators:tree", trials=2)
    lineage = Lineage.model_validate(artifact(home, found["run_id"], "lineage.json"))
    assert (lineage.estimator, lineage.trials) == ("team.estimators:tree", 2)
    assert lineage.params["depth"] in (4, 6, 8)
    assert lineage.params["splitter"] == "best"
    assert "tune" in [stage.name for stage in lineage.stages]


def test_registering_a_run_twice_makes_one_version(home, tmp_path):
    made = log_again(home, tmp_path)
    before = state(home)
    lineage = Lineage.model_validate(artifact(home, made.run_id, "lineage.json"))
    model_id = registry.open_client(home).get_model_version("taxi", str(made.version)).model_id
    spec = load_model("taxi", home)
    assert registry.register(home, spec, lineage, made.run_id, model_id, made.folder, made.digest) == made
    assert state(home) == before


def test_the_lineage_says_all_that_made_a_version(home):
    version = registry.get_version(home, "taxi", 1)
    lineage = Lineage.model_validate(artifact(home, version.run_id, "lineage.json"))
    spec, engine = load_model("taxi", home), database.connect(home)
    logged = tags(home, version.run_id)
    assert logged["evergreen.fingerprint"] == lineage.fingerprint == version.fingerprint
    assert (logged["evergreen.gates"], logged["evergreen.failed_gates"]) == ("passed", "")

    names = [stage.name for stage in lineage.stages]
    assert names == [*dict.fromkeys(names)]
    assert {"choose-window", "build-training-set", "fit", "evaluate", "save-bundle", "probe", "judge"} <= set(names)
    for earlier, later in zip(lineage.stages, lineage.stages[1:], strict=False):
        assert earlier.start <= earlier.end <= later.start
        assert earlier.start.utcoffset() is not None
    assert {stage.executor for stage in lineage.stages} == {lineage.executor}

    landed = {one.key: one for one in ledger.list_partitions(engine, "taxi", "accepted")}
    assert [one.key for one in lineage.partitions] == [f"2024-01-0{number}" for number in range(1, 9)]
    for used in lineage.partitions:
        assert (used.digest, used.revision, used.rows) == (landed[used.key].digest, 1, landed[used.key].rows)
        assert used.accepted_rows + used.rejected_rows == used.rows
        assert used.validation == landed[used.key].validation != {}

    (run,) = [one for one in run_records.newest(engine, "taxi", 100) if one.id == lineage.run_id]
    assert (run.flow, run.executor) == ("train", lineage.executor)
    assert {"log-run", "register"} <= {stage["name"] for stage in run.summary["stages"]}
    lock = ROOT / "uv.lock"
    assert lineage.code.lock_sha256 == hashlib.sha256(lock.read_bytes()).hexdigest()
    assert {"scikit-learn", "feast", "skops"} <= set(lineage.code.libraries)
    assert len(lineage.code.sources_sha256) == 64
    store = feature_store.open_store(home)
    assert lineage.feature_definitions_sha256 == feature_record.definition_hash(store, spec)
    assert lineage.feature_service == "taxi_duration_v1"
    assert list(lineage.features) == feature_store.feature_names(store, spec)
    assert (lineage.estimator, lineage.params) == (spec.estimator, spec.params)
    assert (lineage.seed, lineage.threads, lineage.trials) == (spec.training.seed, spec.training.threads, 0)
    assert lineage.champion_version is None
    assert lineage.window.start < lineage.window.split < lineage.window.end
    assert min(lineage.train_rows, lineage.judge_rows) > 1000
    client = registry.open_client(home)
    (entry,) = client.get_run(version.run_id).inputs.dataset_inputs
    assert entry.dataset.digest == lineage.training_set_sha256[:36]
    assert {path.name for path in Path(version.folder).iterdir()} >= {"model.skops", "serving.json", registry.EVIDENCE}


def test_prefect_shows_which_stage_worked_on_what_which_other_made(home):
    from prefect import get_client
    from prefect.client.schemas.filters import FlowRunFilter

    run = next(run for run in run_records.newest(database.connect(home), "taxi", 100) if run.flow == "train")

    def edges():
        with get_client(sync_client=True) as client:
            found = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [run.id]}))
        names = {one.id: one.name.rpartition("-")[0] for one in found}
        return {
            (names.get(made.id), name)
            for one in found
            for argument, inputs in one.task_inputs.items()
            if argument != "__parents__"
            for made in inputs
            if (name := names[one.id])
        }

    wanted = {("build-training-set", "fit"), ("fit", "predict"), ("evaluate", "judge"), ("probe", "judge")}
    eventually(lambda: wanted <= edges(), 30)


def test_a_stage_has_the_tags_of_its_caller_and_not_ours(home):
    from prefect import flow, get_client, tags
    from prefect.client.schemas.filters import TaskRunFilter

    from flows.runs import TAG, stage

    work = stage(lambda: None, name="work")
    with tags(TAG, "theirs"):
        run_id = flow(lambda: work(return_state=True), name="tagged")().state_details.task_run_id
    with get_client(sync_client=True) as client:
        wanted = TaskRunFilter(id={"any_": [run_id]})
        (made,) = eventually(lambda: client.read_task_runs(task_run_filter=wanted), 30)
        assert set(made.tags) == {"theirs"}
        assert set(client.read_flow_run(made.flow_run_id).tags) == {TAG, "theirs"}


def test_prefects_pages_call_a_run_by_its_model_and_why_it_runs(home):
    from prefect import flow, get_client
    from prefect.flow_engine import run_flow

    from flows.runs import run_name

    def work(model: str = "bike", version: int | None = None, why: str = "") -> None:
        """Do nothing."""

    named = flow(work, name="named", flow_run_name=run_name)
    states = [named(return_state=True), named(version=3, why="it is better, " * 20, return_state=True)]
    with get_client(sync_client=True) as client:
        names = [client.read_flow_run(state.state_details.flow_run_id).name for state in states]
        assert names[0] == "bike"
        assert names[1].startswith("bike version 3: it is better, it")
        assert len(names[1]) <= 100
        asked = client.create_deployment(client.create_flow(named), name="named")
        run = client.create_flow_run_from_deployment(asked, name="as a person calls it")
        run_flow(named, flow_run=run)
        assert client.read_flow_run(run.id).name == "as a person calls it"
        client.delete_deployment(asked)


def test_definitions_that_are_applied_again_are_the_same_definitions(home):
    spec = load_model("taxi", home)
    before = feature_record.definition_hash(feature_store.open_store(home), spec)
    assert feature_store.apply_definitions(home, spec) == before
    assert feature_record.definition_hash(feature_store.open_store(home), spec) == before
