"""Backup and restore of a home: its SQLite databases as they are at one moment, its files, and the hash of each."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sqlite3
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.errors import RefusedError, TamperedError, UsageError
from flows.secret import shown
from flows.settings import Settings
from flows.steps.files import replacing
from flows.steps.sql import identifier

MANIFEST = "backup.json"
# The ledger first and its files last: whatever a row names is there before the row is written, so it is in the backup.
DATABASES = ("ledger.db", "mlflow.db", "feast/registry.db", "feast/online.db", "prefect/prefect.db")
LEFT_FOLDERS = frozenset({"cache", "tmp", "stages"})  # made again when needed
LEFT_SUFFIXES = frozenset({".lock", ".tmp", ".log", ".pid"})


def backup(settings: Settings, target: Path) -> dict[str, Any]:
    """Write a home into one tar file, gzipped if its name ends in ``gz``; what runs on the home may go on meanwhile.

    Raises UsageError if there is nothing to keep, or if a part is on a server, which has a tool of its own.
    """
    _refuse_servers(settings)
    if not (settings.home / "ledger.db").exists():
        raise UsageError(f"{settings.home} holds no ledger, so there is nothing to back up; name the home with --home")
    hashes: dict[str, str] = {}
    target = target.expanduser().resolve()
    with (
        tempfile.TemporaryDirectory(prefix="evergreen-backup-") as folder,
        replacing(target) as temporary,
        tarfile.open(temporary, "w:gz" if target.name.endswith("gz") else "w") as archive,
    ):
        for name in DATABASES:
            if (settings.home / name).exists():
                copy = Path(folder) / Path(name).name
                _copy_database(settings.home / name, copy)
                hashes[name] = _add(archive, copy, name)
        # What took another's place meanwhile, as a folded journal's parquet does, is in a later list alone.
        while new := [(path, name) for path, name in _files(settings.home, target) if name not in hashes]:
            for path, name in new:
                with suppress(FileNotFoundError):  # gone since it was listed: replaced, or no longer needed
                    hashes[name] = _add(archive, path, name)
        made = {"home": str(settings.home), "at": datetime.now(UTC).isoformat(), "files": hashes}
        content = json.dumps(made, indent=1).encode()
        entry = tarfile.TarInfo(MANIFEST)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return {"file": str(target), "bytes": target.stat().st_size, "files": len(hashes), "home": str(settings.home)}


def restore(settings: Settings, source: Path) -> dict[str, Any]:
    """Make a home from a backup, whole or not at all; at another place its databases are told of it.

    Raises UsageError if there is no such backup, RefusedError if the home is not empty, TamperedError if a file in the
    backup is not what was put there.
    """
    _refuse_servers(settings)
    home = settings.home
    if home.exists() and any(home.iterdir()):
        raise RefusedError(f"{home} is not empty; restore into a new folder, named with --home, and nothing is lost")
    home.parent.mkdir(parents=True, exist_ok=True)
    folder = home.parent / f".{home.name}.{uuid.uuid4().hex[:8]}.tmp"
    folder.mkdir()  # open to whom this user lets read
    try:
        try:
            with tarfile.open(source) as archive:
                archive.extractall(folder, filter="data")  # links, devices and paths that lead out are refused
            made = json.loads((folder / MANIFEST).read_bytes())
            hashes: dict[str, str] = made["files"]
            origin: str = made["home"]
        except (OSError, EOFError, ValueError, KeyError, tarfile.TarError) as error:
            raise UsageError(f"{source} is not a whole backup ({type(error).__name__}); name another file") from error
        (folder / MANIFEST).unlink()
        _check(folder, hashes, source)
        if origin != str(home):
            for name in DATABASES[:2]:
                if (folder / name).exists():
                    _rename(folder / name, f"{origin}/", f"{home}/")
            for plan in (folder / "feast").glob("online-*.json"):
                plan.write_text(plan.read_text().replace(f"{origin}/", f"{home}/"))
        if home.exists():
            home.rmdir()
        folder.replace(home)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return {"home": str(home), "from": str(source), "made_at": made["at"], "made_of": origin, "files": len(hashes)}


def _refuse_servers(settings: Settings) -> None:
    """Raise UsageError if a part is on a server, with the commands that keep it there."""
    kept = [
        f"{shown(url)} by {tool}" for url, tool in (
            (settings.ledger_url, "`pg_dump --format=custom` (back with pg_restore)"),
            (settings.mlflow_tracking_uri, "its database's own dump (`pg_dump --format=custom`)"),
            (settings.feature_registry_url, "`pg_dump --format=custom`"),
            (settings.storage_url, "a copy of the bucket or its versioning (`aws s3 sync`)"),
        ) if url
    ]  # fmt: skip
    if settings.online_store_url:
        kept.append("Redis not at all: `evergreen featurize --again` writes it anew")
    if kept:
        raise UsageError(
            "`evergreen backup` and `restore` are for a home that holds all it needs, and this one uses servers; keep, in "
            f"this order, {'; '.join(kept)}"
        )


def _copy_database(source: Path, target: Path) -> None:
    """Copy a SQLite database as it is at one moment, whoever writes to it."""
    with closing(sqlite3.connect(source, timeout=30)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def _files(home: Path, target: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of a home that are kept, but for the databases, and their names in it."""
    left = {home / name for name in DATABASES} | {
        home / f"{name}-{end}" for name in DATABASES for end in ("wal", "shm")
    }
    for path in sorted(home.rglob("*")):
        parts = path.relative_to(home).parts
        record = len(parts) == 1 and path.name.startswith("service-")  # of a process, as is Prefect's below
        if (
            path.is_file() and not path.is_symlink() and path not in left and path != target and not record
            and parts[0] not in LEFT_FOLDERS and path.suffix not in LEFT_SUFFIXES and parts != ("prefect", "server.json")
        ):  # fmt: skip
            yield path, path.relative_to(home).as_posix()


def _add(archive: tarfile.TarFile, path: Path, name: str) -> str:
    """Add a file and return the sha256 of the bytes that were added."""
    entry = archive.gettarinfo(path, name)
    with path.open("rb") as file:
        reader = _Hashed(file)
        reading: Any = reader  # it reads and no more, which is all that is asked of it
        archive.addfile(entry, reading)
        return reader.digest.hexdigest()


class _Hashed:
    """A file that is hashed as it is read."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read on."""
        data = self._file.read(size)
        self.digest.update(data)
        return data


def _check(folder: Path, hashes: dict[str, str], source: Path) -> None:
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    wrong = sorted(there.keys() ^ hashes.keys())
    for name in there.keys() & hashes.keys():
        with there[name].open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != hashes[name]:
                wrong.append(name)
    if wrong:
        raise TamperedError(
            f"{source}: {', '.join(wrong[:3])} {'are' if len(wrong) > 1 else 'is'} not what was backed up; take another backup"
        )


def _rename(database: Path, old: str, new: str) -> None:
    """Make every text of a database that names the old home name the new one, in one transaction."""
    with closing(sqlite3.connect(database)) as connection, connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for column in connection.execute(f"PRAGMA table_info({identifier(table)})").fetchall():
                name = identifier(column[1])
                connection.execute(
                    f"UPDATE {identifier(table)} SET {name} = replace({name}, ?, ?) "
                    f"WHERE typeof({name}) = 'text' AND instr({name}, ?) > 0",
                    (old, new, old),
                )
