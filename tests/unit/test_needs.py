"""The modules that commands and the demo load while their Prefect server starts are there."""

import ast
import importlib.util
from pathlib import Path

import pytest

from flows import cli, demo_steps


def needs():
    yield from {("demo_steps", name) for name in demo_steps.NEEDS}
    for file in sorted(Path(cli.__file__).parent.glob("cli*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "run_flow":
                yield from {
                    (file.stem, one.value)
                    for given in (*node.args, *(keyword.value for keyword in node.keywords))
                    for one in ast.walk(given)
                    if isinstance(one, ast.Constant) and isinstance(one.value, str)
                }


@pytest.mark.parametrize(("file", "name"), sorted(set(needs())))
def test_each_is_a_module(file, name):
    assert importlib.util.find_spec(name), file
