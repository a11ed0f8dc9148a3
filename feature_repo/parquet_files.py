"""The parquet files behind a Feast file source: where they are, which they are, and how rows are added."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from urllib.parse import urlparse

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FileSource
from feast.data_format import ParquetFormat
from feast.data_source import DataSource

SUFFIX = ".parquet"  # a path that ends so is one file, any other a folder


def path_of(source: DataSource, root: Path | None) -> Path:
    """Return the local file or folder of a source; a relative path counts from ``root``.

    Raises ValueError for another kind of source, another format and a remote path.
    """
    if not isinstance(source, FileSource):
        raise ValueError(f"{source.name}: a {type(source).__name__} cannot be read; give a FileSource of parquet files")
    if source.file_format is not None and not isinstance(source.file_format, ParquetFormat):
        raise ValueError(f"{source.name}: {type(source.file_format).__name__} cannot be read; use parquet files")
    parsed = urlparse(source.path)
    if parsed.netloc and parsed.scheme != "file":
        raise ValueError(f"{source.path}: a remote path cannot be read; give a local file or folder")
    path = Path(parsed.path if parsed.scheme == "file" else source.path)
    return path if root is None else root / path


def files_at(path: Path) -> list[Path]:
    """Return the parquet files at a path, in the order of writing: that of their paths. Hidden ones do not count."""
    if path.is_file():
        return [path]
    found = (file for file in path.glob(f"**/*{SUFFIX}") if file.is_file())
    return sorted(f for f in found if not any(part.startswith(".") for part in f.relative_to(path).parts))


def files_of(source: DataSource, root: Path | None) -> tuple[str, ...]:
    """Return the paths of a source's files. Raises FileNotFoundError if there is none."""
    path = path_of(source, root)
    files = files_at(path)
    if not files:
        raise FileNotFoundError(f"{source.name}: no parquet file at {path}; write its feature table first")
    return tuple(map(str, files))


def next_file(folder: Path) -> Path:
    """Return a new path in a folder, that sorts behind those given before and behind names that begin with a digit."""
    return folder / f"written-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}{SUFFIX}"


def write(table: pa.Table, path: Path) -> None:
    """Write a table as one parquet file (zstd, microseconds), which appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        pq.write_table(table, part, compression="zstd", coerce_timestamps="us", allow_truncated_timestamps=True)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def append(table: pa.Table, path: Path, name: str) -> None:
    """Add rows at a path: a new file in a folder, or the one file written anew with them at its end.

    A folder takes many writers at once, a single file one. Raises ValueError if the columns are not those that it has.
    """
    present = files_at(path)
    if present:
        schema = pq.read_schema(present[-1])
        if set(schema.names) != set(table.column_names):
            raise ValueError(
                f"{name}: the rows have the columns {sorted(table.column_names)}, its source has "
                f"{sorted(schema.names)}; give exactly those"
            )
        table = table.select(schema.names).cast(schema)
    if path.suffix != SUFFIX:
        write(table, next_file(path))
    else:
        write(pa.concat_tables([pq.read_table(path), table]) if present else table, path)


def overwrite(table: pa.Table, path: Path) -> None:
    """Put a table in the place of what is at a path."""
    stale = files_at(path) if path.suffix != SUFFIX else []
    write(table, path if path.suffix == SUFFIX else next_file(path))
    for file in stale:
        file.unlink()


def add_partitioned(table: pa.Table, folder: Path, partition_by: list[str] | None) -> None:
    """Add rows to a folder, below ``column=value`` folders of the partition columns; each file appears whole."""
    staged = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
    template = f"{next_file(folder).stem}-{{i}}{SUFFIX}"
    pq.write_to_dataset(table, staged, partition_cols=partition_by, basename_template=template)
    for file in list(staged.glob(f"**/*{SUFFIX}")):
        final = folder / file.relative_to(staged)
        final.parent.mkdir(parents=True, exist_ok=True)
        file.replace(final)
    for empty in sorted(staged.glob("**"), reverse=True):
        empty.rmdir()
