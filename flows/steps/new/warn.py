"""What a person should know of a table before a model is made of it: what was left out, and what will hurt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.steps.new.columns import Left
from flows.steps.new.draft import Draft
from flows.steps.new.judged import FEW
from flows.steps.new.leaks import Leak
from flows.steps.new.moments import TIMED, Moments
from flows.steps.new.table import TABLE, Column, Looked
from flows.steps.new.wanted import Task, span_text
from flows.steps.presence import latest
from flows.steps.sql import identifier, identifiers

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

RARE = 0.05  # share of a class from which its errors hide behind the others
IRREGULAR = 0.1  # different gaps between rows, as a share of the rows


def collect(
    connection: DuckDBPyConnection, looked: Looked, moments: Moments, label: Column, task: Task, rest: list[Column],
    left: list[Left], leaks: list[Leak], draft: Draft, told_delay: bool, sorted_by: str | None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:  # fmt: skip
    """Return notes of what was inferred, and warnings of what will hurt, one line each."""
    notes = [
        f"{looked.rows:,} rows from {moments.first} to {moments.last}; time is {' and '.join(moments.columns) or 'their order'}",
        f"task {task}, metric {draft.metric}; the newest {span_text(moments.judge)} judge ({moments.judge_rows} rows)",
    ]
    notes.append(f"the key is {', '.join(draft.key)}: it names one row, and on it a prediction meets its label")
    if renamed := _renamed(draft):
        notes.append(
            f"requests and files to score say {', '.join(f'{name} for {raw}' for name, raw in renamed.items())}"
        )
    notes += [
        f"{name} has zeros before its digits and is read as numbers; if they are codes, bring it as text in a parquet file"
        for name in looked.padded
    ]
    if moments.form == "instant":
        other = "; those of another place with --zone" if draft.zone == "UTC" else ""
        notes.append(f"the times name their zone; hours, days and months are those of {draft.zone}{other}")
    if not told_delay:
        notes.append(f"a label is taken to be known {span_text(draft.delay)} after its row; say otherwise with --delay")
    if draft.gap > draft.tick:
        of = f"one {draft.views[1].keys[0]}" if draft.views[1:] else "the table"
        notes.append(
            f"rows of {of} lie about {span_text(draft.gap)} apart: their past is that of the last {span_text(draft.short)} and "
            f"{span_text(draft.long)}"
        )
    if draft.arrival is not None:
        reasons = (
            (draft.held, f"holds a {draft.partition_by}"),
            (draft.without_labels, f"waits {span_text(draft.without_labels)} for its labels"),
        )
        why = " and ".join(text for length, text in reasons if length)
        # There is no shorter period than a day; its file may be landed again with more rows.
        fresher = "its file again while it grows" if draft.partition_by == "day" else "smaller files"
        mend = f"; land {fresher}, without arrival in spec.py, for a fresher one" if draft.held else ""
        old = span_text(draft.held + draft.without_labels)
        notes.append(f"a file {why}: a request sees a past up to {old} old, and so does training{mend}")
    if draft.numbered:
        notes.append("the order of the rows is their time: the file may only grow at its end")
    notes += [f"{one.name} is left out: {one.why}" for one in left if not one.warning]
    warnings = [f"{one.name} is left out: {one.why}" for one in left if one.warning]
    warnings += [leak.text for leak in leaks if not leak.certain]
    warnings += [sorted_by] if sorted_by else []
    warnings += _key(connection, looked, left, draft)
    warnings += _label(connection, moments, label, task)
    warnings += _order(connection, looked, moments, label, draft.zone)
    warnings += [text for column in rest if (text := _unseen(connection, column, moments))]
    return tuple(notes), tuple(warnings)


def _renamed(draft: Draft) -> dict[str, str]:
    """Return the fields of a request that are called otherwise than in the table, with what they are called there."""
    time = (
        {}
        if draft.numbered or draft.event_time in draft.time_columns
        else {draft.event_time: " and ".join(draft.time_columns)}
    )
    return time | {one.name: one.raw for one in draft.given if one.name != one.raw}


def _key(connection: DuckDBPyConnection, looked: Looked, left: list[Left], draft: Draft) -> list[str]:
    """Return a warning if rows come at any time, and what tells them apart does so by luck: a second one would not be."""
    ids = [one.name for one in left if one.why.startswith("is an id")]
    floats = [one.name for one in draft.given if one.name in draft.key and one.type == "float"]
    if ids and floats:
        return [f"{floats[0]} is in the key, and is an amount: --key {ids[0]} names a row by its id"]
    entities = {name for view in draft.views for name in view.keys}
    others = [name for name in draft.key if name != draft.event_time and name not in entities]
    if ids and others:
        return [
            f"{others[0]} is in the key to tell rows apart that it does not name: --key {ids[0]} names a row by its id"
        ]
    if draft.key != (draft.event_time,) or draft.numbered:
        return []
    (gaps,) = connection.execute(
        f"SELECT count(DISTINCT gap) FROM (SELECT moment - lag(moment) OVER (ORDER BY moment) AS gap FROM {TIMED})"
    ).fetchone() or (0,)
    if gaps < IRREGULAR * looked.rows:
        return []
    mend = f"name rows by their id, --key {ids[0]}" if ids else "add what tells them apart to key and request"
    return [f"{draft.key[0]} alone is the key: a second row of the same moment is refused; if there can be one, {mend}"]


def _label(connection: DuckDBPyConnection, moments: Moments, label: Column, task: Task) -> list[str]:
    found = []
    if label.nulls:
        found.append(f"{label.name} is missing in {label.nulls} rows, which neither train nor judge")
    if task == "regression":
        return found
    column = identifier(label.name)
    further = "roc_auc" if task == "binary" else "balanced_accuracy"  # what the card shows of the task
    counts = connection.execute(
        f"SELECT CAST({column} AS VARCHAR), count(*), count(*) FILTER (moment > $since) FROM {TIMED} "
        f"WHERE {column} IS NOT NULL GROUP BY ALL ORDER BY 2, 1",
        {"since": moments.last - moments.judge},
    ).fetchall()
    rows = sum(count for _, count, _ in counts)
    for value, count, judged in counts[:3]:
        if count < RARE * rows:
            found.append(
                f"class {_shown(value)} of {label.name} is {count / rows:.1%} of the rows ({judged} that judge): log_loss "
                f"and its gate work, accuracy says little; look at {further} too"
            )
        elif judged < FEW:
            found.append(
                f"class {_shown(value)} of {label.name} has {judged} rows that judge; verdicts on it are by chance"
            )
    unseen = [value for value, count, judged in counts if count == judged]
    if unseen:
        found.append(
            f"classes {', '.join(map(_shown, unseen))} of {label.name} are in the newest part alone: no model can know them; "
            "are the rows in the order of time?"
        )
    return found


def _order(connection: DuckDBPyConnection, looked: Looked, moments: Moments, label: Column, zone: str) -> list[str]:
    found = []
    if moments.backwards:
        share = moments.backwards / looked.rows
        found.append(
            f"time runs backwards at {moments.backwards} rows ({share:.1%}): the file is not in the order of time"
        )
    if moments.missing:
        found.append(f"{moments.missing} rows have no time and are not used")
    if moments.shared:
        found.append(
            f"{moments.shared}: land all files at once, as below; a file that comes alone replaces its whole periods"
        )
    (to_come,) = connection.execute(
        f"SELECT count({identifier(label.name)}) FROM {TIMED} WHERE moment > $limit", {"limit": latest(zone)}
    ).fetchone() or (0,)
    if to_come and moments.form != "order":
        found.append(
            f"{to_come} rows have a {label.name} at a time that is still to come, up to {moments.last}, and will be rejected; "
            + ("give an earlier --start" if moments.start else "correct their times")
        )
    names = identifiers(column.name for column in looked.columns)
    (again,) = connection.execute(f"SELECT count(*) - count(DISTINCT ({names})) FROM {TABLE}").fetchone() or (0,)
    if again:
        many = f"{again} rows ({again / looked.rows:.1%}) repeat" if again > 1 else "1 row repeats"
        found.append(f"{many} another row in every column")
    return found


def _unseen(connection: DuckDBPyConnection, column: Column, moments: Moments) -> str | None:
    """Return a warning of values that only the newest part has."""
    if column.form != "text":
        return None
    name = identifier(column.name)
    values = connection.execute(
        f"SELECT {name}, count(*) FROM {TIMED} WHERE {name} IS NOT NULL GROUP BY 1 HAVING min(moment) > $since ORDER BY 2 DESC",
        {"since": moments.last - moments.judge},
    ).fetchall()
    if not values:
        return None
    rows = sum(count for _, count in values)
    shown = ", ".join(_shown(value) for value, _ in values[:3])
    more = f" and {len(values) - 3} more" if len(values) > 3 else ""
    return f"{column.name}: {shown}{more} ({rows} rows) come in the newest part alone; the model answers as for a missing value"


def _shown(value: object) -> str:
    return repr(str(value)[:40])
