"""The base job templates of the work pools: every placeholder is a variable, every variable is used, secrets are files."""

from __future__ import annotations

import json
import re

import pytest

from deployments.declared import pool_template


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_template_uses_its_variables_and_no_others(kind: str) -> None:
    template = pool_template(kind)
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])
    environment = template["variables"]["properties"]["env"]["default"]
    assert environment["EVERGREEN_PROFILE"] == "team"
    assert environment["EVERGREEN_SECRETS_DIR"] in json.dumps([template["job_configuration"], template["variables"]])
    assert not [
        name for name in environment if name.endswith(("_URI", "_KEY", "LEDGER_URL", "STORE_URL", "REGISTRY_URL"))
    ]


def test_a_type_without_a_template_of_ours_takes_prefects_own() -> None:
    assert pool_template("process") == {}
