"""What the label of a new model says: the task, the classes, what is usual."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.errors import UsageError
from flows.steps.new import columns as sorting
from flows.steps.new import moments as timing
from flows.steps.new.draft import Share
from flows.steps.new.moments import TIMED, Moments
from flows.steps.new.table import Column, plain
from flows.steps.new.wanted import Ask, Task, Wanted, parse_task
from flows.steps.sql import identifier

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MOST_CLASSES = 50
SHARED_CLASSES = 10  # that have features of their own


def task_of(label: Column, wanted: Wanted, ask: Ask) -> Task:
    """Return the task: as told, or as the label's values leave no doubt; else ask. Raises UsageError for what cannot be."""
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


def classes_of(label: Column) -> tuple[Share, ...]:
    """Return the classes that have features of their own: of two the rarer, of more the most frequent ones."""
    values = values_of(label)
    values = values[1:] if len(values) == 2 else values[:SHARED_CLASSES]
    names: dict[str, Share] = {}
    for value in values:
        name = plain(str(value))[:30].replace("column_", "class_", 1)
        names.setdefault(name, Share(value=value, name=name if name not in names else f"{name}_{len(names)}"))
    return tuple(names.values())


def values_of(label: Column) -> tuple[int | float | str, ...]:
    """Return the classes of the label, the most frequent first; a flag is 1 or 0."""
    return tuple(int(value) if label.form == "flag" else value for value in label.values)


def middle_of(connection: DuckDBPyConnection, label: Column, moments: Moments) -> tuple[float, float]:
    """Return bounds of a partition's median label: those of the periods seen, with as much room again as they are large.

    What has doubled may be a change that a new model is to learn; what is ten times as large is another unit.
    """
    column = identifier(label.name)
    low, high = connection.execute(
        f"SELECT min(middle), max(middle) FROM (SELECT median({column}) AS middle FROM {TIMED} WHERE isfinite(moment) "
        f"GROUP BY date_trunc('{moments.partition_by}', moment) HAVING count(*) >= $least)",
        {"least": max(1, moments.partition_rows // timing.STANDING)},
    ).fetchone() or (0.0, 0.0)
    low, high = float(low), float(high)  # a decimal column has decimal medians
    return sorting.bounds(low, high, room=max(abs(low), abs(high)))
