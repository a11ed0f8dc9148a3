"""The pages that Evergreen writes: one look, light and dark, each file whole in itself, so that it is right offline."""

from __future__ import annotations

import base64
import math
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.database import now
from flows.steps.files import write_text

if TYPE_CHECKING:
    from jinja2 import Environment


def write(path: Path, template: str, **values: Any) -> Path:
    """Write the page of a template, atomically, and return its path."""
    return write_text(path, environment().get_template(template).render(written=now(), **values))


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Return the environment of the templates: everything escaped, nothing undefined passed over."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = number
    made.filters["three_digits"] = three_digits
    made.filters["money"] = money
    made.filters["share"] = share
    made.filters["time"] = moment
    made.filters["span"] = span
    made.filters["filename"] = lambda path: Path(path).name if path else ""
    return made


def picture(path: Path) -> str:
    """Return a PNG file as a text that an image can show; empty if it is not there."""
    return embedded(path.read_bytes()) if path.is_file() else ""


def embedded(png: bytes) -> str:
    """Return a picture as a text that an image can show."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def three_digits(value: float) -> str:
    """Return a figure with three digits, all before the point from a thousand on; a dash where there is none."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".removesuffix(".")


def money(value: float) -> str:
    """Return a cost as people write one: three digits, all before the point from a hundred on, millions from ten of them."""
    for size, unit in ((1e9, "bn"), (1e6, "M")):
        if abs(value) >= 10 * size:
            return f"{value / size:,.1f} {unit}"
    return f"{value:,.0f}" if abs(value) >= 99.95 or not value else three_digits(value)


def share(value: float | None) -> str:
    """Return a share as a percentage; nothing where there is none."""
    return "" if value is None else f"{value:.1%}"


def number(value: Any) -> str:
    """Return a figure for people: thousands apart, four digits that count; times without their zeros."""
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return str(value).replace("T", " ").removesuffix(" 00:00:00")
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def moment(value: datetime | None) -> str:
    """Return a time for people, to the minute."""
    return f"{value:%Y-%m-%d %H:%M} UTC" if value else "-"


def span(value: timedelta | None) -> str:
    """Return a length of time for people: days, hours, minutes or seconds, whichever is the largest that fits."""
    if value is None:
        return "-"
    seconds = value.total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
