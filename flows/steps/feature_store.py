"""Feast: the only code that opens a feature store, applies definitions, fills the online store and reads features."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from flows.engines import POSTGRES
from flows.errors import ContractError, RefusedError, UnavailableError
from flows.locks import locked
from flows.lookup import import_code
from flows.secret import shown
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps.answered import PREDICTION
from flows.steps.drift import LABEL
from flows.steps.event_rows import compiled
from flows.steps.online_file import path_of
from flows.steps.sql import USED_AT
from flows.steps.storage import pull

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureService, FeatureStore

PROJECT = "evergreen"
PATIENCE_SECONDS = 600
REGISTRY, REGISTRY_SECONDS = "feast/registry", 120.0  # the lock of whoever makes or changes the registry
ROW = "__row"  # the order in which rows were asked for


class OnlineRows(NamedTuple):
    """Features of some requests: a list of values a feature, None where missing, and the views that know nothing of a row."""

    columns: dict[str, list[Any]]
    unknown: list[list[str]]


def open_store(settings: Settings) -> FeatureStore:
    """Open the feature store of a home: SQL registry, our offline store (DuckDB or Spark), our online one (SQLite or Redis)."""
    from flows.steps.lean_feast import feast

    folder = settings.home / "feast"
    folder.mkdir(parents=True, exist_ok=True)
    online = {"type": "feature_repo.online_store.NewestSqliteOnlineStore", "path": str(path_of(settings))}
    if settings.online_store_url:
        online = {
            "type": "feature_repo.online_store.NewestRedisOnlineStore", "connection_string": settings.online_store_url
        }  # fmt: skip
    offline = {"type": "feature_repo.offline_store.DuckDBAsofOfflineStore", "root": str(settings.home)}
    if settings.compute_url:
        offline |= {"type": "feature_repo.spark_store.SparkAsofOfflineStore", "compute_url": settings.compute_url}
    config = feast.RepoConfig(
        project=PROJECT,
        provider="local",
        # One row an object: Feast's file registry loses views when two apply at once.
        registry={
            "registry_type": "sql", "path": settings.feature_registry, "cache_ttl_seconds": 60,
            **_registry_options(settings),
        },
        offline_store=offline,
        online_store=online,
        batch_engine="feature_repo.compute_engine.ColumnsComputeEngine",
        materialization={"pull_latest_features": True},
        entity_key_serialization_version=3,
        repo_path=settings.home,
    )  # fmt: skip
    store = feast.FeatureStore(config=config)
    with locked(settings, REGISTRY, REGISTRY_SECONDS):
        _ = store.registry  # made here, not at its first use: the first of all makes the tables
    return store


def _registry_options(settings: Settings) -> dict[str, Any]:
    """Return how a registry on Postgres is opened: a connection that a restart has ended is not used again."""
    if not settings.feature_registry.startswith("postgresql"):
        return {}
    return {"sqlalchemy_config_kwargs": {"echo": False, "pool_pre_ping": True, "connect_args": POSTGRES}}


def definitions(spec: ModelSpec) -> list[Any]:
    """Return the Feast objects that a model's module defines; raises ContractError if its feature service is not there."""
    from flows.steps.lean_feast import feast

    module = import_code(spec.definitions)
    kinds = (feast.Entity, feast.FeatureView, feast.OnDemandFeatureView, feast.FeatureService)
    found: list[Any] = [value for value in vars(module).values() if isinstance(value, kinds)]
    if not any(isinstance(value, feast.FeatureService) and value.name == spec.feature_service for value in found):
        raise ContractError(f"{spec.definitions} defines no FeatureService named {spec.feature_service!r}; add it")
    return found


def apply_definitions(settings: Settings, spec: ModelSpec) -> str:
    """Register a model's Feast definitions, write the plan by which the service reads them, and return their hash.

    Raises ContractError if the module named by ``spec.definitions`` lacks the model's feature service, or the spec names
    what is not there.
    """
    found = definitions(spec)
    store = open_store(settings)
    with locked(settings, REGISTRY, REGISTRY_SECONDS), quiet():
        store.apply(found)
    check_names(store, spec)
    from flows.steps.feature_record import definition_hash
    from flows.steps.online_plan import write_plan

    write_plan(settings, spec, store)
    return definition_hash(store, spec)


def feature_service(store: FeatureStore, spec: ModelSpec, cached: bool = False) -> FeatureService:
    """Return the model's feature service as registered, or as it was up to a minute ago if ``cached``.

    Raises RefusedError if it never was.
    """
    from feast.errors import FeatureServiceNotFoundException

    try:
        return store.get_feature_service(spec.feature_service, allow_cache=cached)
    except FeatureServiceNotFoundException as error:
        raise RefusedError(
            f"feature service {spec.feature_service!r} is not registered; run `evergreen featurize --model {spec.name}`"
        ) from error


def feature_names(store: FeatureStore, spec: ModelSpec) -> list[str]:
    """Return the names of the service's features, in the order of the definitions."""
    return [
        field.name
        for projection in feature_service(store, spec).feature_view_projections
        for field in projection.features
    ]


def check_names(store: FeatureStore, spec: ModelSpec) -> None:
    """Check the columns, views and features that a spec names; raises ContractError for one that is not there."""
    compiled(spec)
    features = feature_names(store, spec)
    views = {view.name for view in store.list_all_feature_views()}
    absent = [view for view in spec.entities if view not in views]
    if absent:
        raise ContractError(
            f"{spec.name}: entities names {', '.join(map(repr, absent))}, which is not registered; correct spec.py, or define "
            f"it in {spec.definitions} and run `evergreen featurize --model {spec.name}`"
        )
    watched = [*features, PREDICTION, LABEL]
    for place, names, known in (
        ("slices", spec.slices, features),
        ("triggers.drift_columns", spec.triggers.drift_columns, watched),
    ):
        wrong = [name for name in names if name not in known]
        if wrong:
            raise ContractError(
                f"{spec.name}: {place} names {', '.join(map(repr, wrong))}, and there is {', '.join(known)}; correct spec.py"
            )


@contextlib.contextmanager
def held_still(settings: Settings, model: str) -> Iterator[None]:
    """Hold the feature tables of a model as they are: one featurization, or one reading of all views, at a time."""
    with locked(settings, f"featurize-{model}", PATIENCE_SECONDS):
        yield


def materialize(settings: Settings, spec: ModelSpec, start: datetime, end: datetime) -> None:
    """Write the newest feature values of [start, end] to the online store; an older value never replaces a newer one.

    Raises RefusedError for a time in the future: Feast would remember it and skip everything up to it later; and
    UnavailableError if Redis does not take the values.
    """
    if end > datetime.now(UTC):
        raise RefusedError(
            f"cannot materialize up to {end:%Y-%m-%d %H:%M} UTC, which is in the future; use an earlier end"
        )
    pull(settings, settings.features(spec.name))
    store = open_store(settings)
    with quiet(), _told_of_redis(settings):
        store.materialize(start_date=start, end_date=end, feature_views=list(spec.entities))


@contextlib.contextmanager
def _told_of_redis(settings: Settings) -> Iterator[None]:
    """Make what Redis refuses an UnavailableError."""
    if not settings.online_store_url:
        yield
        return
    from redis import RedisError

    try:
        yield
    except RedisError as error:
        raise UnavailableError(
            f"the online store at {shown(settings.online_store_url)} takes no values ({error}); `evergreen doctor` says how "
            "to mend it, `evergreen featurize` goes on then"
        ) from error


def historical(store: FeatureStore, spec: ModelSpec, rows: pa.Table, past: pa.ChunkedArray | None = None) -> pa.Table:
    """Join features to rows as they were known at each row's ``event_timestamp``; same rows, same order, features added.

    ``rows`` has the join keys, the request fields and ``event_timestamp`` (aware). ``past`` is up to when the past of each
    is there, if not up to that time; a value is still missing if it is older than its view's TTL at the row, as online.
    """
    import numpy as np
    import pyarrow as pa

    service = feature_service(store, spec)
    names = feature_names(store, spec)
    clash = sorted({*names} & {*rows.column_names})
    if clash:
        raise ContractError(
            f"{spec.name}: columns {', '.join(clash)} are in the rows and in the feature service; rename"
        )
    inputs = list(dict.fromkeys([*(field.name for field in spec.request), "event_timestamp"]))
    asked = rows.select(inputs).append_column(ROW, pa.array(np.arange(rows.num_rows)))
    if past is not None:
        if spec.arrival is not None:
            asked = asked.append_column(USED_AT, asked["event_timestamp"].cast(pa.timestamp("us", "UTC"), safe=False))
        asked = asked.set_column(asked.column_names.index("event_timestamp"), "event_timestamp", past)
    with quiet():
        joined = store.get_historical_features(entity_df=asked, features=service).to_arrow()
    order = joined[ROW].to_numpy()
    joined = joined.select(names)
    if (np.diff(order) < 0).any():  # our offline store keeps the order, others need not
        joined = joined.take(np.argsort(order, kind="stable"))
    for name in names:
        rows = rows.append_column(name, joined[name])
    return rows


def read_online(
    store: FeatureStore, spec: ModelSpec, names: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> OnlineRows:
    """Read the features of some requests from the online store, as training would have seen them.

    The event time in a row is local to the source and without zone. A value that is older at that time than its view's
    TTL, or newer than that time, is missing: Feast itself would hand it out. A row for which a view has no valid value
    names that view in ``unknown``.
    """
    service = feature_service(store, spec, cached=True)
    response = store.get_online_features(features=service, entity_rows=[dict(row) for row in rows]).to_dict(
        include_event_timestamps=True
    )
    zone = ZoneInfo(spec.source.time_zone)
    moments = [row[spec.source.event_time].replace(tzinfo=zone).timestamp() for row in rows]
    columns = {name: response[name] for name in names}
    unknown: list[list[str]] = [[] for _ in rows]
    for view, fields in _stored_fields(service, spec).items():
        ttl = store.get_feature_view(view, allow_registry_cache=True).ttl
        longest = ttl.total_seconds() if ttl else float("inf")
        # All features of a view and key are written together, so that one time speaks for all.
        written = response[f"{fields[0]}__ts"]
        for index, (moment, stamp) in enumerate(zip(moments, written, strict=True)):
            nothing = all(response[name][index] is None for name in fields)
            if nothing or not 0 <= moment - stamp <= longest:
                unknown[index].append(view)
                for name in fields:
                    if name in columns:
                        columns[name][index] = None
    return OnlineRows(columns=columns, unknown=unknown)


def _stored_fields(service: FeatureService, spec: ModelSpec) -> dict[str, list[str]]:
    return {
        projection.name: [field.name for field in projection.features]
        for projection in service.feature_view_projections
        if projection.name in spec.entities
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Feast's progress prints and warnings off the terminal."""
    import warnings

    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123 (no file)
        warnings.simplefilter("ignore")
        yield
