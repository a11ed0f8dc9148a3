"""What applying a model's feature definitions would change in the registry, and which features repeat another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from flows.lookup import resolve
from flows.run_records import Run
from flows.settings import Settings
from flows.spec import Frozen, ModelSpec
from flows.steps import event_rows, feature_store
from flows.steps.sql import identifier

Shape = dict[str, dict[str, Any]]  # view -> what of it a reader relies on


class Change(Frozen):
    """One difference between the definitions and the registry.

    A ``destructive`` one takes away, or gives another meaning to, what a version that serves was trained on.
    """

    kind: Literal["add", "change", "remove"]
    what: str
    detail: str
    destructive: bool


def changes(settings: Settings, spec: ModelSpec) -> list[Change]:
    """Return what applying the definitions would change, in the order of the definitions; the registry is only read.

    Without a registry, or without this model in it, everything is added. Raises ContractError if the definitions lack
    the model's feature service.
    """
    wanted = _defined(spec)
    if not settings.features_exist:
        return compare({}, wanted)
    store = feature_store.open_store(settings)
    if not any(one.name == spec.feature_service for one in store.list_feature_services()):
        return compare({}, wanted)
    service = feature_store.feature_service(store, spec)
    known = {view.name: view for view in store.list_all_feature_views()}
    return compare(_shape(service, known), wanted)


def compare(old: Shape, new: Shape) -> list[Change]:
    """Return the changes from one shape of a feature service to another."""
    found = [
        Change(kind="remove", what=f"view {view}", detail="the service no longer reads it", destructive=True)
        for view in old
        if view not in new
    ]
    for view, mine in new.items():
        theirs = old.get(view)
        if theirs is None:
            names = ", ".join(mine["fields"])
            found.append(Change(kind="add", what=f"view {view}", detail=names, destructive=False))
            continue
        for name in theirs["fields"].keys() | mine["fields"].keys():
            before, now = theirs["fields"].get(name), mine["fields"].get(name)
            if before != now:
                kind: Literal["add", "change", "remove"] = (
                    "add" if before is None else "remove" if now is None else "change"
                )
                detail = f"{before or 'nothing'} -> {now or 'nothing'}"
                found.append(Change(kind=kind, what=f"feature {view}:{name}", detail=detail, destructive=kind != "add"))
        # Another key is another feature; another time to live or another formula is a change to be looked at.
        found += [
            Change(
                kind="change", what=f"{name} of view {view}", detail=f"{theirs[name]} -> {mine[name]}",
                destructive=name == "keys",
            )
            for name in ("keys", "ttl", "computed by")
            if theirs[name] != mine[name]
        ]  # fmt: skip
    return sorted(found, key=lambda one: (one.kind != "remove", one.what))


def recomputed(spec: ModelSpec, before: Sequence[Run]) -> list[Change]:
    """Return the views whose expressions are new, or others, since the featurizations ``before``, of which the newest
    comes first; none if none of them says.

    All ticks are computed for them: of those that were featurized before, a new view would have no value. One that broke
    off counts like one that came to its end: it may have written values.
    """
    known = [one.summary["expressions"] for one in before if "expressions" in one.summary]
    found: list[Change] = []
    for view, digest in digests(spec).items() if known else ():
        kind: Literal["add", "change"] = "change" if view in known[-1] else "add"
        if any(one.get(view) != digest for one in known):
            why = "others than before" if kind == "change" else "new"
            detail = f"{why}; all ticks are computed anew"
            found.append(Change(kind=kind, what=f"expressions of view {view}", detail=detail, destructive=False))
    return found


def digests(spec: ModelSpec) -> dict[str, str]:
    """Return by view of the feature tables a digest of what computes it."""
    return {view: _hash(sql) for view, sql in expressions(spec).items()}


def expressions(spec: ModelSpec) -> dict[str, str]:
    """Return by view of the feature tables the SQL that computes it."""
    import duckdb
    import ibis

    columns = event_rows.compiled(spec)[1] | {
        "event_timestamp": event_rows.ZONED, "label_timestamp": event_rows.ZONED, "label": "DOUBLE",
    }  # fmt: skip
    nothing = ", ".join(f"CAST(NULL AS {kind}) AS {identifier(name)}" for name, kind in columns.items())
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        schema = ibis.Schema.from_pyarrow(connection.execute(f"SELECT {nothing} LIMIT 0").to_arrow_table().schema)
    rows = ibis.table(schema, name="rows")
    ticks = ibis.table({"tick": "timestamp('UTC', 6)"}, name="ticks")
    tables = resolve(spec.feature_tables)
    return {view: str(ibis.to_sql(one(rows, ticks), dialect="duckdb")) for view, one in tables.items()}


def repeated(spec: ModelSpec) -> list[tuple[str, str]]:
    """Return the pairs of features in the feature tables whose expressions are the same under two names."""
    import sqlglot

    first: dict[str, str] = {}
    pairs = []
    for view, sql in expressions(spec).items():
        tree = sqlglot.parse_one(sql, dialect="duckdb")
        for name, meaning in _formulas(tree).items():
            if name in spec.entities[view]:
                continue
            known = first.setdefault(meaning, f"{view}:{name}")
            if known != f"{view}:{name}":
                pairs.append((known, f"{view}:{name}"))
    return pairs


def _formulas(tree: Any) -> dict[str, str]:
    """Return how each column is computed, and from what, for the columns that are computed in a query."""
    from sqlglot import exp

    found = {}
    for alias in tree.find_all(exp.Alias):
        select = alias.parent
        if isinstance(select, exp.Select) and alias.this.find(exp.AggFunc):
            rest = select.copy()
            rest.set("expressions", [])
            found[alias.alias] = f"{alias.this.sql()} OF {rest.sql()}"
    return found


def _defined(spec: ModelSpec) -> Shape:
    """Return the shape of the service in the definitions."""
    import copy

    found = feature_store.definitions(spec)
    service = next(
        one
        for one in found
        if getattr(one, "name", "") == spec.feature_service and hasattr(one, "feature_view_projections")
    )
    views = {one.name: one for one in map(copy.copy, found) if one is not service}
    return _shape(service, views)


def _shape(service: Any, views: dict[str, Any]) -> Shape:
    shape = {}
    for projection in service.feature_view_projections:
        view = views[projection.name]
        transformation = getattr(view, "feature_transformation", None)
        ttl = getattr(view, "ttl", None)
        shape[projection.name] = {
            "fields": {field.name: str(field.dtype) for field in projection.features},
            # Feast gives a view that has no key one of its own, and only once it is registered.
            "keys": []
            if transformation
            else sorted(c.name for c in view.entity_columns if not c.name.startswith("__")),
            "ttl": str(ttl) if ttl else "none",
            "computed by": _hash(transformation.udf_string) if transformation else "nothing",
        }
    return shape


def _hash(text: str) -> str:
    from hashlib import sha256

    return sha256(text.strip().encode()).hexdigest()[:12]
