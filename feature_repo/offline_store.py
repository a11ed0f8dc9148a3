"""Our Feast offline store: point-in-time joins by DuckDB's ASOF join, over parquet files and folders of them.

Use: ``offline_store: {type: feature_repo.offline_store.DuckDBAsofOfflineStore, root: FOLDER}``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView, OnDemandFeatureView, RepoConfig
from feast.data_source import DataSource
from feast.errors import (
    EntityTimestampInferenceException,
    FeastEntityDFMissingColumnsError,
)
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel
from feast.utils import compute_non_entity_date_range

from feature_repo import asof, parquet_files
from feature_repo.retrieval import AsofRetrievalJob, DuckDBRetrievalJob, connect, run
from flows.steps.sql import identifier


class DuckDBAsofOfflineStoreConfig(FeastConfigBaseModel):
    """Configuration: ``root`` is the folder from which relative paths of file sources count; default: the repo path."""

    type: Literal["feature_repo.offline_store.DuckDBAsofOfflineStore"] = (
        "feature_repo.offline_store.DuckDBAsofOfflineStore"
    )
    root: str | None = None


class DuckDBAsofOfflineStore(DuckDBOfflineStore):
    """Feast's DuckDB store with another join: one ASOF join a view instead of an inequality join and a ranking.

    Which row counts among several of one key and time, see ``feature_repo.asof``. A value is expired if it is older
    than the view's ``ttl`` at the entity row's time; exactly ``ttl`` old is not.
    """

    supports_filter_by_created_timestamp = True

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
        """Join features to ``entity_df``: a pandas or Arrow-compatible frame, or a query for DuckDB, which is run once.

        The entity rows come back in their order, their time in microseconds UTC, the features beside them.

        Without ``entity_df`` the rows are all keys and event times of the views from ``start_date`` to ``end_date``,
        both included. Raises FeastEntityDFMissingColumnsError if a join key is not among the entity's columns, and
        ValueError if two columns of the result would have the same name.
        """
        root = _root(config)
        views = [_view(view, feature_refs, full_feature_names, root) for view in feature_views]
        if entity_df is None:
            start, end = compute_non_entity_date_range(feature_views, start_date, end_date)
            entities = run(asof.occurrences(views, (start, end)))
        else:
            entities = _entities(entity_df)
        moment = _event_timestamp(entities.schema)
        _check_columns(entities.column_names, moment, views)
        entities = _in_utc(entities, moment)
        oldest, newest = pc.min_max(entities[moment]).as_py().values()
        return AsofRetrievalJob(
            entities,
            moment,
            views,
            filter_by_created_timestamp,
            root,
            full_feature_names,
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entities.column_names if name != moment],
                min_event_timestamp=oldest,
                max_event_timestamp=newest,
            ),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Return the newest row of each key from ``start_date`` to ``end_date``, both included."""
        root = _root(config)
        source = _source(data_source, timestamp_field, created_timestamp_column, root)
        keys = _real(join_key_columns)
        columns = [*(keys or [asof.NO_KEY]), *feature_name_columns, *_times(source)]
        return DuckDBRetrievalJob(asof.latest(source, keys, columns, start_date, end_date), root=root)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Return all rows from ``start_date`` to ``end_date``, both included; no feature columns: all columns."""
        root = _root(config)
        source = _source(data_source, timestamp_field, created_timestamp_column, root)
        columns = [*(_real(join_key_columns) or [asof.NO_KEY]), *feature_name_columns, *_times(source)]
        return DuckDBRetrievalJob(
            asof.between(source, columns if feature_name_columns else [], start_date, end_date), root=root
        )

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:  # fmt: skip
        """Append rows to the source of a view: a new file in its folder, or its one file written anew.

        Columns may have the names of the source or those of its field mapping, and must be the ones that are there.
        A folder takes many writers at once, a single file one. Raises ValueError if columns are missing or unknown.
        """
        source = _batch_source(feature_view)
        raw = {new: old for old, new in source.field_mapping.items()}
        table = table.rename_columns([raw.get(name, name) for name in table.column_names])
        parquet_files.append(table, parquet_files.path_of(source, _root(config)), feature_view.name)
        if progress:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,  # noqa: ARG004 (Feast's interface)
        logging_config: LoggingConfig,
        registry: BaseRegistry,  # noqa: ARG004 (the same)
    ) -> None:
        """Add logged rows (a table, or a folder of parquet files) to the folder of the logging destination."""
        destination = logging_config.destination
        if not isinstance(destination, FileLoggingDestination):
            raise TypeError(f"cannot log to {type(destination).__name__}; give a FileLoggingDestination")
        table = pq.read_table(data) if isinstance(data, Path) else data
        folder = parquet_files.path_of(destination.to_data_source(), _root(config))
        parquet_files.add_partitioned(table, folder, destination.partition_by)

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Let Feast look at a source from our root."""
        super().validate_data_source(_rooted(config), data_source)

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> Any:  # fmt: skip
        """Return names and types of the columns of a source, found from our root."""
        return super().get_table_column_names_and_types_from_data_source(_rooted(config), data_source)


def _entities(entity_df: Any) -> pa.Table:
    """Return the entity rows as an Arrow table, whether they come as query, pandas frame or anything of Arrow's."""
    if isinstance(entity_df, str):
        return run(entity_df)
    if isinstance(entity_df, pd.DataFrame):
        return pa.Table.from_pandas(entity_df, preserve_index=False).replace_schema_metadata(None)
    if isinstance(entity_df, pa.Table):
        return entity_df
    if hasattr(entity_df, "__arrow_c_stream__"):
        return pa.table(entity_df)
    raise TypeError(f"entity rows cannot be a {type(entity_df).__name__}; give a pandas or Arrow frame or a query")


def _event_timestamp(schema: pa.Schema) -> str:
    """Return the column that holds the entity rows' times: ``event_timestamp``, else the only one that holds times."""
    if asof.EVENT_TIMESTAMP in schema.names:
        return asof.EVENT_TIMESTAMP
    times = [field.name for field in schema if pa.types.is_timestamp(field.type)]
    if len(times) != 1:
        raise EntityTimestampInferenceException(asof.EVENT_TIMESTAMP)
    return str(times[0])


def _in_utc(entities: pa.Table, moment: str) -> pa.Table:
    """Return the entity rows with their time in microseconds UTC; without zone it is UTC."""
    column = entities[moment]
    if not pa.types.is_timestamp(column.type):
        with connect() as connection:
            connection.register(asof.ENTITIES, entities.select([moment]))
            query = f"SELECT {asof.utc(identifier(moment))} FROM {asof.ENTITIES}"
            column = connection.execute("SET preserve_insertion_order = true").execute(query).to_arrow_table()[0]
    place = entities.column_names.index(moment)
    return entities.set_column(place, moment, column.cast(pa.timestamp("us", "UTC"), safe=False))


def _view(view: FeatureView, feature_refs: Sequence[str], full_feature_names: bool, root: Path | None) -> asof.View:
    """Return what the join needs of a Feast feature view: files, columns of the files, names in the result."""
    source = _batch_source(view)
    raw = {new: old for old, new in source.field_mapping.items()}
    renamed = view.projection.join_key_map or {}
    reference = f"{view.projection.name_to_use()}:"  # type: ignore[no-untyped-call]  # Feast has no types
    prefix = f"{view.projection.name_alias or view.name}__" if full_feature_names else ""
    features = dict.fromkeys(ref.removeprefix(reference) for ref in feature_refs if ref.startswith(reference))
    return asof.View(
        source=_source(
            source,
            raw.get(source.timestamp_field, source.timestamp_field),
            raw.get(source.created_timestamp_column, source.created_timestamp_column),
            root,
        ),
        keys=tuple((raw.get(key, key), renamed.get(key, key)) for key in _real(view.join_keys)),
        features=tuple((raw.get(name, name), f"{prefix}{name}") for name in features),
        ttl=view.ttl or None,
    )


def _batch_source(view: FeatureView) -> DataSource:
    if view.batch_source is None:
        raise ValueError(f"feature view {view.name} has no batch source; give it a FileSource")
    return view.batch_source


def _source(source: DataSource, time: str, created: str | None, root: Path | None) -> asof.Source:
    return asof.Source(files=parquet_files.files_of(source, root), time=time, created=created or None)


def _times(source: asof.Source) -> list[str]:
    return [source.time, source.created] if source.created else [source.time]


def _check_columns(columns: Sequence[str], moment: str, views: Sequence[asof.View]) -> None:
    expected = {moment, *(entity for view in views for _, entity in view.keys)}
    if missing := expected - set(columns):
        raise FeastEntityDFMissingColumnsError(expected, missing)  # type: ignore[no-untyped-call]  # Feast has no types
    names = [*columns, *(name for view in views for _, name in view.features)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)}: several columns of the result have this name; use full_feature_names")


def _real(join_keys: Sequence[str]) -> list[str]:
    """Return the join keys without the one that Feast invents for a view that has no entity."""
    return [key for key in join_keys if key != asof.NO_KEY]


def _root(config: RepoConfig) -> Path | None:
    root = config.offline_store.root
    return Path(root) if root else config.repo_path


def _rooted(config: RepoConfig) -> RepoConfig:
    """Return the configuration with our root in the place of the repo path, for what Feast itself reads."""
    rooted = copy(config)
    rooted.repo_path = _root(config)
    return rooted
