"""The plan of a model's online read: all that must be known of its feature views to read them without Feast.

It is made from Feast's registry whenever definitions are applied, and kept in ``feast/online-<model>.json``; where a bucket
is used, there as well, for services that have no Feast. It holds no password.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from flows.errors import ContractError
from flows.settings import Settings
from flows.spec import Frozen, ModelSpec
from flows.steps import storage
from flows.steps.files import write_text

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

KEY_TYPES: dict[str, Literal["int", "string"]] = {"INT64": "int", "STRING": "string"}
NO_KEY = "__dummy_id"  # the key, always "", under which Feast keeps a view without keys
SQLITE, REDIS = "NewestSqliteOnlineStore", "NewestRedisOnlineStore"

Function = Callable[[dict[str, list[Any]]], dict[str, list[Any]]]


class StoredView(Frozen):
    """A view in the online store: its table, its join keys in Feast's order, the served fields, and how long they hold.

    ``columns`` are the names of the fields in a hash of Redis, in hex; none in SQLite.
    """

    name: str
    table: str
    keys: tuple[tuple[str, Literal["int", "string"]], ...]
    fields: tuple[str, ...]
    ttl_seconds: float | None
    columns: tuple[str, ...] = ()


class ComputedView(Frozen):
    """A view computed from the request: ``function`` as ``package.module:name``, the hash of its text as registered."""

    name: str
    function: str
    text_sha256: str
    inputs: tuple[str, ...]
    fields: tuple[str, ...]


class OnlinePlan(Frozen):
    """What is read and computed for a request, and from which SQLite database; none stands for the settings' Redis."""

    service: str
    project: str = ""
    database: str
    stored: tuple[StoredView, ...]
    computed: tuple[ComputedView, ...]


def plan_path(settings: Settings, spec: ModelSpec) -> Path:
    """Return where a model's plan is kept."""
    return settings.home / "feast" / f"online-{spec.name}.json"


def read_plan(settings: Settings, spec: ModelSpec) -> OnlinePlan | None:
    """Return the plan that is kept, None if there is none that can be used."""
    try:
        return OnlinePlan.model_validate_json(plan_path(settings, spec).read_bytes())
    except (OSError, ValidationError):
        return None


def write_plan(settings: Settings, spec: ModelSpec, store: FeatureStore) -> OnlinePlan | None:
    """Make and keep the plan of a model as registered; None, and ``null`` in its place, if only Feast can read it online."""
    plan = describe(store, spec)
    path = plan_path(settings, spec)
    if plan is None or plan != read_plan(settings, spec):
        write_text(path, f"{plan.model_dump_json(indent=1) if plan else 'null'}\n")
    storage.publish(settings, path)
    return plan


def fetch_plan(settings: Settings, spec: ModelSpec) -> None:
    """Bring the plan of a bucket, if there is one, into this home; raises UnavailableError if the bucket cannot be read."""
    path = plan_path(settings, spec)
    try:
        text = storage.read(storage.address(settings, path), patience=0).decode()
    except FileNotFoundError:
        return
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def describe(store: FeatureStore, spec: ModelSpec) -> OnlinePlan | None:
    """Return the plan of a registered feature service, None for what the direct read does not know.

    It knows our stores, views with whole-number or text keys whose fields have their own names, and views in Python that
    are computed from the request alone by an importable function.
    """
    from feast import FeatureView, OnDemandFeatureView

    config = store.config.online_store
    if not str(config.type).endswith((SQLITE, REDIS)):
        return None
    views = {view.name: view for view in store.list_all_feature_views()}
    stored, computed = [], []
    for projection in store.get_feature_service(spec.feature_service).feature_view_projections:
        view: Any = views[projection.name]
        fields = tuple(field.name for field in projection.features)
        if projection.name_alias or projection.join_key_map:
            return None
        if isinstance(view, OnDemandFeatureView):
            on_demand = _computed(spec, view, fields)
            if on_demand is None:
                return None
            computed.append(on_demand)
        elif isinstance(view, FeatureView) and view.name in spec.entities:
            kept = _stored(store, view, fields)
            if kept is None:
                return None
            stored.append(kept)
        else:
            return None
    return OnlinePlan(
        service=spec.feature_service, project=store.project,
        database=str(config.path) if str(config.type).endswith(SQLITE) else "", stored=tuple(stored), computed=tuple(computed),
    )  # fmt: skip


def _stored(store: FeatureStore, view: FeatureView, fields: tuple[str, ...]) -> StoredView | None:
    """Return where an online store keeps a view, None if its keys are of other types than we read."""
    from feast.infra.online_stores.helpers import _mmh3, compute_table_id, compute_versioned_name

    kinds = {column.name: column.dtype.to_value_type().name for column in view.entity_columns}
    if not all(KEY_TYPES.get(kind) for kind in kinds.values()):
        return None
    on_redis = str(store.config.online_store.type).endswith(REDIS)
    versioned = store.config.registry.enable_online_feature_view_versioning
    name = compute_versioned_name(view, versioned)
    return StoredView(
        name=view.name, table=name if on_redis else compute_table_id(store.project, view, versioned),
        keys=tuple((key, KEY_TYPES[kinds[key]]) for key in sorted(kinds)) or ((NO_KEY, "string"),),
        fields=fields, ttl_seconds=view.ttl.total_seconds() if view.ttl else None,
        columns=tuple(_mmh3(f"{name}:{field}").hex() for field in fields) if on_redis else (),
    )  # fmt: skip


def _computed(spec: ModelSpec, view: Any, fields: tuple[str, ...]) -> ComputedView | None:
    """Return how an on-demand view is computed, None if not from the request alone by a Python function of our code."""
    function = _importable(spec, view)
    if function is None or view.source_feature_view_projections or view.mode != "python" or view.singleton:
        return None
    inputs = tuple(field.name for source in view.source_request_sources.values() for field in source.schema)
    text = view.feature_transformation.udf_string
    return ComputedView(name=view.name, function=function, text_sha256=_digest(text), inputs=inputs, fields=fields)


def function_of(view: ComputedView) -> Function:
    """Return a computed view's function from our own code; raises ContractError if it is not the one registered."""
    module, name = view.function.split(":")
    try:
        function: Function = getattr(importlib.import_module(module), name)
        text = inspect.getsource(function)
    except (ImportError, AttributeError, OSError, TypeError) as error:
        raise ContractError(f"{view.function} cannot be imported ({error}); run `evergreen featurize`") from error
    if _digest(text) != view.text_sha256:
        raise ContractError(
            f"{view.function} is not as it was when feature view {view.name} was registered; run `evergreen featurize`"
        )
    return function


def request_value(value: Any) -> Any:
    """Return a request's value as Feast hands it to a computed view: times to the second."""
    return value.replace(microsecond=0) if isinstance(value, datetime) else value


def _importable(spec: ModelSpec, view: Any) -> str | None:
    """Return where the function of an on-demand view is in our code; Feast itself forgets it."""
    definitions = importlib.import_module(spec.definitions)
    for value in vars(definitions).values():
        if isinstance(value, type(view)) and value.name == view.name:
            function: Any = value.feature_transformation.udf
            module, name = function.__globals__.get("__name__", ""), function.__name__
            try:
                found = getattr(importlib.import_module(module), name, None)
            except (ImportError, ValueError):
                return None
            return f"{module}:{name}" if found is function else None
    return None


def _digest(text: str) -> str:
    return sha256(text.strip().encode()).hexdigest()
