"""Places, such as staging and prod: the settings of each, by its name (a file in environments/) or by the folder of its home."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from deployments.deploy import ENVIRONMENTS
from flows.errors import UsageError
from flows.settings import SERVERS, Settings

PREFIX = "EVERGREEN_"


def variables(place: str) -> dict[str, str]:
    """Return the variables of a place, those of the process filled in where its file says ``${NAME:-default}``.

    Raises UsageError if there is neither such a file nor such a folder.
    """
    from dotenv import dotenv_values

    file = ENVIRONMENTS / f"{place}.env"
    if place.isidentifier() and file.exists():
        return {name: value for name, value in dotenv_values(file).items() if value}
    if Path(place).is_dir():
        return {"EVERGREEN_HOME": str(Path(place).resolve())}
    known = ", ".join(sorted(one.stem for one in ENVIRONMENTS.glob("*.env")))
    raise UsageError(f"{place!r} is neither a place ({known}) nor the folder of a home")


def settings_of(place: str) -> Settings:
    """Return the settings of a place; a server that it does not name is none, all else is as in this process."""
    named = {
        name.removeprefix(PREFIX).lower(): value for name, value in variables(place).items() if name.startswith(PREFIX)
    }
    values: dict[str, Any] = {"profile": "local"} | dict.fromkeys(SERVERS, "") | named
    return Settings(**values)


def enter(place: str) -> Settings:
    """Make a place that of this process and of its children, and return its settings."""
    settings = settings_of(place)
    # Said also where there is none: this process may be one of another place.
    own = {f"{PREFIX}{name.upper()}": getattr(settings, name) for name in ("profile", *SERVERS)}
    os.environ.update(variables(place) | own)
    return settings.activate()
