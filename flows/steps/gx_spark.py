"""Great Expectations on the Spark cluster: judges a table of DuckDB by way of a copy that the workers read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from great_expectations.validator.v1_validator import Validator

from flows.settings import Settings
from flows.steps import spark
from flows.steps.files import scratch
from flows.steps.gx_context import in_order, quiet_context

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


class FrameJudge:
    """Validates one Spark frame, as ``gx_duckdb.TableJudge`` does a table of DuckDB."""

    def __init__(self, frame: Any) -> None:
        source = quiet_context().data_sources.add_spark("spark")
        self._batch = source.add_dataframe_asset("events").add_batch_definition_whole_dataframe("all")
        self._frame = {"dataframe": frame}

    def validate(self, expectations: list[Any], result_format: str | dict[str, Any]) -> list[dict[str, Any]]:
        """Return Great Expectations' results as plain data, in the order of the expectations.

        The query of the rows that break a rule, which is none of SQL here, is left out of them.
        """
        validator = Validator(self._batch, batch_parameters=self._frame, result_format=result_format)
        results = in_order(expectations, validator.validate_expectation_suite)
        for item in results:
            (item.get("result") or {}).pop("unexpected_index_query", None)
        return results


@contextmanager
def judging(settings: Settings, connection: DuckDBPyConnection, table: str) -> Iterator[FrameJudge]:
    """Yield a judge of a table of DuckDB as it is now."""
    session = spark.session(settings).newSession()
    with scratch(settings.home, "spark") as folder, spark.told(settings, f"the checks of {table}"):
        path = folder / f"{table}.parquet"
        connection.execute(f"COPY {table} TO $path (FORMAT parquet, COMPRESSION zstd)", {"path": str(path)})
        frame = session.read.parquet(spark.place(path)).cache()
        try:
            yield FrameJudge(frame)
        finally:
            frame.unpersist()
