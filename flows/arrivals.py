"""What lies in a landing folder and nobody has taken yet: files known by path, size and time of change, kept in the ledger."""

from __future__ import annotations

import time
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from flows.database import arrivals, now, write
from flows.spec import Frozen
from flows.steps.sources import SUFFIXES, is_data, is_text

LATELY_SECONDS = 2.0  # since its last change, within which a file may be one that is being written
PAUSE_SECONDS = 1.0


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
    found = (_state(path) for path in _shown(folder) if is_data(path.name) and is_text(str(path)))
    return [one for one in found if one is not None]


def whole(found: list[Arrival]) -> list[Arrival]:
    """Return those of some files that nobody writes to: they changed neither lately nor while this waits for a second."""
    lately = {one for one in found if abs(time.time() - one.modified_ns / 1e9) < LATELY_SECONDS}
    if lately:
        time.sleep(PAUSE_SECONDS)
    return [one for one in found if one not in lately or _state(Path(one.path)) == one]


def foreign(folder: Path) -> list[str]:
    """Return the names of files that nobody will take, because they do not end as data does."""
    return [path.name for path in _shown(folder) if not path.name.lower().endswith(SUFFIXES) and _state(path)]


def unnamed(folder: Path) -> list[str]:
    """Return the paths of files that nobody will take, because a name of theirs is no text: no database can hold it."""
    return [str(path) for path in _shown(folder) if not is_text(str(path)) and _state(path)]


def _state(path: Path) -> Arrival | None:
    """Return a file as it is; None if it is no file, is gone, or may not be looked at."""
    try:
        state = path.stat() if path.is_file() else None
    except OSError:
        return None
    return state and Arrival.model_construct(path=str(path), size=state.st_size, modified_ns=state.st_mtime_ns)


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
