"""DuckDB in memory: how it is opened, and where it lays what does not fit into memory."""

from __future__ import annotations

import os
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.steps.files import scratch_folder

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def connect(home: Path | None = None, **options: Any) -> DuckDBPyConnection:
    """Open a database in memory that works in UTC, and lays what memory cannot hold into a folder of its own in a home.

    DuckDB numbers those files from 0: two databases with one folder, its default too, write into each other's files, and
    rows come back wrong or not at all (duckdb issue 15173). It makes the folder when it needs it and removes it at the end.
    Without ``home`` it is that of this process's environment, else the system's folder for such things.
    """
    import duckdb

    place = Path(tempfile.gettempdir())
    known = home or Path(os.environ.get("EVERGREEN_HOME") or place)
    with suppress(OSError):  # a home that cannot be written to can be read all the same
        place = scratch_folder(known) if home or known.is_dir() else place
    connection = duckdb.connect(config={"temp_directory": str(place / f"duckdb-{uuid.uuid4().hex}"), **options})
    connection.execute("SET TimeZone = 'UTC'")
    return connection
