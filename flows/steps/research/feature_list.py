"""The features that are registered: what they are, who uses them, and what their tables hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.errors import EvergreenError, UsageError
from flows.lookup import known_models, load_model
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import feature_store
from flows.steps.in_memory import connect
from flows.steps.sql import identifier, identifiers, literal
from flows.steps.statistics import is_number
from flows.steps.storage import pull

if TYPE_CHECKING:
    import pandas as pd
    from duckdb import DuckDBPyConnection
    from feast import FeatureStore

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
FIGURES = ("count", "missing", "mean", "min", *(f"q{share * 100:02.0f}" for share in QUANTILES), "max")
COLUMNS = (
    "view",
    "type",
    "description",
    "keys",
    "models",
    "services",
    *FIGURES,
    "newest",
    "valid_for",
    "owner",
    "tags",
)


def listed(
    settings: Settings,
    spec: ModelSpec | None = None,
    search: str | None = None,
    tag: str | None = None,
    owner: str | None = None,
) -> pd.DataFrame:
    """Return a frame with a row for each registered feature, by its name; those of a model's service and views, or all.

    ``search`` is part of a feature's or a view's name, of its description or its keys; ``tag`` is NAME or NAME=VALUE;
    ``owner`` part of its owner, capitals aside. The figures are of the values that hold, a correction in place of what
    it corrects: how many there are, how many of them are missing, and of numbers mean, least, greatest and quantiles; a
    feature that is computed at request has none. Raises UsageError for a tag that is not one.
    """
    import pandas as pd

    if tag is not None and not tag.partition("=")[0].strip():
        raise UsageError(f"--tag {tag!r} is no tag; write NAME or NAME=VALUE")
    store = feature_store.open_store(settings)
    services, views = store.list_feature_services(), store.list_all_feature_views()
    users = _users(settings, spec)
    rows = []
    for view in sorted(views, key=lambda one: one.name):
        found = list(_described(view, services, users))
        if spec is not None:
            found = [one for one in found if spec.name in one["models"] or spec.feature_service in one["services"]]
        found = [one for one in found if _wanted(one, search, tag, owner)]
        rows += _measured(settings, store, view, found)
    frame = pd.DataFrame(rows, columns=["feature", *COLUMNS]).set_index("feature")
    for name in ("keys", "models", "services"):
        frame[name] = frame[name].map(", ".join)
    frame["tags"] = frame["tags"].map(lambda tags: ", ".join(f"{name}={value}" for name, value in sorted(tags.items())))
    return frame.astype(dict.fromkeys(FIGURES[2:], "float64") | dict.fromkeys(FIGURES[:2], "Int64"))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame as plain values, None where there is none."""
    import pandas as pd

    rows = frame.reset_index().astype(object).to_dict("records")
    return [{str(name): None if pd.isna(value) else value for name, value in row.items()} for row in rows]


def _users(settings: Settings, spec: ModelSpec | None) -> dict[str, list[str]]:
    """Return the models of each feature service."""
    found: dict[str, list[str]] = {spec.feature_service: [spec.name]} if spec else {}
    for name in known_models(settings):
        if spec and name == spec.name:
            continue
        try:
            found.setdefault(load_model(name, settings).feature_service, []).append(name)
        except EvergreenError:  # another model that is under way
            continue
    return found


def _described(view: Any, services: Sequence[Any], users: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    """Yield what the registry says of each feature of a view."""
    for field in view.features:
        used = [
            service.name
            for service in services
            for projection in service.feature_view_projections
            if projection.name == view.name and field.name in [one.name for one in projection.features]
        ]
        yield {
            "feature": field.name, "view": view.name, "type": str(field.dtype), "services": used,
            "description": field.description or view.description,
            "keys": _keys(view),
            "models": [model for service in used for model in users.get(service, ())],
            "valid_for": getattr(view, "ttl", None) or None, "owner": view.owner, "tags": {**view.tags, **field.tags},
        }  # fmt: skip


def _keys(view: Any) -> list[str]:
    """Return the join keys of a view; Feast itself names one that is no column where there is none."""
    from feast.feature_view import DUMMY_ENTITY_ID

    return [column.name for column in getattr(view, "entity_columns", ()) if column.name != DUMMY_ENTITY_ID]


def _wanted(one: dict[str, Any], search: str | None, tag: str | None, owner: str | None) -> bool:
    text = " ".join([one["feature"], one["view"], one["description"], *one["keys"]]).casefold()
    name, given, value = (tag or "").partition("=")
    return (
        (search is None or search.casefold() in text)
        and (tag is None or (name in one["tags"] and (not given or one["tags"][name] == value)))
        and (owner is None or owner.casefold() in one["owner"].casefold())
    )


def _measured(settings: Settings, store: FeatureStore, view: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a view with the figures of its table, if it has one here."""
    from feature_repo.parquet_files import files_at, path_of

    source = getattr(view, "batch_source", None)
    if not rows or source is None:
        return rows
    folder = path_of(source, Path(store.config.offline_store.root))
    pull(settings, folder)
    files = files_at(folder)
    if not files:
        return rows
    with connect() as connection:
        _open(connection, files, _keys(view), source)
        kinds = {name: kind for name, kind, *_ in connection.execute("DESCRIBE held").fetchall()}
        time = identifier(source.timestamp_field)
        return [{**row, **_figures(connection, row["feature"], kinds, time)} for row in rows]


def _open(connection: DuckDBPyConnection, files: Sequence[Path], keys: Sequence[str], source: Any) -> None:
    """Make the table ``held`` of the newest row of each key and time."""
    made = source.created_timestamp_column
    newest = ""
    if made:
        each = identifiers([*keys, source.timestamp_field])
        newest = f"QUALIFY row_number() OVER (PARTITION BY {each} ORDER BY {identifier(made)} DESC) = 1"
    paths = ", ".join(map(literal, files))
    connection.execute(
        f"CREATE TEMP TABLE held AS SELECT * FROM read_parquet([{paths}], union_by_name = true) {newest}"
    )


def _figures(connection: DuckDBPyConnection, name: str, kinds: dict[str, str], time: str) -> dict[str, Any]:
    if name not in kinds:
        return {}
    column = identifier(name)
    wanted = {
        "count": f"count({column})",
        "missing": f"count(*) - count({column})",
        "newest": f"max({time}) FILTER ({column} IS NOT NULL)",
    }
    if is_number(kinds[name]):
        wanted |= {"mean": f"avg({column})", "min": f"min({column})", "max": f"max({column})"}
        wanted["quantiles"] = f"quantile_cont({column}::DOUBLE, {list(QUANTILES)})"
    found = connection.execute(f"SELECT {', '.join(wanted.values())} FROM held").fetchone() or ()
    figures = dict(zip(wanted, found, strict=True))
    quantiles = figures.pop("quantiles", None) or ()
    return figures | {f"q{share * 100:02.0f}": value for share, value in zip(QUANTILES, quantiles, strict=False)}
