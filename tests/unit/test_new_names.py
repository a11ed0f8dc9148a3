"""Names and values of a table never become anything but text in the files that are written."""

import ast

import pytest

from flows.errors import UsageError
from flows.steps.new.columns import RESERVED, _unfit, names_of
from flows.steps.new.drafting import code, delta, sequence
from flows.steps.new.table import Column, _check_names
from flows.steps.new.wanted import parse_moment, parse_names, parse_span, refuse

ODD = [
    'say "hi"', "it's", """both ' and \"""", "{{ 7 * 7 }}", "{% raw %}", "a\\nb", "\\", "Größe", "возраст", "数量", "\u2019",
    '"; DROP TABLE x; --', "f{x}", "%s", "end\\", "🚲",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_a_text_as_python_is_that_text(text):
    assert ast.literal_eval(code(text)) == text


def test_names_in_requests_are_plain_free_and_different():
    raw = [*ODD, "Straße", "a b", "a-b", "a_b", "class", "label", "prediction", "A", "1st", "__init__", "time_hour"]
    found = names_of(raw)
    names = list(found.values())
    assert all(name.isidentifier() and name.isascii() for name in names)
    assert len({name.lower() for name in names}) == len(raw)
    assert not RESERVED & set(names)
    assert found["a_b"] == "a_b"
    assert (found["Straße"], found["Größe"]) == ("strasse", "grosse")
    assert found["A"] == "A"


@pytest.mark.parametrize("names", [["a", "A"], ["RowID"], ["a\nb"], [" "], ["x" * 200], ["a\x00"], ["\ud800"]])
def test_names_that_nobody_could_tell_apart_or_type_are_refused(names):
    with pytest.raises(UsageError, match="rename"):
        _check_names(names)


def test_options_are_read_or_refused():
    assert parse_names('a, "b,c",a') == ("a", "b,c")
    assert parse_span("30min").total_seconds() == 1800
    assert delta(parse_span("1h")) == "timedelta(hours=1)"
    for wrong in ("soon", "-1h", "0h", "1e9d"):
        with pytest.raises(UsageError):
            parse_span(wrong)
    for wrong in ("yesterday", "2024-01-01T00:00:00Z", "0001-01-01"):
        with pytest.raises(UsageError):
            parse_moment(wrong)
    with pytest.raises(UsageError, match="--label"):
        refuse("Which column?", "--label COLUMN")


def test_a_long_tuple_is_broken_over_lines():
    names = [f"a_rather_long_name_{number}" for number in range(9)]
    assert ast.literal_eval(sequence(names, 8)) == tuple(names)
    assert all(len(line) <= 120 for line in sequence(names, 8).splitlines())


@pytest.mark.parametrize("name", ["__index_level_0__", "Unnamed: 0", "Unnamed: 0.1", "column0"])
def test_the_index_that_pandas_writes_into_a_file_is_no_feature(name):
    column = Column(name="amount", kind="BIGINT", form="whole", nulls=0, distinct=40, low=0, high=900)
    assert _unfit(column, 100, entity=False) is None
    index = column.model_copy(update={"name": name})
    assert _unfit(index, 100, entity=False) == "is the index of a data frame"


def test_a_column_without_a_name_that_holds_no_whole_numbers_is_no_index():
    column = Column(name="column0", kind="VARCHAR", form="text", nulls=0, distinct=4, values=("a", "b", "c", "d"))
    assert _unfit(column, 100, entity=False) is None
