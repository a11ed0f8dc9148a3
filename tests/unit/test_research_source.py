"""The source of what a researcher gives: a module that makes the same estimator, or the reason why there is none."""

import ast
import re
import types

import numpy as np
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from flows.errors import UsageError
from flows.models.taxi.spec import spec
from flows.steps.research.source import take

NOTEBOOK = '''
import numpy as np
import sklearn
import sklearn.linear_model as lines
from sklearn.pipeline import make_pipeline as chain
from sklearn.preprocessing import FunctionTransformer
from typing import Any, Optional

ALPHAS = {"small": 0.5, "large": np.float64(8)}
LAMBDA = lambda: None


def scaled(quietly: Optional[bool] = None) -> Any:
    return FunctionTransformer(np.log1p)


def shallow(params: dict[str, Any]) -> "lines.Ridge":
    """Return a line."""
    print_it = [one for one in params]
    assert sklearn.linear_model and print_it is not None
    return chain(scaled(), lines.Ridge(alpha=ALPHAS["large"], **params))


def nested(params):
    def inner(params):
        return Ridge(**params)

    return inner


def stray(params):
    return nowhere(params)


class Own(lines.Ridge):
    pass


def unnamed(params):
    return Own()


def random(params):
    return lines.Ridge(alpha=float(np.random.rand()))


def failing(params):
    raise ValueError("no such parameter")
'''


@pytest.fixture
def notebook(monkeypatch):
    """Return a module as a notebook's: with sources that are known, and no file that could be imported."""
    import linecache

    name = "<cell 1>"
    lines = NOTEBOOK.splitlines(keepends=True)
    monkeypatch.setitem(linecache.cache, name, (len(NOTEBOOK), None, lines, name))
    module = types.ModuleType("__main__")
    exec(compile(NOTEBOOK, name, "exec", dont_inherit=True), vars(module))
    return module


def made(code: str, params: dict) -> object:
    scope: dict = {}
    exec(code, scope)
    return scope["build"](params)


def shown(estimator: object) -> str:
    """Return the text of an estimator, numpy's numbers as Python's."""
    return re.sub(r"np\.float64\((.*?)\)", r"\1", " ".join(repr(estimator).split()))


def test_an_estimator_becomes_a_factory_of_its_plain_parameters_or_the_whole_call():
    trees = take(
        spec,
        HistGradientBoostingRegressor(max_iter=np.int64(70), categorical_features=["hour"]),
        {"l2_regularization": 1},
    )
    assert trees.params == {"max_iter": 70, "categorical_features": ["hour"], "l2_regularization": 1}
    assert "return HistGradientBoostingRegressor(**params)" in trees.code
    piped = make_pipeline(
        SimpleImputer(strategy="median"), FunctionTransformer(np.log1p, kw_args={}), Ridge(alpha=np.float64(2))
    )
    whole = take(spec, TransformedTargetRegressor(piped, func=np.log, inverse_func=np.exp), None)
    assert (whole.params, whole.why) == ({}, "")
    for given in (trees, whole):
        assert shown(made(given.code, given.params)) == shown(given.build(given.params))
        assert max(map(len, given.code.splitlines())) <= 120
        ast.parse(given.code)


def test_parameters_that_no_record_holds_as_they_are_stay_in_the_code():
    given = take(spec, MLPRegressor(hidden_layer_sizes=(20, 10)), None)
    assert given.params == {}
    assert "return MLPRegressor(hidden_layer_sizes=(20, 10))" in given.code
    odd = take(spec, Ridge(random_state=np.random.RandomState(0)), None)
    assert "a RandomState cannot be written as source" in odd.why


def test_a_function_of_a_notebook_brings_its_helpers_constants_and_imports(notebook):
    given = take(spec, notebook.shallow, {"fit_intercept": np.bool_(False)})
    assert given.params == {"fit_intercept": False}
    for text in (
        "import numpy as np", "import sklearn.linear_model", "import sklearn.linear_model as lines",
        "from sklearn.pipeline import make_pipeline as chain", "from typing import Any, Optional",
        'ALPHAS = {"small": 0.5, "large": 8.0}', "def scaled(", "build = shallow",
    ):  # fmt: skip
        assert text in given.code
    assert given.code.index("def scaled") < given.code.index("def shallow") < given.code.index("build = shallow")
    assert shown(made(given.code, given.params)) == shown(notebook.shallow(given.params))


def test_a_dotted_path_brings_the_function_that_it_names_with_the_specs_parameters():
    given = take(spec, "flows.models.taxi.broken:build", None)
    assert (given.name, given.params) == ("flows.models.taxi.broken:build", spec.params)
    assert made(given.code, spec.params).max_iter == 2
    assert len(given.digest) == 64


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("LAMBDA", "a lambda has no source"),
        ("stray", "names nowhere, which is not there"),
        ("unnamed", "Own .* has no source"),
        ("random", "makes another estimator"),
        ("failing", r"does not run by itself \(ValueError: no such parameter\)"),
    ],
)
def test_what_has_no_source_of_its_own_is_run_but_says_why_it_cannot_be_adopted(notebook, name, reason):
    given = take(spec, getattr(notebook, name), {})
    assert (given.code, given.digest) == (None, "")
    assert re.search(reason, given.why)


def test_functions_within_functions_changed_sources_and_odd_parameters_have_none(notebook, monkeypatch):
    import linecache

    assert "within another function" in take(spec, notebook.nested({}), {}).why
    assert "parameters are not all" in take(spec, notebook.shallow, {"alpha": object()}).why
    assert "parameters are not all" in take(spec, notebook.shallow, {"alpha": (1, 2)}).why
    assert "lambda" in take(spec, make_pipeline(FunctionTransformer(lambda x: x), Ridge()), None).why
    later = [line.replace("alpha=ALPHAS", "tol=ALPHAS") for line in NOTEBOOK.splitlines(keepends=True)]
    monkeypatch.setitem(linecache.cache, "<cell 1>", (len(NOTEBOOK), None, later, "<cell 1>"))
    assert "has changed since it was loaded" in take(spec, notebook.shallow, {}).why


@pytest.mark.parametrize("given", [Ridge, 7, None])
def test_what_is_no_estimator_is_a_wrong_call(given):
    with pytest.raises(UsageError, match="is no estimator; give one that is made"):
        take(spec, given, None)
    with pytest.raises(UsageError, match="cannot be copied"):
        take(spec, Ridge(), {"depth": 3})
