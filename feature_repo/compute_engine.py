"""Our Feast compute engine: materialization as Feast's local one does it, but written by columns instead of value by value.

Use: ``batch_engine: feature_repo.compute_engine.ColumnsComputeEngine``, with one of our online stores. Rows with a type that
``online_bytes`` does not know are converted by Feast; a view with a filter, an aggregation or a transformation goes through
Feast's own nodes before it is written.
"""

from __future__ import annotations

from typing import Any

from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.dag.context import ExecutionContext
from feast.infra.compute_engines.dag.node import DAGNode
from feast.infra.compute_engines.local.arrow_table_value import ArrowTableValue
from feast.infra.compute_engines.local.compute import LocalComputeEngine, LocalComputeEngineConfig
from feast.infra.compute_engines.local.feature_builder import LocalFeatureBuilder
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.compute_engines.local.nodes import LocalOutputNode
from feast.infra.registry.base_registry import BaseRegistry
from feast.utils import _convert_arrow_to_proto

from feature_repo import online_bytes

NAME = "feature_repo.compute_engine.ColumnsComputeEngine"
# Whose bytes are made at once if Feast's configuration says nothing: those of wide rows must stay below Arrow's 2 GiB.
ROWS_A_BATCH = 100_000


class ColumnsComputeEngineConfig(LocalComputeEngineConfig):
    """Configuration: none."""

    type: str = NAME  # type: ignore[assignment]  # a Literal in Feast


class ColumnsComputeEngine(LocalComputeEngine):
    """Feast's local engine with nodes of our own for what it does to each value of each row."""

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> LocalMaterializationJob:  # fmt: skip
        name = f"{task.feature_view.name}-{task.start_time}-{task.end_time}"
        context = self.get_execution_context(registry, task)
        try:
            latest = self.repo_config.materialization_config.pull_latest_features
            ColumnsBuilder(registry, task, self._get_backend(context), latest).build().execute(context)
        except Exception as error:  # noqa: BLE001 (whoever asked for the job raises it)
            return LocalMaterializationJob(job_id=name, status=MaterializationJobStatus.ERROR, error=error)
        return LocalMaterializationJob(job_id=name, status=MaterializationJobStatus.SUCCEEDED)


class ColumnsBuilder(LocalFeatureBuilder):
    """Feast's plan without steps that change nothing but take the rows through pandas."""

    def __init__(self, registry: BaseRegistry, task: MaterializationTask, backend: Any, latest: bool) -> None:
        super().__init__(registry, task, backend)
        self._latest = latest

    def build_filter_node(self, view: Any, input_node: DAGNode) -> DAGNode:
        """Return the node that filters; the one before it if there is nothing to filter by."""
        # The TTL counts from rows of entities, of which a materialization has none.
        if not getattr(view, "filter", None):
            return input_node
        filtered: DAGNode = super().build_filter_node(view, input_node)  # type: ignore[no-untyped-call]  # Feast has no types
        return filtered

    def build_dedup_node(self, view: Any, input_node: DAGNode) -> DAGNode:
        """Return the node that leaves one row a key; the one before it if that is how the rows are read."""
        if self._latest and view.data_source and not getattr(view, "feature_transformation", None):
            return input_node
        single: DAGNode = super().build_dedup_node(view, input_node)  # type: ignore[no-untyped-call]  # Feast has no types
        return single

    def build_output_nodes(self, view: Any, input_node: DAGNode) -> DAGNode:
        """Return the node that writes."""
        root: Any = self.dag_root.view
        node = ColumnsOutputNode("output", root, inputs=[input_node])
        self.nodes.append(node)
        return node


class ColumnsOutputNode(LocalOutputNode):
    """Writes the rows of a view, by columns where their types are known."""

    def execute(self, context: ExecutionContext) -> ArrowTableValue:
        """Write to the online store, and to the offline one if the view says so."""
        table, view, config = self.get_single_table(context).data, self.feature_view, context.repo_config
        store: Any = context.online_store
        rows = config.materialization_config.online_write_batch_size or ROWS_A_BATCH
        for start in range(0, table.num_rows if view.online else 0, rows):
            some = table.slice(start, rows).combine_chunks()
            batch = online_bytes.batch(some, view, config.entity_key_serialization_version)
            if batch is not None:
                store.write_columns(config, view, batch)
                continue
            keys = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
            store.online_write_batch(config, view, _convert_arrow_to_proto(some, view, keys), None)
        if view.offline and table.num_rows:
            context.offline_store.offline_write_batch(config, view, table, lambda _: None)
        return ArrowTableValue(table)
