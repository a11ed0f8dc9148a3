"""The benchmarks' figures: what is kept, what counts as worse, and that the index and the records name what is there."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.errors import UsageError
from flows.steps import bench, bench_page

HERE = bench.Machine(cpu="some", cores=2, memory_gib=8, system="Linux", versions={"python": "3.11"})


def figure(ratio: float, **values: Any) -> bench.Figure:
    return bench.compared("work", "other", [ratio, ratio, ratio * 1.1], [1.0, 1.0, 1.0], **values)


def test_a_figure_is_the_median_of_the_rounds_ratios_with_their_ends() -> None:
    found = bench.compared("work", "other", [2.0, 9.0, 4.0], [1.0, 3.0, 1.0], bound=3.5)
    assert (found.ours, found.other, found.ratio, found.low, found.high) == (4.0, 1.0, 3.0, 2.0, 4.0)
    assert found.kept is True


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({}, None),
        ({"bound": 2.0}, True),
        ({"bound": 1.9}, False),
        ({"bound": 2.0, "better": "higher"}, True),
        ({"bound": 2.1, "better": "higher"}, False),
        ({"at_most": 1.9}, False),
        ({"bound": 2.0, "at_most": 2.0}, True),
    ],
)
def test_a_bound_is_kept_by_its_direction(values: dict[str, Any], kept: bool | None) -> None:
    assert figure(2.0, **values).kept is kept


@pytest.mark.parametrize(("better", "ratio", "is_worse"), [
    ("lower", 2.5, False), ("lower", 2.6, True), ("lower", 0.1, False),
    ("higher", 1.75, False), ("higher", 1.7, True), ("higher", 9.0, False),
])  # fmt: skip
def test_only_what_is_beyond_the_worst_recorded_round_and_the_slack_is_worse(
    better: Any, ratio: float, is_worse: bool
) -> None:
    before = bench.Record(machine=HERE, figures={"one": (figure(2.0, better=better),)})  # 2.0 to 2.2
    found = bench.worse([bench.Result(name="one", figures=(figure(ratio, better=better),))], before)
    assert bool(found) is is_worse
    assert not bench.worse([bench.Result(name="new", figures=(figure(99.0),))], before)
    assert bench.worse([bench.Result(name="one", failure="no wrk")], before) == ["one could not run: no wrk"]


def test_the_same_work_beside_two_others_is_compared_with_what_was_recorded_beside_each() -> None:
    bare, feast = figure(2.0), figure(0.1).model_copy(update={"beside": "Feast"})
    before = bench.Record(machine=HERE, figures={"one": (bare, feast)})
    assert not bench.worse([bench.Result(name="one", figures=(bare, feast))], before)
    slower = feast.model_copy(update={"ratio": 1.0})
    (told,) = bench.worse([bench.Result(name="one", figures=(bare, slower))], before)
    assert "times Feast" in told


def test_the_index_names_modules_that_have_figures_and_no_other_name_is_taken() -> None:
    for one in bench.listed():
        tree = ast.parse((bench.folder() / f"{one.module}.py").read_text(encoding="utf-8"))
        assert "figures" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, one
    with pytest.raises(UsageError, match="there is no benchmark nothing; there are startup"):
        bench.chosen(["nothing"])


def test_what_is_recorded_are_benchmarks_of_the_index() -> None:
    before = bench.recorded()
    assert before is not None
    assert set(before.figures) <= {one.name for one in bench.listed()}
    for name, figures in before.figures.items():
        assert len({(one.name, one.beside) for one in figures}) == len(figures), name


def test_without_a_source_tree_it_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    with pytest.raises(UsageError, match="in the source tree alone"):
        bench.listed()


def test_the_page_holds_every_figure_and_what_could_not_run(tmp_path: Path) -> None:
    results = [
        bench.Result(name="one", figures=(figure(2.0, bound=1.0, note="a note"),), seconds=1.0),
        bench.Result(name="two", failure="wrk is <missing>"),
    ]
    before = bench.Record(machine=HERE, figures={"one": (figure(1.9),)})
    page = bench_page.write(HERE, results, before, tmp_path / "bench.html").read_text(encoding="utf-8")
    for text in ("work", "≤ 1", "failed", "a note", "wrk is &lt;missing&gt;", "data:image/png"):
        assert text in page


def test_a_benchmark_that_ends_badly_is_a_failure_with_its_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = tmp_path / "tests" / "benchmarks"
    places.mkdir(parents=True)
    (places / "__main__.py").write_text("print('begins')\nraise SystemExit('the disk is made of cheese')\n")
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    said: list[str] = []
    found = bench.run(bench.Listed(name="one", module="one", what="", minutes=1), said.append)
    assert (found.failure, said) == ("the disk is made of cheese", ["begins"])


def test_the_command_lists_the_benchmarks_and_refuses_unknown_ones() -> None:
    from flows.cli import app

    found = CliRunner().invoke(app, ["bench", "--list", "--json"])
    assert [one["name"] for one in json.loads(found.stdout)] == [one.name for one in bench.listed()]
    assert isinstance(CliRunner().invoke(app, ["bench", "nothing"]).exception, UsageError)


def test_what_the_other_lacks_is_on_the_page_and_each_line_names_a_test_that_there_is(tmp_path: Path) -> None:
    from tests.benchmarks.other_tool_lacks import LACKS

    for line in LACKS:
        assert line.shown == "tried in this run" or (bench.ROOT / line.shown).is_file(), line
    results = [bench.Result(name="one", figures=(figure(2.0),), differences=LACKS)]
    page = bench_page.write(HERE, results, None, tmp_path / "bench.html").read_text(encoding="utf-8")
    assert "one: what other lacks" in page
    assert LACKS[-1].what in page


def test_lines_are_counted_without_blanks_comments_and_docstrings(tmp_path: Path) -> None:
    from tests.benchmarks.lines import code_lines

    code, data = tmp_path / "code.py", tmp_path / "data.yml"
    code.write_text(
        '"""Says\nmuch."""\n\n# why\ndef one():\n    """Return 1."""\n    text = """a\nb"""\n    return 1\n'
    )
    data.write_text("# what\none: 1 # this\n\ntwo: 2\n")
    assert code_lines(code) == ["def one():", '    text = """a', 'b"""', "    return 1"]
    assert code_lines(data) == ["one: 1 # this", "two: 2"]
