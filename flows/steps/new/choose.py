"""The choices for a new model: what the table, the options and the answers say, and sensible values for all else."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from flows.errors import UsageError
from flows.spec import Frozen
from flows.steps.new import columns as sorting
from flows.steps.new import judged, warn
from flows.steps.new import moments as timing
from flows.steps.new.draft import Draft, Given, Share, View
from flows.steps.new.moments import TIMED, Moments
from flows.steps.new.table import Column, Looked, plain
from flows.steps.new.wanted import Ask, Task, Wanted, parse_task
from flows.steps.sql import identifier

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LEAST_ROWS = 100
MOST_CLASSES = 50
SHARED_CLASSES = 10  # that have features of their own
REPEATED = 0.02  # share of rows that may repeat a key


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
    task = _task(label, wanted, ask)
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
    given = _given(connection, looked, rest, named, wanted, entities, slot)
    event_time = named[moments.columns[0]] if moments.form == "time" else _free("time", named)
    form = "ordinal" if moments.form == "order" else moments.form
    form = "date" if form == "time" and event_time != moments.columns[0] else form  # a copy under a plain name
    key, repeats = _key(connection, looked, moments, event_time, given, [named[name] for name in entities], slot)
    views = _views(wanted.name, [named[name] for name in entities], named[slot] if slot else None)
    numbered = _free("row_number", named) if moments.form == "order" else None
    used = [
        column for column in looked.columns if column.name in {label.name, *moments.columns, *(g.raw for g in given)}
    ]
    span = moments.last - moments.first
    train_rows = looked.rows - moments.judge_rows
    days = timedelta(days=1)
    delay = wanted.delay or moments.tick
    lead = _lead(delay, moments.tick)
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
        label_middle=_middle(connection, label, moments) if task == "regression" else None,
        classes=_classes(label) if task != "regression" else (),
        all_classes=_values(label) if task != "regression" else (),
        delay=delay, example_time=moments.last.replace(microsecond=0), given=given,
        calendar=_calendar(moments, span), key=key, views=views,
        slices=judged.slices(connection, looked, given, moments, slice_rows), slice_min_rows=slice_rows,
        tick=moments.tick, short=lead + 7 * moments.tick, long=lead + 28 * moments.tick,
        window=max(round(1.5 * span / days) * days, 2 * days) if span < 365 * days else 1095 * days,
        judge=moments.judge, min_train_rows=max(20, min(1000, train_rows // 4)),
        min_labels=max(20, min(500, moments.judge_rows // 2)), partition_by=moments.partition_by,
        min_rows=max(1, moments.partition_rows // timing.STANDING), params=_params(train_rows, task),
    )  # fmt: skip
    late = judged.check_delay(moments, delay)
    _check_features(draft)
    notes, warnings = warn.collect(
        connection, looked, moments, label, task, rest, left, leaks, draft, bool(wanted.delay), sorted_by
    )
    if late:
        warnings = (*warnings, late)
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
        }
    )  # fmt: skip


def _task(label: Column, wanted: Wanted, ask: Ask) -> Task:
    """Return the task: as told, or as the label's values leave no doubt; else ask."""
    if label.form in ("time", "other"):
        raise UsageError(
            f"{label.name} holds {label.kind}, which cannot be predicted; name another column with --label"
        )
    if label.nearly:
        raise UsageError(f"{label.name} {label.nearly}; correct the table")
    if label.distinct < 2:
        raise UsageError(f"{label.name} is constant, there is nothing to predict; name another column with --label")
    task = wanted.task
    if task is None and label.form in ("flag", "text"):
        task = "binary" if label.distinct == 2 else "multiclass"
    elif task is None and label.distinct == 2:
        task = "binary"
    elif task is None and (label.form == "number" or label.distinct > 20):
        task = "regression"
    elif task is None:
        question = (
            f"{label.name} has {label.distinct} whole numbers as values: is it an amount (regression) or classes?"
        )
        task = parse_task(ask(question, "--task regression or --task multiclass"))
    if task == "regression" and label.form not in ("whole", "number"):
        raise UsageError(f"{label.name} holds {label.kind} and no numbers; use --task binary or multiclass")
    if task == "binary" and label.distinct != 2:
        raise UsageError(f"{label.name} has {label.distinct} values, not two; use --task multiclass")
    if task == "multiclass" and label.distinct > MOST_CLASSES:
        raise UsageError(
            f"{label.name} has {label.distinct} classes, {MOST_CLASSES} are taken at most; merge the rare ones"
        )
    return task


def _given(
    connection: DuckDBPyConnection, looked: Looked, rest: list[Column], named: dict[str, str], wanted: Wanted,
    entities: list[str], slot: str | None,
) -> tuple[Given, ...]:  # fmt: skip
    """Return the fields of the request beside the time: entities, the hour that has a past of its own, features."""
    fields = []
    for column in looked.columns:
        entity = column.name in entities or column.name == slot
        if column not in rest and not entity:
            continue
        name = named[column.name]
        # The hour is a feature of the moment already, and an entity of many values is known by its past alone.
        feature = None if column.name == slot or (entity and column.distinct > 50) else f"given_{name}"
        fields.append(sorting.given_of(connection, looked, column, name, wanted, feature))
    return tuple(fields)


def _free(name: str, named: dict[str, str]) -> str:
    taken = {*(one.lower() for one in named), *(one.lower() for one in named.values())}
    while name in taken:
        name = f"event_{name}"
    return name


def _key(
    connection: DuckDBPyConnection, looked: Looked, moments: timing.Moments, event_time: str, given: tuple[Given, ...],
    entities: list[str], slot: str | None,
) -> tuple[tuple[str, ...], int]:  # fmt: skip
    """Return the fewest fields that together name one row, and how many rows repeat another's all the same.

    Time and entities come first. A prediction meets its label on them.
    """
    raw = {one.name: one.raw for one in given}
    key = [*entities]
    # The hour that a clock shows twice is no reason for a longer key.
    told_apart_by = identifier(moments.columns[0]) if moments.form == "instant" else "moment"

    def repeated(names: list[str], table: str, time: str = told_apart_by) -> int:
        query = f"SELECT count(*) - count(DISTINCT ({columns(names, time)})) FROM {table}"
        return int((connection.execute(query).fetchone() or (0,))[0])

    def columns(names: list[str], time: str = told_apart_by) -> str:
        return ", ".join([time, *(identifier(raw[name]) for name in names)])

    bad = repeated(key, TIMED)
    others = [one.name for one in given if one.required and one.name not in key and one.raw != slot]
    # All other rows are told apart already, so only these are counted again.
    together = f"FROM {TIMED} QUALIFY count(*) OVER (PARTITION BY {columns(key)}) > 1"
    connection.execute(f"CREATE OR REPLACE TEMP TABLE repeating AS {together}")
    while bad and others:
        counts = {name: repeated([*key, name], "repeating") for name in others}
        best = min(others, key=lambda name: counts[name])
        if counts[best] >= bad:
            break
        bad, key = counts[best], [*key, best]
        others.remove(best)
    if bad > REPEATED * looked.rows:
        raise UsageError(
            f"{bad} of {looked.rows} rows share their time and all that is given with another row; name what tells them "
            "apart with --entity, or drop the repetitions"
        )
    return (event_time, *key), repeated(key, TIMED, "moment")


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


def _lead(delay: timedelta, tick: timedelta) -> timedelta:
    """Return by how much further back windows reach where labels come late, or they would hold rows without labels alone.

    In steps of seven ticks, so that what was a week before is of the same day of the week still.
    """
    return timedelta(0) if delay <= 2 * tick else -(-delay // (7 * tick)) * 7 * tick


def _contract(column: Column) -> str:
    """Return the type in the contract: the widest of its kind, so that a smaller file fits as well."""
    if column.kind in ("FLOAT", "DOUBLE") or column.kind.startswith("DECIMAL"):
        return "DOUBLE"
    if column.kind in ("TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"):
        return "TIMESTAMP"
    small = ("TINYINT", "UTINYINT", "SMALLINT", "USMALLINT", "INTEGER", "UINTEGER")
    return "BIGINT" if column.kind in small else column.kind


def _middle(connection: DuckDBPyConnection, label: Column, moments: Moments) -> tuple[float, float]:
    """Return bounds of a partition's median label: those of the periods seen, with as much room again as they are large.

    What has doubled may be a change that a new model is to learn; what is ten times as large is another unit.
    """
    column = identifier(label.name)
    low, high = connection.execute(
        f"SELECT min(middle), max(middle) FROM (SELECT median({column}) AS middle FROM {TIMED} WHERE isfinite(moment) "
        f"GROUP BY date_trunc('{moments.partition_by}', moment) HAVING count(*) >= $least)",
        {"least": max(1, moments.partition_rows // timing.STANDING)},
    ).fetchone() or (0.0, 0.0)
    return sorting.bounds(float(low), float(high), room=max(abs(low), abs(high)))


def _classes(label: Column) -> tuple[Share, ...]:
    """Return the classes that have features of their own: of two the rarer, of more the most frequent ones."""
    values = _values(label)
    values = values[1:] if len(values) == 2 else values[:SHARED_CLASSES]
    names: dict[str, Share] = {}
    for value in values:
        name = plain(str(value))[:30].replace("column_", "class_", 1)
        names.setdefault(name, Share(value=value, name=name if name not in names else f"{name}_{len(names)}"))
    return tuple(names.values())


def _values(label: Column) -> tuple[int | float | str, ...]:
    """Return the classes of the label, the most frequent first; a flag is 1 or 0."""
    return tuple(int(value) if label.form == "flag" else value for value in label.values)


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
