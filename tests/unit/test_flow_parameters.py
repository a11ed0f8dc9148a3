"""Parameters that a person types in Prefect's UI: what cannot be right is refused before there is a run."""

from importlib import import_module
from pathlib import Path

import pytest
import yaml
from prefect.exceptions import ParameterTypeError

from flows.monitor import monitor
from flows.rollout import begin_trial
from flows.train import train

BLOCKS = yaml.safe_load((Path(__file__).parents[2] / "deployments" / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize(
    ("flow", "name", "wrong", "right"),
    [
        (train, "judge_days", (0, -3), 1),
        (train, "trials", (-1,), 0),
        (monitor, "days", (0, -1), 1),
        (begin_trial, "share", (0.0, 1.0, 7.0), 0.5),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_the_flows_schema(flow, name, wrong, right):
    schema = next(one for one in flow.parameters.properties[name]["anyOf"] if one["type"] != "null")
    assert {"minimum", "exclusiveMinimum"} & set(schema)  # by which the server refuses what the UI sends
    for value in wrong:
        with pytest.raises(ParameterTypeError, match=name):
            flow.validate_parameters({name: value})
    for value in (right, None):
        assert flow.validate_parameters({name: value})[name] == value


@pytest.mark.parametrize("entrypoint", sorted({block["entrypoint"] for block in BLOCKS}))
def test_the_forms_of_prefects_ui_say_what_each_parameter_is(entrypoint):
    module, name = entrypoint.rsplit(".", 1)
    described = getattr(import_module(module), name).parameters.properties
    assert described
    assert [parameter for parameter, schema in described.items() if not schema.get("description")] == []
