"""What comes of judged rows: the refused ones with their reasons, a sample of them for the page, and both files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flows.ledger import Partition
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import storage
from flows.steps.event_rows import EVENTS, ROW, event_columns
from flows.steps.files import sha256_of
from flows.steps.landing import PARQUET_OPTIONS
from flows.steps.reading import describe
from flows.steps.row_hash import digest_of
from flows.steps.sql import identifiers
from flows.steps.validation import REJECTS

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

REFUSED = "refused"  # table: raw rows that may not be used, with their reasons
SAMPLE = 20  # rejected rows shown on the page


def collect_refused(connection: DuckDBPyConnection, spec: ModelSpec, raw: str) -> None:
    """Create the table of the raw rows that may not be used, in order, with their reasons.

    ``raw`` is the query of the raw rows with their numbers.
    """
    connection.execute(
        f"""CREATE OR REPLACE TABLE {REFUSED} AS
        SELECT landed.* EXCLUDE ({ROW}), why.reason AS {_reason(spec)}, why.{ROW} FROM ({raw}) AS landed
        JOIN (
            SELECT {ROW}, string_agg(DISTINCT reason, '; ' ORDER BY reason) AS reason FROM {REJECTS} GROUP BY {ROW}
        ) AS why ON landed.{ROW} = why.{ROW}
        ORDER BY why.{ROW}"""
    )


def sample(connection: DuckDBPyConnection, spec: ModelSpec) -> tuple[dict[str, str], ...]:
    """Return some refused rows as text: a few of each kind of reason, so that a frequent one hides no other."""
    reason = _reason(spec)
    result = connection.execute(
        f"""SELECT * EXCLUDE ({ROW}) FROM {REFUSED}
        QUALIFY row_number() OVER (PARTITION BY {reason} ORDER BY {ROW}) <= 5 ORDER BY {reason}, {ROW} LIMIT {SAMPLE}"""
    )
    names = [column[0] for column in result.description or ()]
    return tuple(dict(zip(names, map(str, row), strict=True)) for row in result.fetchall())


def write_accepted(
    connection: DuckDBPyConnection, spec: ModelSpec, settings: Settings, partition: Partition, added: Mapping[str, str]
) -> tuple[str, str]:
    """Write the event rows that may be used, with what is ``added`` to them (name -> SQL).

    Returns the file's address and its sha256.
    """
    path = _path(spec, settings, partition, "accepted")
    names = identifiers(event_columns(spec))
    more = ", ".join(f"{sql} AS {name}" for name, sql in added.items())
    with storage.writing(settings, path) as temporary:
        connection.execute(
            f"COPY (SELECT {names}, {more} FROM {EVENTS}) TO $target {PARQUET_OPTIONS}", {"target": str(temporary)}
        )
        digest = sha256_of(temporary)
    return storage.address(settings, path), digest


def write_rejected(
    connection: DuckDBPyConnection, spec: ModelSpec, settings: Settings, partition: Partition
) -> str | None:
    """Write the raw rows that may not be used, with the reasons, if there are any; return the file's address."""
    if not (connection.execute(f"SELECT count(*) FROM {REFUSED}").fetchone() or (0,))[0]:
        return None
    path = _path(spec, settings, partition, "rejected")
    with storage.writing(settings, path) as temporary:
        connection.execute(
            f"COPY (SELECT * EXCLUDE ({ROW}) FROM {REFUSED}) TO $target {PARQUET_OPTIONS}", {"target": str(temporary)}
        )
    return storage.address(settings, path)


def _path(spec: ModelSpec, settings: Settings, partition: Partition, folder: str) -> Path:
    stem = f"{partition.key}-r{partition.revision}"
    return settings.lake(spec.name) / folder / f"{storage.unique(settings, stem)}.parquet"


def _reason(spec: ModelSpec) -> str:
    """Return how the column of the reasons is called beside the raw ones, of which one may be a ``reason``."""
    return "evergreen_reason" if "reason" in {name.lower() for name in spec.source.columns} else "reason"


def digest(connection: DuckDBPyConnection, settings: Settings, uri: str | None) -> str | None:
    """Return the digest of the rows of a file of accepted rows; None if there is none, or it is lost."""
    if uri is None or storage.is_lost(uri):
        return None
    file = {"uri": storage.local(settings, uri)}
    columns = describe(connection, "SELECT * FROM read_parquet($uri)", file)
    return digest_of(connection, columns, "FROM read_parquet($uri)", file)[0]
