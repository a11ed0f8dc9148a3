"""Great Expectations kept quiet: a context without files and progress bars, and results as plain data in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from great_expectations import ExpectationSuite, get_context
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)


def quiet_context() -> Any:
    """Return a context that leaves nothing behind."""
    # No site of its own: that would leave a temporary folder.
    stores = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
    quiet = DataContextConfig(
        store_backend_defaults=stores, analytics_enabled=False, progress_bars=ProgressBarsConfig(globally=False)
    )
    return get_context(mode="ephemeral", project_config=quiet)


def in_order(expectations: list[Any], validate: Callable[[ExpectationSuite], Any]) -> list[dict[str, Any]]:
    """Return the results of a validation as plain data, in the order of the expectations.

    Nothing that Great Expectations may do to an expectation reaches the ones that were given.
    """
    numbered = [item.copy(update={"meta": {"number": number}}) for number, item in enumerate(expectations)]
    result = validate(ExpectationSuite(name="suite", expectations=numbered))
    by_number = {item["expectation_config"]["meta"]["number"]: item for item in result.to_json_dict()["results"]}
    return [by_number[number] for number in sorted(by_number)]
