"""Feast retrieval jobs that run in DuckDB and answer in Arrow."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from feast import OnDemandFeatureView
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.saved_dataset import SavedDatasetStorage

from feature_repo import asof, parquet_files

ROW = np.uint32  # numbers of entity rows: half the memory traffic of 64 bits, enough for 4 billion


def connect() -> duckdb.DuckDBPyConnection:
    """Open a DuckDB in memory in which a time without zone is UTC."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
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
        return self._view.transform_arrow(narrow, full_feature_names)


class AsofRetrievalJob(RetrievalJob):
    """A query, run at each ``to_arrow`` or ``to_df`` in a DuckDB of its own.

    With ``entities`` it is a query of ``asof.join`` on ``lookup``, which has no more of the entity rows than the join
    needs; the result is the entity rows, uncopied and in their order, with the features beside them.
    """

    def __init__(
        self,
        query: str,
        entities: pa.Table | None = None,
        lookup: pa.Table | None = None,
        root: Path | None = None,
        full_feature_names: bool = False,
        on_demand_feature_views: list[OnDemandFeatureView] | None = None,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._query = query
        self._entities = entities
        self._lookup = lookup
        self._root = root
        self._full_feature_names = full_feature_names
        self._on_demand_feature_views = on_demand_feature_views or []
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
    def metadata(self) -> RetrievalMetadata | None:
        """Return what was asked for; None for the ``pull_`` methods."""
        return self._metadata

    def to_sql(self) -> str:
        """Return the query; of entity rows it reads and gives no more than ``asof.join`` says."""
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

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with connect() as connection:
            if self._lookup is not None:
                numbers = pa.array(np.arange(self._lookup.num_rows, dtype=ROW))
                connection.register(asof.ENTITIES, self._lookup.append_column("row", numbers))
            alarm = threading.Timer(timeout, connection.interrupt) if timeout else None
            if alarm:
                alarm.start()
            try:
                result = connection.execute(self._query).to_arrow_table()
            finally:
                if alarm:
                    alarm.cancel()
        return result if self._entities is None else _beside(self._entities, result)

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame


def _beside(entities: pa.Table, features: pa.Table) -> pa.Table:
    """Return the entity rows with the features, whose column ``row`` says to which row each of them belongs."""
    rows = features["row"].to_numpy()
    order = np.empty(rows.size, dtype=ROW)
    order[rows] = np.arange(rows.size, dtype=ROW)
    features = features.drop_columns("row").take(pa.array(order))
    for name in features.column_names:
        entities = entities.append_column(name, features[name])
    return entities
