"""What a training's record says of its features: definitions by their hashes, and the files that were joined."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.spec import Frozen, ModelSpec
from flows.steps.feature_store import feature_service
from flows.steps.files import sha256_of

if TYPE_CHECKING:
    from feast import FeatureStore


class FeatureFile(Frozen):
    """A file of a feature table, as a training set was joined from it."""

    view: str
    name: str
    sha256: str


class ViewRecord(Frozen):
    """A view of a feature service: the sha256 of its definition, the fields that the service takes of it, and how long a
    value holds (None: for ever, or it is computed on demand)."""

    name: str
    sha256: str
    fields: tuple[str, ...]
    ttl: timedelta | None


def definition_hash(store: FeatureStore, spec: ModelSpec) -> str:
    """Return the sha256 of all that the feature service is made of: views, fields, sources, on-demand code.

    The same definitions have the same hash, however often they were applied or read.
    """
    digest = hashlib.sha256()
    for _, text in _definitions(store, spec):
        digest.update(text)
    return digest.hexdigest()


def view_records(store: FeatureStore, spec: ModelSpec) -> tuple[ViewRecord, ...]:
    """Return the views of the feature service, each with a hash of its own, in the order of the definitions."""
    return tuple(
        ViewRecord(
            name=one.name, sha256=hashlib.sha256(text).hexdigest(), ttl=getattr(_view(store, one.name), "ttl", None) or None,
            fields=tuple(field.name for field in one.features),
        )
        for one, text in _definitions(store, spec)
    )  # fmt: skip


def _definitions(store: FeatureStore, spec: ModelSpec) -> Iterator[tuple[Any, bytes]]:
    """Yield the projections of the feature service, each with all that defines it as text."""
    from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]  # no stubs are installed

    for projection in feature_service(store, spec).feature_view_projections:
        view: Any = _view(store, projection.name)
        definition = _lasting(MessageToDict(view.to_proto(), preserving_proto_field_name=True))
        fields = repr([(field.name, str(field.dtype)) for field in projection.features])
        yield projection, json.dumps(definition, sort_keys=True).encode() + fields.encode()


def feature_files(store: FeatureStore, spec: ModelSpec) -> tuple[FeatureFile, ...]:
    """Return the files of the feature tables with their hashes, in the order in which they were written."""
    from feature_repo.parquet_files import files_at, path_of

    root = Path(store.config.offline_store.root)
    found = []
    for view in spec.entities:
        source: Any = store.get_feature_view(view).batch_source
        folder = path_of(source, root)
        found += [
            FeatureFile(view=view, name=file.relative_to(folder).as_posix(), sha256=sha256_of(file))
            for file in files_at(folder)
        ]
    return tuple(found)


def _lasting(value: Any) -> Any:
    """Return a definition without what changes by itself: times of apply, of reading and of materialization.

    On-demand code counts by its text; its pickled form holds line numbers and paths.
    """
    if isinstance(value, dict):
        passing = {"meta", "body"} if "body_text" in value else {"meta"}
        return {name: _lasting(one) for name, one in value.items() if name not in passing}
    return [_lasting(one) for one in value] if isinstance(value, list) else value


def _view(store: FeatureStore, name: str) -> Any:
    views = {view.name: view for view in store.list_all_feature_views()}
    return views[name]
