"""A version is made again from its record, to the bit, or what differs is named; the commands on a home with two versions.

In the home a day has landed anew since version 1, so its features were computed again over what version 1 was trained on.
"""

import json
import sys
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest
import sqlalchemy as sa
from training_parts import copy_home, opened, state, trained
from typer.testing import CliRunner

from flows import database, ledger, run_records
from flows.errors import RefusedError
from flows.lookup import load_model
from flows.models.taxi.simulator import simulate_day
from flows.steps import lineage_facts, lineage_graph, reproduction, version_record

REVISED = "2024-01-03"
FACTORY = """
from sklearn.ensemble import HistGradientBoostingRegressor

def build(params):
    return HistGradientBoostingRegressor(max_iter=TREES, random_state=0)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory, simulated_days, prefect_api):
    from flows.featurize import featurize
    from flows.ingest import ingest
    from flows.train import train

    source = trained(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)
    with opened(tmp_path_factory.mktemp("reproduce") / "home", prefect_api) as settings:
        copy_home(source, settings)
        days = tmp_path_factory.mktemp("revised")
        simulate_day(date.fromisoformat(REVISED), trips=1900).to_parquet(days / f"{REVISED}.parquet")
        ingest(str(days))
        featurize()
        assert train(estimator=factory(tmp_path_factory.mktemp("team"), 70), reason="more trees")["promoted"]
        yield settings


def factory(folder: Path, trees: int) -> str:
    """Write a team's estimator into a folder that Python looks into, and return its dotted path."""
    (folder / "changing.py").write_text(FACTORY.replace("TREES", str(trees)))
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    sys.modules.pop("changing", None)
    return "changing:build"


def made_again(home, number: int, **lineage):
    """Return what is found before, and what is made again, of a version whose record says otherwise as given."""
    spec, engine = load_model("taxi", home), database.connect(home)
    record = version_record.read(home, "taxi", number)
    record = record.model_copy(update={"lineage": record.lineage.model_copy(update=lineage)})
    examined = reproduction.examine(home, spec, engine, record)
    return examined, reproduction.remake(home, record, examined)


@contextmanager
def pointed(engine, partition: int, **values):
    """Make the ledger name other files for a partition, for a while."""
    table = database.partitions
    where = table.c.id == partition
    with engine.begin() as connection:
        before = connection.execute(sa.select(table).where(where)).mappings().one()
        connection.execute(table.update().where(where).values(values))
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.execute(table.update().where(where).values({name: before[name] for name in values}))


def files(home) -> dict[str, int]:
    return {
        str(path): path.stat().st_mtime_ns for path in home.home.rglob("*") if path.is_file() and path.suffix != ".lock"
    }


def test_a_version_comes_out_to_the_bit_though_its_features_were_computed_again_and_leaves_no_trace(home):
    from flows.cli import app

    before, runs = (state(home), files(home)), run_records.newest(database.connect(home), "taxi", None)
    done = CliRunner().invoke(app, ["reproduce", "1", "--json", "--home", str(home.home)])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["same"], found["made"], found["causes"]) == (True, True, [])
    assert [check["what"] for check in found["checks"] if check["same"]] == [
        "feature definitions", "training set", "rows, train and judge", "estimator file", "predictions, train",
        "predictions, judge", "rmse, judge",
    ]  # fmt: skip
    assert (state(home), run_records.newest(database.connect(home), "taxi", None)) == (before[0], runs)
    assert files(home) == before[1]


def test_a_changed_module_is_named_and_shows_in_the_predictions(home):
    number = state(home)[1][0]
    folder = next(Path(path) for path in sys.path if Path(path, "changing.py").exists())
    try:
        factory(folder, 69)
        examined, found = made_again(home, number)
    finally:
        factory(folder, 70)
    assert [(cause.kind, cause.what) for cause in examined.causes] == [("code", "module changing")]
    same = {check.what: check.same for check in found.checks}
    assert same["training set"]
    assert not same["estimator file"]
    assert not same["predictions, judge"]
    assert not found.same


def test_an_altered_partition_is_named_before_and_shows_in_the_training_set(home, tmp_path):
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    engine = database.connect(home)
    (one,) = [
        p for p in ledger.list_partitions(engine, "taxi") if (p.key, p.revision) == ("2024-01-02", 1)
    ]  # fmt: skip
    rows = pq.read_table(one.accepted_uri)
    place = rows.column_names.index("trip_distance")
    altered = rows.set_column(place, "trip_distance", pc.add(rows["trip_distance"], 0.25))
    pq.write_table(altered, tmp_path / "altered.parquet", coerce_timestamps="us")
    with pointed(engine, one.id, accepted_uri=str(tmp_path / "altered.parquet")):
        examined, found = made_again(home, 1)
    (cause,) = examined.causes
    assert (cause.kind, cause.fatal) == ("data", False)
    assert "partition 2024-01-02 r1, accepted rows" in cause.what
    assert found.made
    assert not {check.what: check.same for check in found.checks}["training set"]

    pq.write_table(pq.read_table(one.uri).slice(1), tmp_path / "raw.parquet")
    with pointed(engine, one.id, uri=str(tmp_path / "raw.parquet"), accepted_uri=str(tmp_path / "gone.parquet")):
        spec, record = load_model("taxi", home), version_record.read(home, "taxi", 1)
        told = [cause.what for cause in reproduction.examine(home, spec, engine, record).causes]
    assert ["landed rows" in told[0], "accepted rows" in told[1], len(told)] == [True, True, 2]


def test_another_library_and_what_cannot_be_made_are_named_without_training(home):
    spec, engine = load_model("taxi", home), database.connect(home)
    record = version_record.read(home, "taxi", 1)
    code = record.lineage.code
    other = code.model_copy(update={"libraries": {**code.libraries, "scikit-learn": "1.8.0"}})
    (cause,) = reproduction.examine(
        home, spec, engine, record.model_copy(update={"lineage": record.lineage.model_copy(update={"code": other})})
    ).causes
    assert (cause.kind, cause.what, cause.recorded, cause.here) == (
        "library", "scikit-learn", "1.8.0", code.libraries["scikit-learn"],
    )  # fmt: skip
    _, found = made_again(home, 1, estimator="team.nowhere:build")
    assert (found.made, found.same, found.checks) == (False, False, ())
    assert any(cause.fatal and "team.nowhere" in cause.what for cause in found.causes)


def test_a_record_that_was_altered_is_refused_and_nothing_that_it_names_runs(home, tmp_path):
    record = version_record.read(home, "taxi", 1)
    file = Path(version_record.artifact(home, record.version.run_id, "lineage.json"))
    kept, ran = file.read_text(), tmp_path / "ran"
    command = {"estimator": "subprocess:Popen", "params": {"touch": 0, str(ran): 0}}
    file.write_text(json.dumps(json.loads(kept) | command))
    try:
        with pytest.raises(RefusedError, match="its lineage is not what was registered"):
            made_again(home, 1)
        assert not ran.exists()
    finally:
        file.write_text(kept)
    assert version_record.read(home, "taxi", 1) == record


def test_the_chain_of_each_version_is_whole_and_names_the_revision_that_it_used(home):
    spec, engine = load_model("taxi", home), database.connect(home)
    made = state(home)[1]
    assert len(made) >= 2
    for number in made:
        graph = lineage_graph.build(lineage_facts.of_version(home, spec, engine, number))
        assert graph.gaps == ()
        assert f"partition:{REVISED}:r{1 if number == 1 else 2}" in {node.id for node in graph.nodes}
        assert Path(graph.card).read_text().startswith("<!DOCTYPE html>")


def test_the_commands_tell_and_write_pages(home, tmp_path):
    from flows.cli import app

    where = ["--home", str(home.home)]
    number = str(state(home)[1][0])
    told = CliRunner().invoke(app, ["diff", "1", number, "--html", str(tmp_path / "diff.html"), *where])
    assert told.exit_code == 0, told.output
    assert f"1 revised ({REVISED})" in " ".join(told.stdout.split())
    assert "1 new (changing)" in " ".join(told.stdout.split())
    found = json.loads(CliRunner().invoke(app, ["diff", "1", number, "--json", *where]).stdout)
    assert [one["name"] for one in found["partitions"]] == [REVISED]
    shown = CliRunner().invoke(app, ["lineage", number, "--html", str(tmp_path / "lineage.html"), *where])
    assert shown.exit_code == 0, shown.output
    assert "Judged against version 1." in shown.stdout
    assert f"{REVISED} r2" in shown.stdout
    assert {path.name for path in tmp_path.glob("*.html")} == {"diff.html", "lineage.html"}
    for arguments, reason in (
        (["lineage", "99"], "has no version 99"),
        (["lineage", "--prediction", "nobody"], "has no request 'nobody'"),
        (["lineage", "1", "--prediction", "nobody"], "not both"),
        (["reproduce", "99"], "has no version 99"),
    ):
        assert reason in str(CliRunner().invoke(app, [*arguments, *where]).exception)
