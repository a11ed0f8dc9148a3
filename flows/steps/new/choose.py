"""The choices for a new model: what the table, the options and the answers say, and sensible values for all else."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from flows.errors import UsageError
from flows.spec import Frozen
from flows.steps.new import columns as sorting
from flows.steps.new import judged, labelling, warn
from flows.steps.new import moments as timing
from flows.steps.new.draft import Draft, Given, View
from flows.steps.new.keys import find_key
from flows.steps.new.moments import Moments
from flows.steps.new.table import Column, Looked, plain
from flows.steps.new.wanted import Ask, Task, Wanted

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LEAST_ROWS = 100


class Chosen(Frozen):
    """A draft and what the person should know of the table."""

    draft: Draft
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def choose(
    connection: DuckDBPyConnection, looked: Looked, wanted: Wanted, ask: Ask, package: str, definitions: str
) -> Chosen:
    """Decide on a model of the table ``looked_at``; raises UsageError for what cannot be or nobody answers."""
    if looked.rows < LEAST_ROWS:
        raise UsageError(
            f"{looked.origin} holds {looked.rows} rows, and a model needs {LEAST_ROWS} at least to learn from and to be "
            "judged on; bring a longer table"
        )
    wanted = _as_named(looked, wanted)
    moments = timing.find(connection, looked, wanted, ask)
    known = ", ".join(column.name for column in looked.columns)
    label = looked.column(wanted.label or ask(f"Which column is to be predicted ({known[:200]})?", "--label COLUMN"))
    if label.name in moments.columns:
        raise UsageError(f"{label.name} tells the time and cannot be the label; name another column with --label")
    task = labelling.task_of(label, wanted, ask)
    sorted_by = judged.check_order(connection, moments, label, task)
    moments = judged.lengthen(connection, moments, label, task)
    slice_rows = judged.slice_rows(looked.rows, judged.rarest(connection, label), task)
    rest, left, leaks = sorting.sort_out(connection, looked, moments, label.name, task == "regression", wanted)
    slot = moments.columns[1] if moments.form == "date and hour" else None
    flags = frozenset(column.name for column in looked.columns if column.form == "flag")
    named = sorting.names_of([column.name for column in looked.columns], flags)
    entities = [name for name in wanted.entity or () if name not in moments.columns]
    odd = [name for name in wanted.entity or () if name in moments.columns and name != slot]
    if odd:
        raise UsageError(f"{', '.join(odd)} tells the time and cannot be an entity; name other columns with --entity")
    keys = [name for name in wanted.key if name not in moments.columns]
    given = _given(connection, looked, rest, named, wanted, entities, keys, slot)
    event_time = named[moments.columns[0]] if moments.form == "time" else sorting.free_name("time", named)
    form = "ordinal" if moments.form == "order" else moments.form
    form = "date" if form == "time" and event_time != moments.columns[0] else form  # a copy under a plain name
    key, repeats = find_key(
        connection, looked, moments, event_time, given, [named[name] for name in entities], slot, wanted.key
    )
    views = _views(wanted.name, [named[name] for name in entities], named[slot] if slot else None)
    numbered = sorting.free_name("row_number", named) if moments.form == "order" else None
    used = [
        column for column in looked.columns if column.name in {label.name, *moments.columns, *(g.raw for g in given)}
    ]
    span = moments.last - moments.first
    delay = wanted.delay or moments.tick
    gap, short, long = judged.windows_of(connection, moments, delay, entities)
    window, train_rows = judged.window_of(connection, moments, long)
    draft = Draft(
        name=wanted.name, package=package, definitions=definitions, origin=looked.origin, task=task,
        metric="rmse" if task == "regression" else "log_loss",
        columns={**({numbered: "BIGINT"} if numbered else {}), **{column.name: _contract(column) for column in used}},
        ignored=tuple(column.name for column in looked.columns if column not in used),
        layout=(*((numbered,) if numbered else ()), *(column.name for column in looked.columns)),
        numbered=numbered, event_time=event_time, time_columns=(numbered,) if numbered else moments.columns,
        time_form=form, start=moments.start, every=moments.every,
        zone=wanted.zone,
        label=named[label.name], label_raw=label.name, label_flag=label.form == "flag",
        label_bounds=sorting.bounds(float(label.low), float(label.high)) if task == "regression" else None,
        label_middle=labelling.middle_of(connection, label, moments) if task == "regression" else None,
        classes=labelling.classes_of(label) if task != "regression" else (),
        all_classes=labelling.values_of(label) if task != "regression" else (),
        delay=delay, example_time=_example(moments), given=given,
        calendar=_calendar(moments, span), key=key, views=views,
        slices=judged.slices(connection, looked, given, moments, slice_rows), slice_min_rows=slice_rows,
        tick=moments.tick, within_days=moments.within_days, gap=gap, short=short, long=long,
        window=window, judge=moments.judge, min_train_rows=max(20, min(1000, train_rows // 4)),
        min_labels=max(20, min(500, moments.judge_rows // 2)), partition_by=moments.partition_by,
        min_rows=max(1, moments.partition_rows // timing.STANDING), period_rows=moments.partition_rows,
        params=_params(train_rows, task),
    )  # fmt: skip
    hurts = [judged.check_delay(moments, delay), judged.check_past(connection, moments, delay, draft.long, definitions)]
    _check_features(draft)
    notes, warnings = warn.collect(
        connection, looked, moments, label, task, rest, left, leaks, draft, bool(wanted.delay), sorted_by
    )
    warnings += tuple(text for text in hurts if text)
    if repeats:
        warnings = (*warnings, f"{repeats:,} rows have the {', '.join(key)} of a row before them and will be rejected")
    return Chosen(draft=draft, notes=notes, warnings=warnings)


def _as_named(looked: Looked, wanted: Wanted) -> Wanted:
    """Return the options with names as the table has them: spaces around a name are not typed."""

    def own(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if names is None else tuple(looked.named(name) for name in names)

    return wanted.model_copy(
        update={
            "time": own(wanted.time), "entity": own(wanted.entity), "drop": own(wanted.drop), "keep": own(wanted.keep),
            "key": own(wanted.key),
        }
    )  # fmt: skip


def _given(
    connection: DuckDBPyConnection, looked: Looked, rest: list[Column], named: dict[str, str], wanted: Wanted,
    entities: list[str], keys: list[str], slot: str | None,
) -> tuple[Given, ...]:  # fmt: skip
    """Return the fields of the request beside the time: keys, entities, the hour that has a past of its own, features."""
    fields = []
    for column in looked.columns:
        entity = column.name in entities or column.name == slot
        if column not in rest and not entity and column.name not in keys:
            continue
        name = named[column.name]
        # The hour is a feature of the moment already, an id is none, and an entity of many values is known by its past alone.
        unseen = column.name == slot or column not in rest or (entity and column.distinct > 50)
        feature = None if unseen else f"given_{name}"
        fields.append(sorting.given_of(connection, looked, column, name, wanted, feature))
    return tuple(fields)


def _views(model: str, entities: list[str], slot: str | None) -> tuple[View, ...]:
    """Return the feature views: all rows together, each entity, the entities together, and the hours of the day."""
    groups: list[tuple[str, ...]] = [(), *((name,) for name in entities)]
    groups += [tuple(entities)] if len(entities) > 1 else []
    groups += [(*entities, slot)] if slot else []
    views: list[View] = []
    for keys in groups:
        short = "_and_".join(plain(name) for name in keys) or "all"
        while short in {view.prefix for view in views}:
            short += "_again"
        of = "of all rows together" if not keys else f"of the rows of one {' and '.join(keys)}"
        views.append(View(name=f"{model}_{short}", prefix=short, keys=keys, of=of))
    return tuple(views)


def _contract(column: Column) -> str:
    """Return the type in the contract: the widest of its kind, so that a smaller file fits as well."""
    if column.kind in ("FLOAT", "DOUBLE") or column.kind.startswith("DECIMAL"):
        return "DOUBLE"
    if column.kind in ("TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"):
        return "TIMESTAMP"
    small = ("TINYINT", "UTINYINT", "SMALLINT", "USMALLINT", "INTEGER", "UINTEGER")
    return "BIGINT" if column.kind in small else column.kind


def _example(moments: Moments) -> str:
    """Return the newest time as a request may say it: the day, where rows tell no more."""
    newest = moments.last.replace(microsecond=0)
    return (newest if moments.within_days else newest.date()).isoformat()


def _calendar(moments: Moments, span: timedelta) -> tuple[str, ...]:
    found = ["time_hour"] if moments.within_days else []
    found += ["time_weekday"] if span >= timedelta(days=14) else []
    return (*found, "time_month") if span >= timedelta(days=300) else tuple(found)


def _params(rows: int, task: Task) -> dict[str, float | int]:
    """Return the estimator's parameters for so many rows: few rows, few and cautious trees; classes, fewer still.

    Probabilities are what overfits first: the loss of a confident mistake has no bound.
    """
    leaf = max(5, min(40, rows // 50))
    many = 60 if rows < 1000 else 150 if rows < 5000 else 200
    if task == "regression":
        return {"learning_rate": 0.05 if rows < 5000 else 0.08, "max_iter": many, "min_samples_leaf": leaf}
    return {"learning_rate": 0.05, "max_iter": many // 2, "min_samples_leaf": leaf, "l2_regularization": 1.0}


def _check_features(draft: Draft) -> None:
    """Raise UsageError if a feature has the name of another, or of a column: Feast would not tell them apart."""
    past = [f"{view.prefix}_" for view in draft.views]
    names = [*draft.calendar, *(one.feature for one in draft.features if one.feature)]
    fields = {draft.event_time, draft.label, *(one.name for one in draft.given)}
    bad = sorted(fields & {*names}) + sorted(
        name
        for name in fields
        for start in past
        if name.startswith(start) and name.endswith((f"_{draft.short_name}", f"_{draft.long_name}"))
    )
    if bad:
        raise UsageError(f"column {', '.join(bad)} has the name of a feature that is made; rename it in the table")
