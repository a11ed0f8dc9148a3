"""The point-in-time join on Spark: the rows that count by the same SQL as on DuckDB, then one sorted pass a view.

Spark has no ASOF join. The rows of a view and the entity rows are put together, sorted by key and time, and each entity row
takes the last row of the view before it (a union and a window): one shuffle a view, nothing multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlglot
from sqlglot import exp

from feature_repo import asof
from flows.settings import Settings
from flows.steps import spark
from flows.steps.files import scratch

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from pyspark.sql import DataFrame, SparkSession

NUMBER, MOMENT, USED = "number", "moment", "used_at"
ROWS_OF_A_FILE = 500_000


def joined(
    settings: Settings,
    connection: DuckDBPyConnection,
    lookup: pa.Table,
    views: Sequence[asof.View],
    seen: Sequence[str],
) -> pa.Table:
    """Return the values of all views for the rows of ``lookup``, in their order: a column a feature.

    ``lookup`` has ``moment`` (microseconds UTC) and the join keys ``entity_0`` and so on, and ``used_at`` if values expire
    by another time than the moment; ``seen`` has the DuckDB query of ``asof.seen`` for each view.
    """
    session = spark.session(settings).newSession()
    keys = list(dict.fromkeys(entity for view in views for _, entity in view.keys))
    with scratch(settings.home, "spark") as folder:
        _write(lookup, folder / "entities")
        with spark.told(settings, "the point-in-time join"):
            frame = session.read.parquet(spark.place(folder / "entities"))
            for place, (view, query) in enumerate(zip(views, seen, strict=True)):
                rows = session.sql(_on_spark(session, view, query, f"source_{place}"))
                frame = _last_before(frame, rows, view, [keys.index(entity) for _, entity in view.keys], place)
            sql = spark.written(frame.drop(MOMENT, USED, *(f"entity_{n}" for n in range(len(keys)))), folder / "joined")
        connection.execute("SET preserve_insertion_order = true")
        return connection.execute(f"SELECT * EXCLUDE {NUMBER} FROM ({sql}) ORDER BY {NUMBER}").to_arrow_table()


def _write(lookup: pa.Table, folder: Path) -> None:
    """Write the entity rows with their numbers, in files that several workers can read at once."""
    folder.mkdir()
    numbered = lookup.append_column(NUMBER, pa.array(range(lookup.num_rows), pa.int64()))
    for start in range(0, numbered.num_rows, ROWS_OF_A_FILE):
        pq.write_table(numbered.slice(start, ROWS_OF_A_FILE), folder / f"{start:012d}.parquet", compression="zstd")


def _on_spark(session: SparkSession, view: asof.View, query: str, name: str) -> str:
    """Return a query of ``asof.seen`` in Spark's SQL, over a temporary view of the same files and row numbers."""
    from pyspark.sql import functions as F  # noqa: N812 (as everybody calls it)

    files = session.read.option("mergeSchema", "true").parquet(*[spark.place(file) for file in view.source.files])
    order = {asof.FILE_ORDER: F.col("_metadata.file_path"), asof.ROW_ORDER: F.col("_metadata.row_index")}
    files.select("*", *(column.alias(alias) for alias, column in order.items())).createOrReplaceTempView(name)

    def translated(node: exp.Expression) -> exp.Expression:
        if isinstance(node, exp.Table) and isinstance(node.this, exp.ReadParquet):
            return exp.to_table(name)
        if isinstance(node, exp.Anonymous) and str(node.this).lower() == "epoch_us":
            return exp.Anonymous(this="unix_micros", expressions=node.expressions)
        return node

    return str(sqlglot.parse_one(query, read="duckdb").transform(translated).sql(dialect="spark"))


def _last_before(frame: DataFrame, rows: DataFrame, view: asof.View, places: Sequence[int], number: int) -> DataFrame:
    """Return the entity rows with the values of a view at their moment beside them, null where none counts."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F  # noqa: N812 (Spark's own convention)

    own = [f"entity_{place}" for place in places]
    values = [f"value_{i}" for i in range(len(view.features))]
    kept = F.struct("time", *values)
    past: Any = rows.select(
        *(F.col(f"key_{i}").alias(name) for i, name in enumerate(own)), F.col("seen").alias(MOMENT), kept.alias("kept"),
        F.lit(0).alias("side"),
    )  # fmt: skip
    both = frame.withColumn("side", F.lit(1)).unionByName(past, allowMissingColumns=True)
    window = Window.partitionBy(*own).orderBy(MOMENT, "side").rowsBetween(Window.unboundedPreceding, 0)
    found = both.withColumn("found", F.last("kept", ignorenulls=True).over(window)).filter(F.col("side") == 1)
    used = F.col(USED if USED in frame.columns else MOMENT)
    young = used - F.col("found.time") <= view.ttl // timedelta(microseconds=1) if view.ttl else F.lit(True)
    return found.select(
        *frame.columns,
        *(F.when(young, F.col(f"found.{name}")).alias(f"v{number}_{name}") for name in values),
    )
