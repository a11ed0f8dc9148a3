"""The file of the SQLite online store: whether it is damaged, and its removal, so that it is written anew."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from flows.settings import Settings


def path_of(settings: Settings) -> Path:
    """Return where the SQLite online store is."""
    return settings.home / "feast" / "online.db"


def damage(settings: Settings) -> str | None:
    """Return what is wrong with the file, None if nothing is, there is none, or the store is on a server.

    Raises sqlite3.OperationalError if it cannot be looked at: its disk is full, or somebody holds it.
    """
    path = path_of(settings)
    if settings.online_store_url or not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if said == "ok" else str(said)


def remove_damaged(settings: Settings) -> None:
    """Remove a damaged file with what SQLite keeps beside it; services open the new one as soon as it is there."""
    if damage(settings) is None:
        return
    for ending in ("", "-wal", "-shm"):
        Path(f"{path_of(settings)}{ending}").unlink(missing_ok=True)
