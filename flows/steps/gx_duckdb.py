"""Great Expectations on an open DuckDB connection: the one place that knows how to make the two work together.

Great Expectations 1.24 reads the rows of a query after it gave the connection back; DuckDB has then lost them, and the
check ends in an IndexError that shows only as ``success=False`` (great_expectations issues 10738 and 11579). The
execution engine here fetches the rows while the connection is open. Importing this module imports Great Expectations,
which takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa
from duckdb_engine import ConnectionWrapper
from great_expectations import ExpectationSuite, get_context
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.datasource.fluent import SQLDatasource
from great_expectations.execution_engine import SqlAlchemyExecutionEngine
from great_expectations.validator.v1_validator import Validator

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


class DuckDBExecutionEngine(SqlAlchemyExecutionEngine):  # type: ignore[misc]
    """Fetches what a query gives before its connection goes back to the pool."""

    _kept_inspector: Any = None

    def execute_query(self, query: Any) -> Any:
        """Run a query and return its whole result, readable later."""
        with self.get_connection() as connection:
            result = self._execute_query_with_recovery(connection, query)
            return result.freeze()() if result.returns_rows else result

    def get_inspector(self) -> Any:
        """Return one inspector for good: the columns of the table do not change, and looking them up costs 15 ms."""
        if self._kept_inspector is None:
            self._kept_inspector = super().get_inspector()
        return self._kept_inspector


class EvergreenDuckDB(SQLDatasource):  # type: ignore[misc]
    """A data source over an open DuckDB connection; Great Expectations registers it by its ``type``."""

    type: Literal["evergreen_duckdb"] = "evergreen_duckdb"

    @property
    def execution_engine_type(self) -> Any:
        """Return the engine that works on DuckDB."""
        return DuckDBExecutionEngine


class TableJudge:
    """Validates one table of an open connection; the table may be replaced by one of the same columns in between."""

    def __init__(self, connection: DuckDBPyConnection, table: str) -> None:
        def cursor() -> ConnectionWrapper:
            own = connection.cursor()
            own.execute("SET TimeZone = 'UTC'")  # a cursor starts with the settings of the database, not of its parent
            return ConnectionWrapper(own)

        # No site of its own: that would leave a temporary folder behind.
        stores = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
        quiet = DataContextConfig(
            store_backend_defaults=stores, analytics_enabled=False, progress_bars=ProgressBarsConfig(globally=False)
        )
        context = get_context(mode="ephemeral", project_config=quiet)
        source = context.data_sources.add_evergreen_duckdb(
            "duckdb",
            connection_string="duckdb:///:memory:",
            create_temp_table=False,
            kwargs={"creator": cursor, "poolclass": sa.pool.StaticPool},
        )
        self._batch = source.add_table_asset(table, table_name=table).add_batch_definition_whole_table("all")

    def validate(self, expectations: list[Any], result_format: str | dict[str, Any]) -> list[dict[str, Any]]:
        """Return Great Expectations' results as plain data, in the order of the expectations.

        Nothing that it may do to an expectation reaches the ones that were given.
        """
        numbered = [item.copy(update={"meta": {"number": number}}) for number, item in enumerate(expectations)]
        suite = ExpectationSuite(name="suite", expectations=numbered)
        result = Validator(self._batch, result_format=result_format).validate_expectation_suite(suite)
        by_number = {item["expectation_config"]["meta"]["number"]: item for item in result.to_json_dict()["results"]}
        return [by_number[number] for number in sorted(by_number)]
