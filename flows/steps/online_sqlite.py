"""The stored features of Feast's SQLite online tables, read directly: Feast writes the store, this only reads it."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.steps.online_plan import OnlinePlan
from flows.steps.online_values import DOUBLE, DOUBLE_BYTE, Stored, decode, key_writer
from flows.steps.sql import identifier

KEYS_A_QUERY = 10_000
MAPPED_BYTES = 2**28


class SqliteValues:
    """What a plan's tables hold for some rows; may be called from several threads, which take turns.

    A database that was put in the place of the one that is open is opened instead; one that is gone is read on.
    """

    is_quick = True

    def __init__(self, plan: OnlinePlan) -> None:
        self._plan = plan
        self._keys = [key_writer(view) for view in plan.stored]
        self._fields = {field for view in plan.stored for field in view.fields}
        # One statement for all views of a row; what is selected beyond the fields (a key's own column) is passed over.
        self._one = " UNION ALL ".join(
            f"SELECT {place} AS place, feature_name, value, event_us FROM {identifier(view.table)} WHERE entity_key = ?"
            for place, view in enumerate(plan.stored)
        )
        self._turn = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._identity = (0, 0)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[list[Stored | None]]:
        """Return by view, for each row, what is stored of its keys; raises sqlite3.Error or KeyError."""
        with self._turn:
            try:
                return self._read_one(rows[0]) if len(rows) == 1 else self._read_many(rows)
            except sqlite3.DatabaseError:
                self.close()  # opened afresh next time
                raise

    def away(self) -> str | None:
        """Return that the database is gone, though what was open of it is read on; None if it is there."""
        database = self._plan.database
        if os.path.exists(database):  # noqa: PTH110 (asked each second)
            return None
        return f"the online store {database} is gone; what was open of it is read on, as it was last"

    def _read_one(self, row: Mapping[str, Any]) -> list[list[Stored | None]]:
        if not self._keys:
            return []
        times: list[int | None] = [None] * len(self._keys)
        values: list[dict[str, Any]] = [{} for _ in self._keys]
        found = self._open().execute(self._one, [key(row) for key in self._keys]).fetchall()
        for place, name, value, event in found:
            if name in self._fields:
                values[place][name] = DOUBLE(value, 1)[0] if value[:1] == DOUBLE_BYTE else decode(value)
                oldest = times[place]
                times[place] = event if oldest is None or event < oldest else oldest
        return [[None if time is None else (time, one)] for time, one in zip(times, values, strict=True)]

    def _read_many(self, rows: Sequence[Mapping[str, Any]]) -> list[list[Stored | None]]:
        connection = self._open()
        result: list[list[Stored | None]] = []
        for view, key in zip(self._plan.stored, self._keys, strict=True):
            keys = [key(row) for row in rows]
            distinct = list(dict.fromkeys(keys))
            found: dict[bytes, Stored] = {}
            for start in range(0, len(distinct), KEYS_A_QUERY):
                some = distinct[start : start + KEYS_A_QUERY]
                query = (
                    f"SELECT entity_key, feature_name, value, event_us FROM {identifier(view.table)} "
                    f"WHERE entity_key IN ({', '.join('?' * len(some))})"
                )
                for entity, name, value, event in connection.execute(query, some):
                    if name in self._fields:
                        oldest, values = found.get(entity, (event, {}))
                        values[name] = decode(value)
                        found[entity] = (min(oldest, event), values)
            result.append([found.get(one) for one in keys])
        return result

    def _open(self) -> sqlite3.Connection:
        try:
            state = os.stat(self._plan.database)  # noqa: PTH116 (on the way of each request)
        except OSError:
            if self._connection is None:
                raise sqlite3.OperationalError(f"{self._plan.database} is not there") from None
            return self._connection
        identity = (state.st_dev, state.st_ino)
        if self._connection is None or identity != self._identity:
            self.close()
            self._connection = sqlite3.connect(
                f"{Path(self._plan.database).as_uri()}?mode=ro",
                uri=True,
                timeout=0.2,
                check_same_thread=False,
                isolation_level=None,
            )
            self._connection.execute(f"PRAGMA mmap_size = {MAPPED_BYTES}")  # pages are read without a system call
            self._identity = identity
        return self._connection

    def close(self) -> None:
        """Close the database."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
