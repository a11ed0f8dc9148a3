"""What lies in a landing folder and nobody has taken yet: files known by path, size and time of change, kept in the ledger."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from flows.database import arrivals, now, write
from flows.spec import Frozen
from flows.steps.sources import SUFFIXES, is_data


class Arrival(Frozen):
    """A file as it was when it was looked at; ``modified_ns`` in nanoseconds since 1970."""

    path: str
    size: int
    modified_ns: int


def untaken(engine: Engine, model: str, folder: Path) -> list[Arrival]:
    """Return the files of a landing folder, its subfolders included, that are new or have changed since they were taken."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(arrivals).where(arrivals.c.model == model)).mappings().all()
    known = {(row["path"], row["size"], row["modified_ns"]) for row in rows}
    return [one for one in look(folder) if (one.path, one.size, one.modified_ns) not in known]


def look(folder: Path) -> list[Arrival]:
    """Return the files of data that lie in a folder, in the order of their paths; none if there is no such folder.

    Hidden files, those of tools and those under other endings than data has are left alone: whoever writes slowly can
    write there and rename at the end.
    """
    found = []
    for path in _shown(folder):
        try:
            if not (is_data(path.name) and path.is_file()):
                continue
            state = path.stat()
        except FileNotFoundError:  # gone since it was listed
            continue
        found.append(Arrival(path=str(path), size=state.st_size, modified_ns=state.st_mtime_ns))
    return found


def foreign(folder: Path) -> list[str]:
    """Return the names of files that nobody will take, because they do not end as data does."""
    return [path.name for path in _shown(folder) if not path.name.lower().endswith(SUFFIXES) and path.is_file()]


def _shown(folder: Path) -> list[Path]:
    """Return what lies in a folder and below, without what is hidden or of tools."""
    found = sorted(folder.rglob("*"))
    return [path for path in found if not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)]


def take(engine: Engine, model: str, arrival: Arrival) -> None:
    """Record that a file was ingested as it was when it was looked at; one that changed since then is new again."""
    mine = sa.and_(arrivals.c.model == model, arrivals.c.path == arrival.path)
    values = {"size": arrival.size, "modified_ns": arrival.modified_ns, "taken_at": now()}
    with write(engine) as connection:
        if not connection.execute(arrivals.update().where(mine).values(values)).rowcount:
            connection.execute(arrivals.insert().values(model=model, path=arrival.path, **values))
