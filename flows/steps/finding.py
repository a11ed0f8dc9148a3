"""What the doctor found of one part."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """What was found of a part: ``good``, ``warning`` (it works, but not for long or not safely) or ``bad``; how to mend it."""

    part: str
    state: Literal["good", "warning", "bad"]
    found: str
    mend: str = ""
