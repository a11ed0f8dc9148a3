"""Feast retrieval jobs that run in DuckDB and answer in Arrow."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from feast import Field, OnDemandFeatureView
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.saved_dataset import SavedDatasetStorage
from feast.transformation.python_transformation import PythonTransformation

from feature_repo import asof, parquet_files
from flows.steps import in_memory
from flows.steps.sql import USED_AT


def connect() -> duckdb.DuckDBPyConnection:
    """Open a DuckDB in memory in which a time without zone is UTC."""
    connection = in_memory.connect()
    connection.execute("SET preserve_insertion_order = false")
    # DuckDB takes an Arrow table for a tiny one and would compare each of its rows with each feature row.
    connection.execute("SET asof_loop_join_threshold = 0")
    return connection


def run(query: str) -> pa.Table:
    """Return the result of a query of its own."""
    with connect() as connection:
        return connection.execute(query).to_arrow_table()


class Narrowed:
    """An on-demand view that is handed its own inputs alone.

    Feast turns every column of the table into Python objects before it calls a view in python mode: for a million rows
    of forty columns that takes longer than the join.
    """

    def __init__(self, view: OnDemandFeatureView) -> None:
        self._view = view

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def transform_arrow(self, table: pa.Table, full_feature_names: bool = False) -> pa.Table:
        """Return the view's features of the rows of a table."""
        inputs = {field.name for source in self._view.source_request_sources.values() for field in source.schema}
        projections: list[Any] = list(self._view.source_feature_view_projections.values())
        for projection in projections:
            for feature in projection.features:
                inputs |= {feature.name, f"{projection.name_to_use()}__{feature.name}"}
        narrow = table.select([name for name in table.column_names if name in inputs])
        view: Any = copy(self._view)
        if isinstance(view.feature_transformation, PythonTransformation):
            view.feature_transformation = Listing(view.feature_transformation)
        return view.transform_arrow(narrow, full_feature_names)


class Listing:
    """A transformation in python mode that is handed the lists that Feast makes of columns, made a column at a time."""

    def __init__(self, transformation: PythonTransformation) -> None:
        self._udf = transformation.udf

    def transform_arrow(self, table: pa.Table, features: list[Field]) -> pa.Table:
        """Return the features of the rows of a table."""
        return pa.Table.from_pydict(self._udf({name: as_list(table[name]) for name in table.column_names}))


def as_list(column: pa.ChunkedArray) -> list[Any]:
    """Return a column's values as Arrow's ``to_pylist`` does; numbers and local times take a tenth of its time."""
    kind = column.type
    local = pa.types.is_timestamp(kind) and kind.tz is None and kind.unit != "ns"
    simple = not column.null_count and (local or pa.types.is_floating(kind) or pa.types.is_integer(kind))
    values: list[Any] = column.to_numpy().tolist() if simple else column.to_pylist()
    return values


class DuckDBRetrievalJob(RetrievalJob):
    """A query, run at each ``to_arrow`` or ``to_df`` in a DuckDB of its own."""

    def __init__(self, query: str, root: Path | None = None) -> None:
        self._query = query
        self._root = root

    @property
    def full_feature_names(self) -> bool:
        """Tell whether features are named ``view__feature``."""
        return False

    @property
    def on_demand_feature_views(self) -> list[Any]:
        """Return the on-demand views that Feast applies to the result."""
        return []

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """Return what was asked for, if it was asked for by feature references."""
        return None

    def to_sql(self) -> str:
        """Return the query."""
        return self._query

    def persist(
        self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None
    ) -> None:  # fmt: skip
        """Write the result, on-demand features included, to the file or folder of ``storage``.

        Raises SavedDatasetLocationAlreadyExists if there is something, unless ``allow_overwrite``.
        """
        path = parquet_files.path_of(storage.to_data_source(), self._root)
        if path.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(path))
        parquet_files.overwrite(self.to_arrow(timeout=timeout), path)

    def _answer(self, connection: duckdb.DuckDBPyConnection) -> pa.Table:
        return connection.execute(self._query).to_arrow_table()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with connect() as connection:
            alarm = threading.Timer(timeout, connection.interrupt) if timeout else None
            if alarm:
                alarm.start()
            try:
                return self._answer(connection)
            finally:
                if alarm:
                    alarm.cancel()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame


class AsofRetrievalJob(DuckDBRetrievalJob):
    """The entity rows, uncopied and in their order, with the features of ``views`` at their time beside them.

    DuckDB joins keys, times and row numbers, nothing else; the values are picked by number afterwards, so that what it
    has to sort does not grow with the columns of the entity rows or of the views.
    """

    def __init__(
        self,
        entities: pa.Table,
        moment: str,
        views: Sequence[asof.View],
        known_at_the_time: bool,
        root: Path | None,
        full_feature_names: bool,
        on_demand_feature_views: Sequence[OnDemandFeatureView],
        metadata: RetrievalMetadata,
    ) -> None:
        keys = list(dict.fromkeys(entity for view in views for _, entity in view.keys))
        # Rows that are joined as of an earlier time than their own use the values later, and those expire by then.
        later = USED_AT in entities.column_names
        used = {"used_at": entities[USED_AT].cast(pa.int64())} if later else {}
        super().__init__(asof.join(views, keys, "used_at" if later else "moment"), root)
        span = metadata.min_event_timestamp, metadata.max_event_timestamp
        bounds = None if span[0] is None or span[1] is None else (span[0], span[1])
        self._entities = entities
        self._views = tuple(views)
        self._lookup = pa.table(
            {"moment": entities[moment].cast(pa.int64())}
            | used
            | {f"entity_{number}": entities[key] for number, key in enumerate(keys)}
        )
        self._seen = [asof.seen(view, bounds, known_at_the_time) for view in views]
        self._names = [[name for _, name in view.features] for view in views]
        self._full_feature_names = full_feature_names
        self._on_demand_feature_views = on_demand_feature_views
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        """Tell whether features are named ``view__feature``."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        """Return the on-demand views that Feast applies to the result."""
        return [Narrowed(view) for view in self._on_demand_feature_views]

    @property
    def metadata(self) -> RetrievalMetadata:
        """Return what was asked for."""
        return self._metadata

    def to_sql(self) -> str:
        """Return the statements: one for the rows of each view, then the join of ``asof.join``."""
        return ";\n".join([*self._seen, self._query])

    def _answer(self, connection: duckdb.DuckDBPyConnection) -> pa.Table:
        values = []
        for number, query in enumerate(self._seen):
            table = connection.execute(query).to_arrow_table()
            names = [name for name in table.column_names if name.startswith("value_")]
            connection.register(f"view_{number}", _numbered(table.drop_columns(names)))
            values.append(table.select(names).combine_chunks())
        connection.register(asof.ENTITIES, _numbered(self._lookup))
        found = connection.execute(self._query).to_arrow_table()
        entity = found["entity"].to_numpy()
        result = self._entities
        for number, names in enumerate(self._names):
            chosen = np.empty(entity.size, dtype=np.uint32)
            chosen[entity] = found[f"view_{number}"].to_numpy()
            picked = values[number].take(pa.array(chosen, mask=chosen == asof.NOTHING))
            for name, column in zip(names, picked.columns, strict=True):
                result = result.append_column(name, column)
        return result


def _numbered(table: pa.Table) -> pa.Table:
    return table.append_column("number", pa.array(np.arange(table.num_rows, dtype=np.uint32)))
