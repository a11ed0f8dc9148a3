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
from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.datasource.fluent import SQLDatasource
from great_expectations.execution_engine import SqlAlchemyExecutionEngine
from great_expectations.expectations.metrics.column_aggregate_metric_provider import ColumnAggregateMetricProvider
from great_expectations.expectations.metrics.metric_provider import metric_value
from great_expectations.validator.v1_validator import Validator

from flows.steps.gx_context import in_order, quiet_context

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


SAMPLED = 100_000  # values that say about where a median lies


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


class DuckDBMedian(ColumnAggregateMetricProvider):  # type: ignore[misc]
    """The exact median without a sort of all values, which is most of the time of Great Expectations' own.

    A sample says between which values it lies; those alone are sorted. Is it not among them, a wider range is.
    """

    metric_name = "column.median"

    @metric_value(engine=DuckDBExecutionEngine)  # type: ignore[untyped-decorator]
    def _duckdb(
        cls,  # noqa: N805 (Great Expectations makes it a class method)
        execution_engine: DuckDBExecutionEngine,
        metric_domain_kwargs: dict[str, Any],
        metric_value_kwargs: dict[str, Any],
        metrics: dict[str, Any],
        runtime_configuration: dict[str, Any],
    ) -> Any:
        table, _, accessor = execution_engine.get_compute_domain(metric_domain_kwargs, MetricDomainTypes.COLUMN)
        column: Any = sa.column(accessor["column"])
        count = execution_engine.execute_query(sa.select(sa.func.count(column)).select_from(table)).scalar()
        if not count:
            return None
        place, wanted = (count - 1) // 2, 2 - count % 2
        for around in (0.05, 0.25, 0.5) if count > 2 * SAMPLED else (0.5,):
            below, where = 0, column.is_not(None)
            if around < 0.5:
                some = sa.tablesample(table, sa.func.system(sa.text(f"{100 * SAMPLED / count:.3f} PERCENT")))
                ends = (sa.func.quantile_disc(column, share) for share in (0.5 - around, 0.5 + around))
                low, high = execution_engine.execute_query(sa.select(*ends).select_from(some)).one()
                if low is None:
                    continue
                less = sa.select(sa.func.count()).select_from(table).where(column < low)
                below, where = execution_engine.execute_query(less).scalar(), column.between(low, high)
            if below > place:
                continue
            middle = sa.select(column).select_from(table).where(where).order_by(column)
            found = execution_engine.execute_query(middle.offset(place - below).limit(wanted)).scalars().all()
            if len(found) == wanted:
                return found[0] if wanted == 1 else float(found[0] + found[1]) / 2.0
        return None


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

        source = quiet_context().data_sources.add_evergreen_duckdb(
            "duckdb",
            connection_string="duckdb:///:memory:",
            create_temp_table=False,
            kwargs={"creator": cursor, "poolclass": sa.pool.StaticPool},
        )
        self._batch = source.add_table_asset(table, table_name=table).add_batch_definition_whole_table("all")

    def validate(self, expectations: list[Any], result_format: str | dict[str, Any]) -> list[dict[str, Any]]:
        """Return Great Expectations' results as plain data, in the order of the expectations."""
        return in_order(expectations, Validator(self._batch, result_format=result_format).validate_expectation_suite)
