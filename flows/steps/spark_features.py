"""Feature values computed on the Spark cluster, from the same ibis expressions as on DuckDB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flows.settings import Settings
from flows.steps import spark
from flows.steps.files import scratch

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from flows.steps.windows import Computed, Expression


@contextmanager
def computing(settings: Settings, files: Sequence[str], ticks: Sequence[datetime]) -> Iterator[Computed]:
    """Yield a function that has the cluster compute a view by its expression, and returns SQL of its rows for DuckDB.

    The expression sees the rows of parquet files and the ticks (UTC). What is computed is there until the block ends.
    """
    import ibis
    import pyarrow as pa
    from pyspark.sql.functions import broadcast

    session = spark.session(settings)
    # Views of a session have one namespace; a session of our own keeps names apart.
    own = session.newSession()
    with spark.told(settings, "the rows"):
        rows = own.read.option("mergeSchema", "true").parquet(*[spark.place(file) for file in files])
        rows.createOrReplaceTempView("rows")
        table = pa.table({"tick": pa.array(list(ticks), pa.timestamp("us", "UTC"))})
        broadcast(own.createDataFrame(table)).createOrReplaceTempView("ticks")
    connection = ibis.pyspark.connect(own)

    with scratch(settings.home, "spark") as folder:

        def compute(view: str, expression: Expression) -> str:
            with spark.told(settings, f"feature view {view}"):
                found = as_on_duckdb(expression(connection.table("rows"), connection.table("ticks")))
                return spark.written(own.sql(str(connection.compile(found))), folder / view)

        yield compute


def as_on_duckdb(expression: ir.Table) -> ir.Table:
    """Return an expression in which a number that is cast to a whole one is rounded (half to even), as DuckDB does.

    Spark cuts off what is behind the point.
    """
    import ibis
    from ibis.expr import operations as ops

    @ibis.udf.scalar.builtin(name="rint")  # type: ignore[untyped-decorator]  # ibis has no types
    def rint(value: float) -> float: ...  # type: ignore[empty-body]  # Spark has the body

    def rounded(node: Any, kwargs: dict[str, Any] | None) -> Any:
        made = node.__recreate__(kwargs) if kwargs else node
        if isinstance(made, ops.Cast | ops.TryCast) and made.arg.dtype.is_floating() and made.to.is_integer():
            return type(made)(rint(made.arg.to_expr()).op(), made.to)
        return made

    return expression.op().replace(rounded).to_expr()
