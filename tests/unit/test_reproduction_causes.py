"""Why a version may not come out again: each cause by its name, from the record and what is here."""

import pytest
from lineage_parts import partition, record

from flows.steps import reproduction_causes as causes
from flows.steps.feature_record import FeatureFile, ViewRecord
from flows.steps.files import sha256_of
from flows.steps.reproduction import Check, _unexplained

CODE = record(1).lineage.code


def told(found) -> list[tuple[str, str]]:
    return [(cause.kind, cause.what) for cause in found]


def test_nothing_differs_from_itself():
    assert causes.of_code(CODE, CODE) == []
    assert causes.of_libraries(CODE.libraries, CODE.libraries) == []
    assert causes.of_machine(CODE, CODE, 2) == []


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (("estimator file",), "the estimator's file alone: it predicts the same"),
        (("estimator file", "predictions, judge"), "give it a random_state"),
        (("training set", "estimator file"), "the training set: joined from the same files"),
    ],
)
def test_what_nothing_explains_is_told_by_what_came_out_otherwise(other, words):
    checks = [
        Check(what=what, same=what not in other, recorded="1", here="2")
        for what in ("training set", "estimator file", "predictions, judge")
    ]
    assert words in _unexplained(checks).what


def test_modules_that_changed_came_or_went_are_named():
    here = CODE.model_copy(update={"files": {"flows.fit": "2" * 64, "flows.new": "3" * 64}})
    found = causes.of_code(CODE, here)
    assert told(found) == [("code", "module flows.fit"), ("code", "module flows.new")]
    assert (found[0].recorded, found[0].here) == ("sha256 111111111111", "sha256 222222222222")
    assert found[1].recorded is None


def test_a_record_without_files_is_compared_by_the_hash_of_all():
    old = CODE.model_copy(update={"files": {}})
    assert causes.of_code(old, CODE) == []
    (cause,) = causes.of_code(old, CODE.model_copy(update={"sources_sha256": "0" * 64}))
    assert "from before they were named" in cause.what


def test_a_library_is_told_from_what_to_what():
    (cause,) = causes.of_libraries({"numpy": "1.9", "duckdb": "1.5"}, {"numpy": "2.0", "duckdb": "1.5", "more": "1"})
    assert (cause.kind, cause.what, cause.recorded, cause.here) == ("library", "numpy", "1.9", "2.0")


@pytest.mark.parametrize(("cores", "threads", "kinds"), [(1, 2, ["threads"]), (8, 2, []), (1, 1, [])])
def test_fewer_cores_are_a_cause_only_if_fewer_threads_train(cores, threads, kinds):
    here = CODE.model_copy(update={"machine": CODE.machine.model_copy(update={"cores": cores})})
    assert [cause.kind for cause in causes.of_machine(CODE, here, threads)] == kinds


def test_another_definition_of_a_view_is_named():
    was = [ViewRecord(name=name, sha256=digest * 64, fields=(), ttl=None) for name, digest in (("a", "1"), ("b", "2"))]
    now = [was[0], was[1].model_copy(update={"sha256": "3" * 64})]
    assert told(causes.of_views(was, now)) == [("features", "definition of view b")]


def test_files_of_feature_tables_that_are_gone_or_altered_are_named(tmp_path):
    (tmp_path / "zone").mkdir()
    files = []
    for name in ("kept", "altered", "gone"):
        path = tmp_path / "zone" / name
        path.write_text(name)
        files.append(FeatureFile(view="zone", name=name, sha256=sha256_of(path)))
    (tmp_path / "zone" / "altered").write_text("other")
    (tmp_path / "zone" / "gone").unlink()
    assert told(causes.of_feature_files(tmp_path, files)) == [
        ("features", "feature table zone, file altered"), ("features", "feature table zone, file gone")
    ]  # fmt: skip


def test_a_partition_that_the_ledger_lost_is_named():
    found = causes.of_partitions(record(1, days=(1, 2)).lineage, [partition(1, accepted_uri=None)])
    assert told(found) == [("data", f"partition 2024-01-0{day} r1, in the ledger") for day in (1, 2)]
    assert all(cause.here is None for cause in found)
