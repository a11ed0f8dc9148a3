"""Files that are whole or not there: atomic writes, and the hash that names their content."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

MAGIC = b"PAR1"  # at both ends of a parquet file (Apache Parquet format)
ARROW_ROWS = 65536  # of a batch in an Arrow file
LEFT_SECONDS = 86_400.0  # a scratch folder that nobody has written to for so long is that of a process that was killed


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole_parquet(path: Path) -> bool:
    """Say whether a file begins and ends as a parquet file does: one that was cut off does not."""
    with path.open("rb") as file:
        head = file.read(len(MAGIC))
        if file.seek(0, os.SEEK_END) < 3 * len(MAGIC):
            return False
        file.seek(-len(MAGIC), os.SEEK_END)
        return head == file.read() == MAGIC


@contextmanager
def scratch(home: Path, prefix: str) -> Iterator[Path]:
    """Yield a new folder in a home, which is gone at the end with all that is in it."""
    place = scratch_folder(home)
    with tempfile.TemporaryDirectory(prefix=f"{prefix}-", dir=place, ignore_cleanup_errors=True) as name:
        yield Path(name)


def scratch_folder(home: Path) -> Path:
    """Return where a home has what is gone at its user's end; what killed processes have left there is removed."""
    place = home / "tmp"
    place.mkdir(parents=True, exist_ok=True)
    for folder in place.iterdir():
        with suppress(OSError):  # gone since it was listed
            changes = (path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
            if folder.is_dir() and all(change < time.time() - LEFT_SECONDS for change in changes):
                shutil.rmtree(folder, ignore_errors=True)
    return place


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; at the end it is synced and becomes ``path``, on an error it is gone.

    Who may read it is as for any new file of this process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # not every file system can
        _sync(path.parent)  # else the name may be lost with the machine's power, and the ledger would name nothing


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_parquet(table: pa.Table, path: Path) -> Path:
    """Write an arrow table as parquet, atomically; timestamps are in microseconds."""
    import pyarrow.parquet as pq

    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", coerce_timestamps="us", allow_truncated_timestamps=False)
    return path


def write_arrow(table: pa.Table, path: Path) -> Path:
    """Write an arrow table as an Arrow file, atomically: as large as in memory, and read without a copy.

    The same rows are the same bytes, however the table is cut into chunks and whatever lies beneath its nulls.
    """
    import numpy as np
    import pyarrow as pa

    with replacing(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        for start in range(0, table.num_rows, ARROW_ROWS):
            columns = [column.chunk(0) for column in table.slice(start, ARROW_ROWS).combine_chunks().columns]
            places = pa.array(np.arange(len(columns[0]) if columns else 0))
            # Picking leaves zeros beneath nulls.
            plain = [one.take(places) if one.null_count else one for one in columns]
            writer.write_batch(pa.record_batch(plain, schema=table.schema))
    return path
