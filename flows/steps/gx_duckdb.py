"""Great Expectations on an open DuckDB connection: the one place that knows how to make the two work together.

Great Expectations 1.24 reads the rows of a query after it gave the connection back; DuckDB has then lost them, and the
check ends in an IndexError that shows only as ``success=False`` (great_expectations issues 10738 and 11579). The
execution engine here fetches the rows while the connection is open. Importing this module imports Great Expectations,
which takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
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


class DuckDBExecutionEngine(SqlAlchemyExecutionEngine):  # type: ignore[misc]  # Great Expectations is Any to mypy
    """Fetches what a query gives before its connection goes back to the pool."""

    def execute_query(self, query: Any) -> Any:
        """Run a query and return its whole result, readable later."""
        with self.get_connection() as connection:
            result = self._execute_query_with_recovery(connection, query)
            return result.freeze()() if result.returns_rows else result

    def get_inspector(self) -> Any:
        """Return what knows no columns, so that Great Expectations looks at the table itself.

        SQLAlchemy's would ask for PostgreSQL's catalogues, which DuckDB lacks: 7 ms until both questions have failed.
        """
        return SimpleNamespace(
            dialect=self.engine.dialect, get_pk_constraint=lambda **_: {}, get_columns=lambda **_: []
        )


class DuckDBMedian(ColumnAggregateMetricProvider):  # type: ignore[misc]  # the same
    """The exact median without a sort of all values, which is most of the time of Great Expectations' own."""

    metric_name = "column.median"

    @metric_value(engine=DuckDBExecutionEngine)  # type: ignore[untyped-decorator]  # the same
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

        def ask(query: Any) -> list[Any]:
            return list(execution_engine.execute_query(query).all())

        low, high = _by_range(ask, table, column) or _by_counts(ask, table, column)
        return low if low == high else float(low + high) / 2.0


def _by_range(ask: Callable[[Any], list[Any]], table: Any, column: Any) -> tuple[Any, Any] | None:
    """Return the two middle values of many that seldom repeat: a sample says about where, and those alone are sorted.

    None if there are few, if many repeat, or if the middle is not where it should be.
    """
    ((rows,),) = ask(sa.select(sa.func.count()).select_from(table))
    if rows <= 2 * SAMPLED:
        return None
    some = sa.tablesample(table, sa.func.system(sa.text(f"{100 * SAMPLED / rows:.3f} PERCENT")))
    ((known, kinds),) = ask(sa.select(sa.func.count(column), sa.func.count(column.distinct())).select_from(some))
    for around in (0.05, 0.25) if 2 * kinds > known else ():
        ends = (sa.func.quantile_disc(column, share) for share in (0.5 - around, 0.5 + around))
        ((low, high),) = ask(sa.select(*ends).select_from(some))
        figures = sa.func.count(column), sa.func.count().filter(column < low)
        ((count, below),) = ask(sa.select(*figures).select_from(table))
        wanted, place = 2 - count % 2, (count - 1) // 2 - below
        middle = sa.select(column).select_from(table).where(column.between(low, high)).order_by(column)
        found = ask(middle.offset(place).limit(wanted)) if place >= 0 else []
        if len(found) == wanted:
            return found[0][0], found[-1][0]
    return None


def _by_counts(ask: Callable[[Any], list[Any]], table: Any, column: Any) -> tuple[Any, Any]:
    """Return the two middle values, the same twice if there is one, none if there are no values; counts each value."""
    count = sa.func.count()
    counts = sa.select(column.label("value"), count.label("n")).select_from(table).where(column.is_not(None))
    each = counts.group_by(column).subquery().c
    upto, total = sa.func.sum(each.n).over(order_by=each.value), sa.func.sum(each.n).over()
    run = sa.select(each.value, upto.label("upto"), total.label("total")).subquery().c
    low, high = (sa.func.min(run.value).filter(2 * run.upto >= run.total + more) for more in (0, 1))
    ((first, last),) = ask(sa.select(low, high))
    return first, last


class EvergreenDuckDB(SQLDatasource):  # type: ignore[misc]  # the same
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
