"""The table of faults: each of its rows has tests, and says what came of them."""

from types import SimpleNamespace

from faults_table import FAULTS, FOLDER, Function, functions_of, judge, outcomes

ONE, TWO = Function("test_fault_05_x.py", "test_one", (5,)), Function("test_fault_05_x.py", "test_two", (5,))


def test_each_of_the_24_faults_has_a_test():
    assert list(FAULTS) == list(range(1, 25))
    shown = {number for one in functions_of(FOLDER.glob("test_*.py")) for number in one.faults}
    assert shown == set(FAULTS)


def test_a_test_belongs_to_the_faults_of_its_file_or_to_the_one_of_its_own_name(tmp_path):
    (tmp_path / "test_fault_13_14_what.py").write_text("def test_14_a(): ...\ndef test_b(): ...\ndef helper(): ...\n")
    (tmp_path / "test_team_what.py").write_text("def test_c(): ...\n")
    found = {one.name: one.faults for one in functions_of(tmp_path.glob("*.py"))}
    assert found == {"test_14_a": (14,), "test_b": (13, 14), "test_c": ()}


def test_cases_of_one_test_are_told_together_and_the_worst_counts():
    path = "tests/faults/test_fault_05_x.py"
    ended = outcomes(
        {
            "passed": [SimpleNamespace(nodeid=f"{path}::test_one[a]"), SimpleNamespace(nodeid=f"{path}::test_two")],
            "error": [SimpleNamespace(nodeid=f"{path}::test_one[b]")],
        }
    )
    assert judge([ONE, TWO], ended) == ("failed", "2 of 2")
    assert judge([TWO], ended) == ("passed", "1 of 1")


def test_what_did_not_run_or_is_not_there_is_no_pass():
    ended = {(ONE.file, ONE.name): {"passed"}}
    assert judge([ONE, TWO], ended) == ("not run", "1 of 2")
    assert judge([], ended) == ("missing", "0 of 0")
    assert judge([ONE], {(ONE.file, ONE.name): {"skipped"}}) == ("skipped", "1 of 1")
