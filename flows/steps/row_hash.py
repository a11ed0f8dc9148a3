"""The hash that names rows: over their values in order and their columns, whatever file they lay in."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from flows.steps.sql import identifier

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

_WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
_TIMES = ("DATE", "TIME", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS")
_FIXED = frozenset((*_WHOLE, "FLOAT", "DOUBLE", *_TIMES))
_ZONED = "TIMESTAMP WITH TIME ZONE"


def digest_of(
    connection: DuckDBPyConnection, columns: Mapping[str, str], query: str, parameters: dict[str, Any]
) -> tuple[str, int]:
    """Return the sha256 (hex) and the number of the rows that ``SELECT columns`` + ``query`` gives.

    Each column is hashed as a stream: the bytes of its values, the places of its nulls and, for text, its lengths. So
    batch sizes, row groups, compression and dictionaries do not matter; order, names, types and values do.
    """
    selected = ", ".join(_plain(name, kind) for name, kind in columns.items())
    reader = connection.execute(f"SELECT {selected} {query}", parameters).to_arrow_reader(1 << 18)
    hashes = [_ColumnHash() for _ in columns]
    rows = 0
    # Columns are hashed side by side, while the next batch is made; a column's batches one after the other.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        running: list[Future[None]] = []
        for batch in reader:
            for one in running:
                one.result()
            running = [
                pool.submit(column_hash.update, column, rows)
                for column_hash, column in zip(hashes, batch.columns, strict=True)
            ]
            rows += batch.num_rows
        for one in running:
            one.result()
    total = hashlib.sha256(json.dumps([list(columns.items()), rows]).encode())
    for column in hashes:
        total.update(column.digest())
    return total.hexdigest(), rows


def _plain(name: str, kind: str) -> str:
    """Return SQL for a column as fixed-width values or text."""
    column = identifier(name)
    if kind in _FIXED:
        return column
    if kind == _ZONED:
        return f"epoch_us({column}) AS {column}"
    return column if kind == "VARCHAR" else f"CAST({column} AS VARCHAR) AS {column}"


class _ColumnHash:
    """Running hashes of one column."""

    def __init__(self) -> None:
        self.values, self.nulls, self.lengths = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()

    def update(self, column: pa.Array, first_row: int) -> None:
        """Add the next values; ``first_row`` is the row number of the first of them."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if column.null_count:
            places = pc.add(pc.indices_nonzero(column.is_null()).cast(pa.int64()), first_row)
            self.nulls.update(_bytes_of(places, 8))
            text = pa.types.is_string(column.type)
            column = column.fill_null("" if text else pa.scalar(0, _int_of(column)).cast(column.type))
        if pa.types.is_string(column.type):
            text = column.cast(pa.large_binary())
            self.lengths.update(_bytes_of(pc.binary_length(text), 8))
            offsets = memoryview(text.buffers()[1]).cast("q")
            data = text.buffers()[2]
            if data is not None:
                self.values.update(memoryview(data)[offsets[text.offset] : offsets[text.offset + len(text)]])
        else:
            self.values.update(_bytes_of(column, column.type.bit_width // 8))

    def digest(self) -> bytes:
        return self.values.digest() + self.nulls.digest() + self.lengths.digest()


def _int_of(column: pa.Array) -> pa.DataType:
    """Return the type from which a zero of the column's type can be made."""
    import pyarrow as pa

    if not pa.types.is_temporal(column.type):
        return column.type
    return pa.int32() if column.type.bit_width == 32 else pa.int64()


def _bytes_of(column: pa.Array, width: int) -> memoryview:
    """Return the bytes of a column of fixed width without nulls."""
    data = column.buffers()[1]
    if data is None:
        return memoryview(b"")
    return memoryview(data)[column.offset * width : (column.offset + len(column)) * width]
