"""When the rows of a table happened: a time column, a date and an hour, an ordinal, or the order of the rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from flows.errors import UsageError
from flows.spec import Frozen
from flows.steps.event_rows import ZONED
from flows.steps.new.table import TABLE, Column, Looked
from flows.steps.new.wanted import Ask, Wanted, parse_moment, parse_names, parse_span, span_text
from flows.steps.periods import Kind, period_of
from flows.steps.raw_types import local_time
from flows.steps.sql import identifier, literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

NONE = "none"
HOURS = range(24)
YEARS = 1800, 2200  # between which whole numbers are taken for those of years
EPOCH_YEARS = (20, 130)  # after 1970, between which a number is a time and no count
MISSING = 0.05  # share of rows without a time that can be done without
WEEK, DAY, HOUR = timedelta(days=7), timedelta(days=1), timedelta(hours=1)
# From which span on ticks are days: a file holds one at least, and of hours training would know a fresher past.
DAILY = 10 * DAY
ENOUGH = 500  # rows that make a partition worth a judgement of its own, and weeks enough to judge by
FEW = 200  # rows below which as long a part as can be judges
STANDING = 20  # what part of a usual period's rows makes one of its own
TIMED = "timed"  # the table with the column ``moment``


class Moments(Frozen):
    """How time is told: ``columns`` that hold it, ``sql`` of a row's local time, and what the times are like."""

    columns: tuple[str, ...]
    form: str  # "time", "date", "instant", "date and hour", "ordinal" or "order"
    sql: str
    start: datetime | None = None
    every: timedelta | None = None
    first: datetime
    last: datetime
    missing: int
    backwards: int
    within_days: bool  # whether rows tell more than their day
    tick: timedelta
    judge: timedelta
    judge_rows: int
    partition_by: Kind
    partition_rows: int
    shared: str = ""  # which files hold rows of one period whichever the kind, if some do


def find(connection: DuckDBPyConnection, looked: Looked, wanted: Wanted, ask: Ask) -> Moments:
    """Return how time is told in the table ``looked_at``, and leave it in the table ``timed`` with each row's ``moment``."""
    names = _names(looked, wanted, ask)
    columns = [looked.column(name) for name in names]
    start, every = wanted.start, wanted.every
    if not columns or columns[0].form == "whole":
        if columns:
            _check_count(columns[0])
        what = f"{columns[0].name} counts the rows" if columns else "The order of the rows stands for their time"
        start = start or parse_moment(ask(f"{what}: at what time does it start?", "--start 2024-01-01"))
        every = every or parse_span(ask(f"{what}: how much time lies between two?", "--every 30min"))
        number = identifier(names[0]) if names else "rowid"
        # Microseconds, so that a number of any size is an error here and not another time.
        sql = f"(TIMESTAMP '{start.isoformat(sep=' ')}' + to_microseconds({number} * {every // timedelta(microseconds=1)}))"
        return _measure(connection, looked, names, "ordinal" if names else "order", sql, start, every)
    if start or every:
        raise UsageError(f"{names[0]} is a time: --start and --every are for a column that counts, or none")
    if columns[0].form != "time":
        raise UsageError(f"{names[0]} holds {_no_time(connection, names[0])}, or name another column with --time")
    moment = f"CAST({identifier(names[0])} AS TIMESTAMP)"
    if len(columns) == 1:
        hour = _hour_of(connection, looked, columns[0], wanted)
        columns, names = ([*columns, hour], (*names, hour.name)) if hour else (columns, names)
    if len(columns) > 1:
        _check_hour(columns[1])
        sql = f"({moment} + to_hours(CAST({identifier(names[1])} AS INTEGER)))"
        return _measure(connection, looked, names, "date and hour", sql)
    kind = columns[0].kind
    if kind == ZONED:
        moment = f"timezone({literal(wanted.zone)}, {identifier(names[0])})"
    form = "instant" if kind == ZONED else "date" if kind == "DATE" else "time"
    return _measure(connection, looked, names, form, moment)


def _names(looked: Looked, wanted: Wanted, ask: Ask) -> tuple[str, ...]:
    """Return the columns that tell the time, none for the order of the rows."""
    names = wanted.time
    if names is None and (wanted.start or wanted.every):
        names = ()
    if names is None:
        times = [column.name for column in looked.columns if column.form == "time" and column.name not in wanted.drop]
        if len(times) == 1:
            names = (times[0],)
        else:
            found = f"it has {len(times)}: {', '.join(times)[:200]}" if times else "no column holds times"
            question = (
                f"Which column says when a row happened ({found})? "
                "A date and an hour are two, DATE,HOUR; a column may count instead; 'none' takes the order of the rows."
            )
            told = parse_names(ask(question, "--time COLUMN, or --start and --every for the order of the rows"))
            names = tuple(looked.named(name) for name in told)
    if len(names) > 2:
        raise UsageError("--time takes one column, or two: a date and the hour of the day")
    return () if names == (NONE,) and NONE not in {column.name for column in looked.columns} else names


def _no_time(connection: DuckDBPyConnection, name: str) -> str:
    """Return the first value of a column that is no time, or names no zone where others do, its row, what is wrong, a mend."""
    text = f"CAST({identifier(name)} AS VARCHAR)"
    value, row, time, local = connection.execute(
        f"SELECT {text}, rowid + 1, TRY_CAST({text} AS TIMESTAMPTZ) IS NOT NULL AS time, bool_and({local_time(text)}) OVER () "
        f"FROM {TABLE} WHERE {identifier(name)} IS NOT NULL ORDER BY time, {local_time(text)} DESC, rowid LIMIT 1"
    ).fetchone() or ("nothing", 1, False, False)
    if time and local:  # of a parquet file: in a CSV file such a column is one of times
        return (
            f"{value[:40]!r} in row {row}, which is a text in this file; store the column as times (pandas.to_datetime)"
        )
    wrong = "names no zone, as others do" if time else "is no time"
    return f"{value[:40]!r} in row {row}, which {wrong}; write times as 2024-01-31 08:30:00"


def _hour_of(connection: DuckDBPyConnection, looked: Looked, day: Column, wanted: Wanted) -> Column | None:
    """Return the column that tells the hour where the times are whole days: whole numbers 0 to 23 that part the rows."""
    time = identifier(day.name)
    (within,) = connection.execute(
        f"SELECT coalesce(bool_or(CAST({time} AS TIMESTAMP) <> date_trunc('day', CAST({time} AS TIMESTAMP))), false) "
        f"FROM {TABLE}"
    ).fetchone() or (False,)
    if within:
        return None
    others = "".join(f", {identifier(name)}" for name in wanted.entity or ())
    for column in looked.columns:
        if column.form == "whole" and column.values and set(column.values) <= set(HOURS) and len(column.values) > 12:
            (plain, parted) = connection.execute(
                f"SELECT count(DISTINCT ({time}{others})), count(DISTINCT ({time}, {identifier(column.name)}{others})) "
                f"FROM {TABLE}"
            ).fetchone() or (0, 0)
            if plain < 0.5 * looked.rows and parted >= 0.98 * looked.rows:
                return column
    return None


def _check_count(column: Column) -> None:
    """Raise UsageError for a column that does not count the rows, but time since 1970, or holds years."""
    if YEARS[0] <= int(column.low or 0) and int(column.high or 0) <= YEARS[1]:
        raise UsageError(
            f"{column.name} seems to hold years ({column.low} to {column.high}); write each as its first day, such as "
            f"{column.high}-01-01, or name another column with --time"
        )
    for unit, size in (("seconds", 1), ("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9)):
        low, high = (years * 31_556_952 * size for years in EPOCH_YEARS)
        if low <= int(column.low or 0) and int(column.high or 0) <= high:
            raise UsageError(
                f"{column.name} seems to hold {unit} since 1970; write times as 2024-01-31 08:30:00, or name another "
                "column with --time"
            )


def _check_hour(column: Column) -> None:
    if column.form != "whole" or not column.values or not set(column.values) <= set(HOURS):
        raise UsageError(f"{column.name} is no hour of the day: it must hold whole numbers from 0 to 23")


def _measure(
    connection: DuckDBPyConnection, looked: Looked, names: tuple[str, ...], form: str, sql: str,
    start: datetime | None = None, every: timedelta | None = None,
) -> Moments:  # fmt: skip
    """Return the moments with all that is measured on them."""
    import duckdb

    try:
        connection.execute(f"CREATE OR REPLACE TABLE {TIMED} AS SELECT *, {sql} AS moment FROM {TABLE}")
    except duckdb.Error as error:
        raise UsageError(
            f"the times cannot be made ({str(error).splitlines()[0]}); correct --start and --every"
        ) from error
    first, last, missing, within = connection.execute(
        f"SELECT min(moment) FILTER (isfinite(moment)), max(moment) FILTER (isfinite(moment)), "
        f"count(*) FILTER (moment IS NULL OR NOT isfinite(moment)), "
        f"coalesce(bool_or(moment <> date_trunc('day', moment)), false) FROM {TIMED}"
    ).fetchone() or (None, None, 0, False)
    where = " and ".join(names) or "the order of the rows"
    if first is None or missing > MISSING * looked.rows:
        raise UsageError(f"{where}: {missing} of {looked.rows} rows have no time; name another column with --time")
    (backwards,) = connection.execute(
        f"SELECT count(*) FILTER (up < 0) FROM (SELECT epoch_us(moment) - lag(epoch_us(moment)) OVER (ORDER BY rowid) AS up "
        f"FROM {TIMED})"
    ).fetchone() or (0,)
    span = last - first
    tick = DAY if span >= DAILY else HOUR
    if span < 20 * HOUR:
        raise UsageError(
            f"{where}: the rows span {span_text(span)}, and a model needs 20 hours at least to learn from and be judged on; "
            + ("give a longer --every" if every else "name a table with a longer past")
        )
    # Where the order of the rows is their time, all files are one: none can be landed by itself.
    kind, rows, shared = _partitions(connection, looked.files if form != "order" else ())
    *weeks, usual, judge = judge_lengths(first, last, tick)
    for length in (*weeks, usual):
        if judged_rows(connection, last, length) >= (FEW if length == usual else ENOUGH):
            judge = length
            break
    return Moments(
        columns=names, form=form, sql=sql, start=start, every=every, first=first, last=last, missing=missing,
        backwards=backwards, within_days=within, tick=tick, judge=judge, judge_rows=judged_rows(connection, last, judge),
        partition_by=kind, partition_rows=rows, shared=shared,
    )  # fmt: skip


def judge_lengths(first: datetime, last: datetime, tick: timedelta) -> list[timedelta]:
    """Return how long the newest part, which judges, may be, the shortest first: whole weeks, the usual and the longest.

    The days that judge never train, so they are few where those hold rows enough, but hold each day of the week. Beside the
    longest the rest must still be enough to learn from.
    """
    usual, longest = (
        max(tick, min(most, round((last - first) / part / tick) * tick))
        for most, part in ((28 * DAY, 10), (90 * DAY, 5))
    )
    return [*(weeks * WEEK for weeks in (1, 2, 3) if weeks * WEEK < usual), usual, longest]


def judged_rows(connection: DuckDBPyConnection, last: datetime, length: timedelta) -> int:
    """Return how many rows the newest part of a length has."""
    query = f"SELECT count(*) FROM {TIMED} WHERE moment > $since"
    return int((connection.execute(query, {"since": last - length}).fetchone() or (0,))[0])


def _partitions(connection: DuckDBPyConnection, files: tuple[tuple[str, int], ...]) -> tuple[Kind, int, str]:
    """Return by which periods to land, the rows that one usually has, and which files share one all the same.

    A file replaces its whole periods, so those are chosen of which no two files hold a part, if there are such.
    """
    days: list[tuple[date, int, int]] = connection.execute(
        f"SELECT CAST(moment AS DATE), start, count(*) FROM (SELECT moment, rowid AS number FROM {TIMED}) "
        "ASOF JOIN (SELECT unnest($starts::BIGINT[]) AS start) ON number >= start WHERE isfinite(moment) GROUP BY ALL",
        {"starts": sorted({start for _, start in files} | {0})},
    ).fetchall()
    usual: dict[Kind, tuple[int, int]] = {}
    shared: dict[Kind, tuple[date, list[int]] | None] = {}
    kinds: tuple[Kind, ...] = ("day", "week", "month")
    for kind in kinds:
        counts: Counter[date] = Counter()
        parts: dict[date, Counter[int]] = defaultdict(Counter)
        for day, start, rows in days:
            counts[period_of(kind, day).start] += rows
            parts[period_of(kind, day).start][start] += rows
        usual[kind] = len(counts), sorted(counts.values())[len(counts) // 2]
        # Fewer rows are strays, which landing gives to the period beside.
        least = max(1, usual[kind][1] // STANDING)
        several = {day: [start for start, rows in sorted(of.items()) if rows >= least] for day, of in parts.items()}
        shared[kind] = next(((day, found) for day, found in sorted(several.items()) if len(found) > 1), None)
    fitting = [kind for kind in kinds if not shared[kind]] or list(kinds)
    good = [kind for kind in fitting if 6 <= usual[kind][0] <= 400 and usual[kind][1] >= ENOUGH]
    each = [kind for kind in fitting if len(files) > 1 and usual[kind][0] == len(files)]  # one file, one period
    many = [kind for kind in fitting if usual[kind][0] >= 6]
    kind = (good or each or many[-1:] or fitting[:1])[0]
    clash = shared[kind]
    if not clash:
        return kind, usual[kind][1], ""
    names = {start: name for name, start in files}
    told = " and ".join(names[start] for start in clash[1][:2])
    return kind, usual[kind][1], f"{told} both hold rows of {period_of(kind, clash[0]).key}"
