"""Our Feast offline store with its point-in-time join on a Spark cluster; all else is as in ``feature_repo.offline_store``.

Use: ``offline_store: {type: feature_repo.spark_store.SparkAsofOfflineStore, root: FOLDER, compute_url: spark://HOST:PORT}``.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel

from feature_repo import spark_join
from feature_repo.offline_store import DuckDBAsofOfflineStore
from feature_repo.retrieval import AsofRetrievalJob
from flows.settings import Settings


class SparkAsofOfflineStoreConfig(FeastConfigBaseModel):
    """Configuration: ``root`` is the folder from which relative paths of file sources count, the home of the cluster's work."""

    type: Literal["feature_repo.spark_store.SparkAsofOfflineStore"] = "feature_repo.spark_store.SparkAsofOfflineStore"
    root: str
    compute_url: str


class SparkAsofOfflineStore(DuckDBAsofOfflineStore):
    """Joins on the cluster; materialization and what is pulled for it stay in DuckDB."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Join features to ``entity_df`` as the DuckDB store does; rows, order, names and errors are the same."""
        job = DuckDBAsofOfflineStore.get_historical_features(
            config, feature_views, feature_refs, entity_df, registry, project, full_feature_names,
            filter_by_created_timestamp, start_date, end_date,
        )  # fmt: skip
        settings = Settings(home=Path(config.offline_store.root), compute_url=config.offline_store.compute_url)
        return SparkRetrievalJob(job, settings)


class SparkRetrievalJob(AsofRetrievalJob):
    """The join of another job, run on the cluster."""

    def __init__(self, job: RetrievalJob, settings: Settings) -> None:
        vars(self).update(vars(job))
        self._settings = settings

    def _answer(self, connection: duckdb.DuckDBPyConnection) -> pa.Table:
        result = self._entities
        if not result.num_rows:
            return super()._answer(connection)
        found = spark_join.joined(self._settings, connection, self._lookup, self._views, self._seen)
        for name, column in zip((name for names in self._names for name in names), found.columns, strict=True):
            result = result.append_column(name, column)
        return result
