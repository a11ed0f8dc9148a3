"""Which columns of a table may be features, under which names, and which must be left out, and why."""

from __future__ import annotations

import math
import re
from keyword import iskeyword
from typing import TYPE_CHECKING, Any

from flows.errors import UsageError
from flows.spec import Frozen
from flows.steps.contract import INDEX
from flows.steps.event_rows import ADDED, DAY, FLOATS, LABEL_TIME, ROW
from flows.steps.new.draft import Given
from flows.steps.new.leaks import Leak, find
from flows.steps.new.moments import TIMED, Moments
from flows.steps.new.table import FEW, Column, Looked, plain, sample
from flows.steps.new.wanted import Wanted
from flows.steps.prediction_hours import COLUMNS as LOGGED
from flows.steps.sql import identifier
from flows.steps.windows import TICK

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
RESERVED = {
    *ADDED, DAY, LABEL_TIME, ROW, TICK, *LOGGED, "created_timestamp", "part", "state", "features", "rows", "reason",
    "self", "exprs", "time_hour", "time_weekday", "time_month",
}  # fmt: skip
IDS = re.compile(
    r"(^|_|\b)(id|ids|uuid|guid|index|key|nr|no|number|instant|rownum)($|_|\b)|unnamed|^column\d+$|[a-z]Id$",
    re.IGNORECASE,
)
EMPTY = 0.9  # share of missing values from which a column is no feature


class Left(Frozen):
    """A column that is left out, and why; a warning if the person should know."""

    name: str
    why: str
    warning: bool = True


def names_of(columns: list[str], flags: frozenset[str] = frozenset()) -> dict[str, str]:
    """Return the name of each column in requests and features: its own if that is plain and free, else a plain one.

    A flag, which is turned into 1 and 0, gets another name than its own: the file's column keeps its type.
    """
    taken: set[str] = set()
    found: dict[str, str] = {}
    for raw in sorted(columns, key=lambda name: not PLAIN.fullmatch(name)):
        name = raw if PLAIN.fullmatch(raw) and "__" not in raw and len(raw) <= 40 else plain(raw)[:40].rstrip("_")
        if name.lower() in RESERVED or iskeyword(name) or name.startswith("given_"):
            name = f"value_of_{name}"
        name = f"{name}_flag" if raw in flags else name
        free, number = name, 2
        # A copy of a column under a plain name must not meet another column of the table, which DuckDB compares so.
        others = {one.lower() for one in columns if one != raw}
        while free.lower() in taken or (free != raw and free.lower() in others):
            free, number = f"{name}_{number}", number + 1
        taken.add(free.lower())
        found[raw] = free
    return found


def free_name(name: str, named: dict[str, str]) -> str:
    """Return a name like this one that neither a column of the table nor a field has."""
    taken = {*(one.lower() for one in named), *(one.lower() for one in named.values())}
    while name in taken:
        name = f"event_{name}"
    return name


def sort_out(
    connection: DuckDBPyConnection, looked: Looked, moments: Moments, label: str, numbers: bool, wanted: Wanted
) -> tuple[list[Column], list[Left], list[Leak]]:
    """Return the columns that may be features, those left out with their reasons, and what gives the label away."""
    for name in (*wanted.drop, *wanted.keep, *wanted.key, *(wanted.entity or ())):
        looked.column(name)
    entities = set(wanted.entity or ())
    clash = sorted({*entities, *wanted.key} & {label, *wanted.drop})
    if clash:
        raise UsageError(f"{', '.join(clash)} cannot be an entity or key and the label or dropped; name other columns")
    left: list[Left] = []
    rest: list[Column] = []
    for column in looked.columns:
        if column.name == label or column.name in moments.columns:
            continue
        why = _unfit(column, looked.rows, column.name in entities)
        if column.name in wanted.drop:
            left.append(Left(name=column.name, why="dropped, as told", warning=False))
        elif why and (column.name not in wanted.keep or column.form in ("time", "other")):
            if column.name in wanted.key and column.form in ("whole", "text"):
                continue  # it names the row, and is no feature
            left.append(Left(name=column.name, why=why))
        else:
            rest.append(column)
    frame = sample(connection, [label, *(column.name for column in rest)], looked.rows)
    leaks = find(frame, label, [column.name for column in rest if column.name not in entities], numbers)
    told = {name: leak.text for leak in leaks if leak.certain for name in leak.columns if name not in wanted.keep}
    left += [Left(name=name, why=f"gives the label away: {text}") for name, text in told.items()]
    return [column for column in rest if column.name not in told], left, leaks


def _unfit(column: Column, rows: int, entity: bool) -> str | None:
    """Return why a column is no feature, None if it may be one."""
    known = rows - column.nulls
    if column.form == "other":
        return f"holds {column.kind}, which is no number, text or time"
    if entity:
        if column.form not in ("whole", "text"):
            raise UsageError(f"{column.name} holds {column.kind}; an entity is a whole number or a text")
        return None
    if INDEX.fullmatch(column.name) and (column.form == "whole" or column.name.startswith("__")):
        return "is the index of a data frame"
    if column.form == "time":
        return "is another time, of which nobody knows whether it comes before the label"
    if column.nulls > EMPTY * rows:
        return f"is missing in {column.nulls / rows:.0%} of the rows"
    if column.distinct <= 1:
        return "is constant"
    if column.nearly:
        return column.nearly
    if column.form == "text" and column.distinct > 0.9 * known:
        return "is an id: nearly each row has its own text"
    if column.form == "whole" and column.distinct == known and (column.ascending or IDS.search(column.name)):
        return "is an id: each row has its own number"
    if column.form == "whole" and column.distinct > 0.5 * known and IDS.search(column.name):
        return "is an id by its name and its many values"
    if column.form == "text" and column.distinct > FEW:
        return f"has {column.distinct} texts, too many for a category; as an --entity it has a past of its own"
    return None


def given_of(
    connection: DuckDBPyConnection, looked: Looked, column: Column, name: str, wanted: Wanted, feature: str | None
) -> Given:
    """Return a column as a field of the request."""
    known = 1 - column.nulls / looked.rows
    value = identifier(column.name)
    known_one = f"isfinite({value})" if column.kind in FLOATS else f"{value} IS NOT NULL"
    query = f"SELECT last({value} ORDER BY moment) FILTER ({known_one}) FROM {TIMED}"
    example: Any = (connection.execute(query).fetchone() or (None,))[0]
    common: dict[str, Any] = {
        "name": name, "raw": column.name, "flag": column.form == "flag", "feature": feature, "known": known,
        "required": not column.nulls or column.name in (wanted.entity or ()),
    }  # fmt: skip
    if column.form == "text":
        seen = tuple(map(str, column.values)) if 0 < len(column.values) <= 30 else ()
        return Given(type="string", example=str(example)[:200], seen=seen, **common)
    if column.form == "flag":
        return Given(type="int", example=int(example), low=0, high=1, **common)
    if feature is None and column.name in (*wanted.key, *(wanted.entity or ())):
        # The numbers are names: those that are new lie anywhere.
        return Given(type="int", example=int(example), **common)
    low, high = bounds(float(column.low), float(column.high)) if column.low is not None else (None, None)
    if column.form == "whole":
        return Given(type="int", example=int(example), low=low, high=high, **common)
    return Given(type="float", example=float(f"{float(example):.6g}"), low=low, high=high, **common)


def bounds(low: float, high: float, room: float = 0.0) -> tuple[float, float]:
    """Return bounds with room around what was seen: its whole range again on both sides, and none below zero by itself.

    The room may be asked to be larger.
    """
    room = max(high - low, room) or max(abs(high), 1.0)
    return _rounded(0.0 if low >= 0 else low - room, down=True), _rounded(high + room, down=False)


def _rounded(value: float, down: bool) -> float:
    """Return a number of two digits beside a value, away from what lies inside."""
    if value == 0 or not math.isfinite(value):
        return value
    digit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    whole = math.floor(value / digit) if down else math.ceil(value / digit)
    return float(f"{whole * digit:.6g}")
