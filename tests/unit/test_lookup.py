"""Lookup: a mistake in a model's own files is told with its file, its field and what is wrong with it."""

import importlib
import sys

import pytest

from flows.cli_error import told
from flows.errors import ContractError
from flows.lookup import load_model
from flows.settings import Settings

SPEC = """
from flows.models.taxi.spec import spec as taxi
from flows.spec import Metric, ModelSpec, Training
{line}
spec = ModelSpec(**{{**dict(taxi), "name": "own", {change}}})
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return what writes a model's spec into a package of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "mistaken" / "own"
    folder.mkdir(parents=True)
    for place in (folder.parent, folder):
        (place / "__init__.py").touch()

    def write(text):
        (folder / "spec.py").write_text(text)
        for name in [name for name in sys.modules if name.partition(".")[0] == "mistaken"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        return Settings(home=tmp_path / "home", model_packages=("mistaken",))

    return write


@pytest.mark.parametrize(
    ("line", "change", "said"),
    [
        ("", '"training": Training(min_row=1000)', "line 5: Training.min_row: Extra inputs are not permitted"),
        ("metric = Metric(name='rsme')", "", "line 4: Metric.name: Input should be 'rmse', 'mae'"),
        ("", '"partition_by": "monthly"', "line 5: ModelSpec.partition_by: Input should be 'day', 'week'"),
        ("", '"tick": taxi.tick * 2', "line 5: ModelSpec.tick: it is no day and no whole part of one"),
        ("window = days(3)", "", "line 4: NameError: name 'days' is not defined"),
        ("window = taxi.no", "", "line 4: AttributeError: 'ModelSpec' object has no attribute 'no'"),
        ("window = (3", "", "line 4: SyntaxError: '(' was never closed"),
        ("__import__('json').loads('')", "", "line 4: JSONDecodeError: Expecting value"),
    ],
)
def test_a_mistake_in_a_spec_is_told_with_its_place(write, line, change, said):
    settings = write(SPEC.format(line=line, change=change))
    with pytest.raises(ContractError) as error:
        load_model("own", settings)
    assert told(error.value)[0].startswith(f"mistaken/own/spec.py, {said}")
    assert told(error.value)[1] == 1


def test_a_spec_without_a_mistake_is_loaded(write):
    assert load_model("own", write(SPEC.format(line="", change='"owner": "me"'))).owner == "me"
