"""What changed between two versions, in values and in words."""

from datetime import timedelta

import pytest
from lineage_parts import record, used

from flows.steps import diff_page, version_diff
from flows.steps.feature_record import ViewRecord
from flows.steps.version_diff import Change, compare


def test_two_trainings_of_the_same_differ_in_nothing():
    found = compare(record(1), record(1))
    assert not any((found.partitions, found.data, found.features, found.parameters, found.code, found.libraries))
    assert "Partitions: the same; 100 rows before, 100 now." in found.words


def test_partitions_are_more_gone_or_revised():
    found = compare(record(1, days=(1, 2)), record(2, days=(), partitions=(used(2, 2), used(3))))
    assert [(one.name, one.before is None, one.after is None) for one in found.partitions] == [
        ("2024-01-01", False, True), ("2024-01-02", False, False), ("2024-01-03", True, False)
    ]  # fmt: skip
    assert "Partitions: 1 more (2024-01-03); 1 gone (2024-01-01); 1 revised (2024-01-02)" in " ".join(found.words)


def test_parameters_features_code_and_libraries_are_told_with_both_values():
    before = record(1)
    code = before.lineage.code.model_copy(
        update={"files": {"flows.fit": "2" * 64, "flows.more": "3" * 64}, "libraries": {"numpy": "2.1"}}
    )
    view = ViewRecord(name="zone", sha256="0" * 64, fields=("miles", "speed"), ttl=timedelta(days=7))
    after = record(
        2, params={"depth": 4}, code=code, features=("miles", "hour", "speed"), views=(view,),
        feature_definitions_sha256="0" * 64,
    )  # fmt: skip
    found = compare(before, after)
    assert found.parameters == (Change(name="depth", before=3, after=4),)
    assert found.libraries == (Change(name="numpy", before="2.0", after="2.1"),)
    assert [one.name for one in found.code] == ["flows.fit", "flows.more"]
    said = " ".join(found.words)
    for text in (
        "depth 3 → 4",
        "numpy 2.0 → 2.1",
        "1 new (flows.more); 1 changed (flows.fit)",
        "Features: 1 new (speed)",
    ):
        assert text in said
    assert "Definitions of feature views: 1 changed (zone)" in said


def test_the_same_rows_are_compared_only_where_the_second_was_judged_against_the_first():
    judged = compare(record(1), record(2, champion=1))
    assert judged.same_rows == (3.0, 2.0)
    assert "On the same 10 rows its error is 2, that of version 1 3: 33.3% less." in judged.words
    apart = compare(record(2), record(3, champion=1))
    assert apart.same_rows is None
    assert "not of the same data" in " ".join(apart.words)


@pytest.mark.parametrize(
    ("after", "said"), [(2.0, "the same"), (2.0002, "next to the same"), (2.2, "10.0% more"), (1.0, "50.0% less")]
)
def test_a_difference_that_would_print_as_none_is_called_so(after, said):
    assert version_diff._percent(2.0, after) == said


def test_a_gate_that_turned_is_named():
    after = record(2)
    gates = [{**after.evidence["gates"][0], "passed": False}, {**after.evidence["gates"][0], "gate": "api"}]
    found = compare(record(1), after.model_copy(update={"evidence": {**after.evidence, "gates": gates}}))
    assert [(one.name, one.before, one.after) for one in found.gates] == [
        ("champion", "passed", "failed"), ("api", "not judged", "passed")
    ]  # fmt: skip
    assert "champion (passed → failed), api (not judged → passed)" in " ".join(found.words)


def test_the_page_shows_words_and_every_partition_of_both(tmp_path):
    before, after = record(1, days=(1, 2)), record(2, days=(2, 3), champion=1)
    page = diff_page.write(compare(before, after), before, after, tmp_path / "diff.html").read_text()
    for text in ("version 1 → version 2", "2024-01-01: not used", "2024-01-03 r1: 100 rows", "On the same 10 rows"):
        assert text in page
    assert "http" not in page
