"""What a person wants of a new model, as told in options or answers; a question that nobody answers is an error."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal

from flows.errors import ContractError, UsageError
from flows.spec import Frozen
from flows.steps.periods import offset_of

Task = Literal["regression", "binary", "multiclass"]
UNITS = {"s": "seconds", "min": "minutes", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

Ask = Callable[[str, str], str]  # question and the option that answers it -> answer


class Wanted(Frozen):
    """The options of ``evergreen new``; None is what was not said."""

    name: str
    data: str
    time: tuple[str, ...] | None = None
    label: str | None = None
    entity: tuple[str, ...] | None = None
    key: tuple[str, ...] = ()
    task: Task | None = None
    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    start: datetime | None = None
    every: timedelta | None = None
    delay: timedelta | None = None
    zone: str = "UTC"


def refuse(question: str, option: str) -> str:
    """Answer no question: where nobody can be asked, say which option to give."""
    raise UsageError(f"{question} Give {option}")


def parse_names(text: str) -> tuple[str, ...]:
    """Return names from a list with commas; a name that has a comma stands in double quotes."""
    row = next(csv.reader([text], skipinitialspace=True), [])
    return tuple(dict.fromkeys(name.strip() for name in row if name.strip()))


def parse_span(text: str) -> timedelta:
    """Return a length of time such as ``30min``, ``1h`` or ``2d``; raises UsageError."""
    found = re.fullmatch(r"\s*(\d{1,6}(?:\.\d{1,6})?)\s*(s|min|m|h|d|w)\s*", text)
    length = timedelta(**{UNITS[found[2]]: float(found[1])}) if found else timedelta(0)
    if not timedelta(0) < length < timedelta(days=3660):
        raise UsageError(f"{text[:40]!r} is no length of time; write it as 30min, 1h, 1d or 1w")
    return length


def span_text(span: timedelta) -> str:
    """Return a length of time in words, such as ``3 days 16 hours``."""
    minutes = round(span.total_seconds() / 60)
    parts = ((minutes // 1440, "day"), (minutes // 60 % 24, "hour"), (minutes % 60, "minute"))
    words = [f"{number} {name}{'s' if number != 1 else ''}" for number, name in parts if number]
    return " ".join(words) or f"{span.total_seconds():g} seconds"


def parse_moment(text: str) -> datetime:
    """Return a local time such as ``2024-01-01`` or ``2024-01-01T08:30``; raises UsageError."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(f"{text[:40]!r} is no time; write it as 2024-01-01 or 2024-01-01T08:30") from None
    if moment.tzinfo or not 1971 <= moment.year <= 2199:
        raise UsageError(f"{text[:40]!r} must be a time without zone in the years 1971 to 2199")
    return moment


def parse_zone(text: str) -> str:
    """Return the name of a time zone; raises UsageError for one that is not known."""
    try:
        offset_of(text)
    except ContractError as error:
        raise UsageError(f"--zone {text[:40]!r} is not known; give an IANA name such as Europe/Berlin") from error
    return text


def parse_task(text: str) -> Task:
    """Return the task that was named; raises UsageError for another word."""
    for task in ("regression", "binary", "multiclass"):
        if text.strip() == task:
            return task
    raise UsageError(f"task {text[:40]!r} is not known; use regression, binary or multiclass")
