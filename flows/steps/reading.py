"""Files into DuckDB tables: those that fit the contract as one table, each other one by itself."""

from __future__ import annotations

import csv
import errno
import gzip
import shutil
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flows.errors import ContractError, UnavailableError, UsageError
from flows.spec import Frozen, ModelSpec, Source
from flows.steps.contract import schema_problems
from flows.steps.event_rows import with_computed
from flows.steps.raw_types import (
    GUESSES,
    PARQUET,
    TEXT,
    first_misfits,
    reads_as,
    types_to_try,
    whole_again,
    without_values,
)
from flows.steps.sources import SourceFile
from flows.steps.sql import identifier, identifiers, literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MAX_HEADER = 1 << 20
NUMBERED = "read_parquet($path, file_row_number = true)"


class Batch(Frozen):
    """A table read from files: ``table`` names it in the connection, ``columns`` are its own, name -> DuckDB type.

    ``fits`` says whether they keep the contract, ``problems`` what keeps them from it, with examples; ``file`` is the
    parquet file that holds just this table, if one does.
    """

    table: str
    columns: dict[str, str]
    origin: str
    name: str
    fits: bool
    problems: tuple[str, ...]
    file: Path | None


class Unreadable(Frozen):
    """A file that could not be read, and why."""

    file: SourceFile
    reason: str


def read(
    connection: DuckDBPyConnection, spec: ModelSpec, files: list[SourceFile]
) -> tuple[list[Batch], list[Unreadable]]:
    """Load the files of one source, in their order.

    All that fit the contract become one table with the contract's columns and types; rows keep their order. A file alone
    has beside them what the model computes of each row. Files that do not fit become tables as they came: one of those that
    lack the same, for a week may lie in two of them, and each other one a table of its own.
    A CSV column counts as of the contract's type if all its values read as such, and one of floats in a parquet file as of
    whole numbers if all its values are: pandas makes floats of whole numbers among which one is missing. So does a column
    without any value: pandas cannot know its type.
    """
    import duckdb

    batches: list[Batch] = []
    unreadable: list[Unreadable] = []
    rows = 0  # of the files before
    for number, file in enumerate(files):
        try:
            batch, read_rows = _load(connection, spec, file, number, batches, before=rows, alone=len(files) == 1)
        except duckdb.OutOfMemoryException as error:
            raise UnavailableError(f"{file.origin} does not fit into memory and temporary space; free some") from error
        except (duckdb.Error, ValueError, csv.Error, EOFError, OSError, zlib.error) as error:
            if getattr(error, "errno", None) in NO_ROOM:
                raise UnavailableError(f"{file.origin} could not be unpacked ({error}); free some space") from error
            unreadable.append(Unreadable(file=file, reason=_complaint(error, file)))
            continue
        rows += read_rows
        place = next((n for n, one in enumerate(batches) if one.table == batch.table), None)
        if place is None:
            batches.append(batch)
        else:
            origin = _folder_of(batches[place].origin, file.origin)
            batches[place] = batches[place].model_copy(update={"origin": origin, "file": None})
    return batches, unreadable


def _load(
    connection: DuckDBPyConnection,
    spec: ModelSpec,
    file: SourceFile,
    number: int,
    batches: list[Batch],
    *,
    before: int,
    alone: bool,
) -> tuple[Batch, int]:
    """Load one file into its table, or into that of a batch that it belongs to; return the table and how many rows it brought.

    ``number`` is the file's place in its source, ``before`` the number of rows before it.
    """
    reader, parameters, columns = _prepare(connection, spec.source.columns, file)
    examples = first_misfits(connection, spec.source.columns, reader, parameters, columns)
    if spec.source.numbered and spec.source.numbered not in columns:
        reader, columns = _numbered(spec.source.numbered, reader, columns, before)
    problems = tuple(schema_problems(spec.source, columns, examples, spec.label.name))
    fits = not problems
    wanted = spec.source.columns if fits else columns
    as_it_is = list(columns.items()) == list(wanted.items()) and reader == PARQUET
    dated = spec.source.event_time in columns  # a table without times has no periods, and is called by its file
    alike = (one for one in batches if (one.columns, one.problems) == (wanted, problems) and (fits or dated))
    into = next(alike, None)
    table = into.table if into else "fitting" if fits else f"misfit_{number}"
    verb = f"INSERT INTO {table} BY NAME" if into else f"CREATE OR REPLACE TABLE {table} AS"
    select = f"SELECT {', '.join(_cast(name, kind) for name, kind in wanted.items())} FROM {reader}"
    rows = _fill_computed(connection, spec, verb, select, parameters) if fits and alone else None
    if rows is None:
        rows = _fill(connection, verb, select, parameters)
    batch = Batch(
        table=table, origin=file.origin, name=file.name, columns=wanted, fits=fits, problems=problems,
        file=file.path if as_it_is else None,
    )  # fmt: skip
    return batch, rows


def _fill(connection: DuckDBPyConnection, verb: str, select: str, parameters: dict[str, str]) -> int:
    done = connection.execute(f"{verb} {select}", parameters).fetchone()
    return int(done[0]) if done else 0


def _fill_computed(
    connection: DuckDBPyConnection, spec: ModelSpec, verb: str, select: str, parameters: dict[str, str]
) -> int | None:
    """Load rows with what the model computes of each beside, while they are at hand; None if it cannot be computed.

    Judging says so then: the file itself may be read.
    """
    import duckdb

    try:
        return _fill(connection, verb, with_computed(spec, select), parameters)
    except (ContractError, duckdb.Error):
        return None


def read_unknown(connection: DuckDBPyConnection, table: str, file: SourceFile) -> dict[str, str]:
    """Load a file that no contract is known for into a table, and return its columns, name -> DuckDB type.

    A CSV column has the narrowest type that all its values read as: whole number, number, time, flag (true and false), or
    text. Raises UsageError if it cannot be read.
    """
    import duckdb

    try:
        reader, parameters, columns = _prepare(connection, {}, file)
        casts = ", ".join(_cast(name, kind) for name, kind in columns.items())
        connection.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT {casts} FROM {reader}", parameters)
    except (duckdb.Error, ValueError, csv.Error, EOFError, OSError, zlib.error) as error:
        raise UsageError(f"{file.origin}: {_complaint(error, file)}; correct the file") from error
    return columns


def read_some(
    connection: DuckDBPyConnection, table: str, source: Source, file: SourceFile
) -> tuple[dict[str, str], list[str]]:
    """Load what a file holds of a contract's columns, in any order, into a table.

    Return them, name -> DuckDB type, and the columns that are not the contract's. Raises UsageError if the file cannot be
    read, or a column has another type.
    """
    import duckdb

    try:
        reader, parameters, columns = _prepare(connection, source.columns, file)
        wanted = {name: source.columns[name] for name in columns if name in source.columns}
        others = [name for name in columns if name not in wanted]
        some = source.model_copy(update={"columns": wanted, "layouts": (), "ignored": tuple(others)})
        problems = schema_problems(some, columns, first_misfits(connection, wanted, reader, parameters, columns))
        if not problems:
            casts = ", ".join(_cast(name, kind) for name, kind in wanted.items()) or "NULL"
            connection.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT {casts} FROM {reader}", parameters)
    except (duckdb.Error, ValueError, csv.Error, EOFError, OSError, zlib.error) as error:
        raise UsageError(f"{file.origin}: {_complaint(error, file)}; correct the file") from error
    if problems:
        raise UsageError(f"{file.origin}: {'; '.join(problems)}")
    return wanted, others


def zero_padded(connection: DuckDBPyConnection, file: SourceFile, columns: Mapping[str, str]) -> list[str]:
    """Return the columns of a file just read that are whole numbers now, and were digits behind zeros in its text."""
    whole = [name for name, kind in columns.items() if kind == "BIGINT"]
    if not whole or file.path.name.endswith(".parquet"):
        return []
    tests = ", ".join(f"bool_or(regexp_matches({identifier(name)}, '^0[0-9]'))" for name in whole)
    found = connection.execute(f"SELECT {tests} FROM {TEXT}").fetchone() or ()
    return [name for name, padded in zip(whole, found, strict=True) if padded]


def _numbered(name: str, reader: str, columns: Mapping[str, str], before: int) -> tuple[str, dict[str, str]]:
    """Return how to read a file with the number of each row in front, ``before`` for the first."""
    # Both keep the order of the file: a CSV file is in a table by now, a parquet file has numbers of its own.
    number = "file_row_number" if PARQUET in reader else "rowid"
    source = reader.replace(PARQUET, NUMBERED)
    numbered = f"(SELECT {number} + {before} AS {identifier(name)}, {identifiers(columns)} FROM {source})"
    return numbered, {name: "BIGINT", **columns}


def _prepare(
    connection: DuckDBPyConnection, known: Mapping[str, str], file: SourceFile
) -> tuple[str, dict[str, str], dict[str, str]]:
    """Return how to read a file (SQL and its parameters) and its columns with the types that they have or may take.

    ``known`` are the columns of the contract.
    """
    if file.path.name.endswith(".parquet"):
        parameters = {"path": str(file.path)}
        columns = describe(connection, f"SELECT * FROM {PARQUET}", parameters)
        whole = whole_again(connection, known, columns, parameters)
        empty = without_values(connection, known, {**columns, **whole}, parameters)
        if not whole and not empty:
            return PARQUET, parameters, columns
        casts = [f"TRY_CAST({identifier(name)} AS {kind}) AS {identifier(name)}" for name, kind in whole.items()]
        casts += [f"CAST(NULL AS {kind}) AS {identifier(name)}" for name, kind in empty.items()]
        return f"(SELECT * REPLACE ({', '.join(casts)}) FROM {PARQUET})", parameters, {**columns, **whole, **empty}
    text = TEXT
    path = _unpacked(file.path)
    separator, header = _header(path, set(known))
    names = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in header)
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE {text} AS SELECT * FROM read_csv($path, auto_detect = false, header = true,
        columns = {{{names}}}, delim = $separator, quote = '"', escape = '"', strict_mode = true)""",
        {"path": str(path), "separator": separator},
    )
    columns = describe(connection, f"SELECT * FROM {text}", {})
    # A column of the contract may have its type there, any other the narrowest that fits, which tells a renamed one.
    trials = [(name, kind) for name in columns for kind in (types_to_try(known[name]) if name in known else GUESSES)]
    tests = ", ".join(f"count(*) FILTER (NOT {reads_as(name, kind, name not in known)})" for name, kind in trials)
    bad = connection.execute(f"SELECT {tests} FROM {text}").fetchone() or ()
    columns.update({name: kind for (name, kind), failed in zip(trials, bad, strict=True) if not failed})
    return text, {}, columns


def _unpacked(path: Path) -> Path:
    """Return a file unpacked, beside it: DuckDB would take a packed file that is cut off for a whole one."""
    if path.suffix != ".gz":
        return path
    plain = path.with_suffix("")
    with gzip.open(path) as packed, plain.open("wb") as target:
        shutil.copyfileobj(packed, target, 1 << 20)
    return plain


def _header(path: Path, known: set[str]) -> tuple[str, list[str]]:
    """Return the separator of a CSV file and the names in its first line.

    DuckDB could guess them, but where a row is cut off it guesses a table of one column, and reads without an error.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline(MAX_HEADER)
    guesses = {separator: next(csv.reader([first], delimiter=separator), []) for separator in ",;\t|"}
    separator = max(guesses, key=lambda one: (len(known & set(guesses[one])), len(guesses[one])))
    if not first.strip():
        raise ValueError("it is empty")
    seen: Counter[str] = Counter()
    names = []
    for place, given in enumerate(guesses[separator]):
        name = given or f"column{place}"  # the index of a data frame often comes without a name
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    lower: dict[str, str] = {}
    for name in names:
        other = lower.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(f"columns {other!r} and {name!r} differ in capitals alone; rename one")
    return separator, names


def describe(connection: DuckDBPyConnection, query: str, parameters: Mapping[str, object]) -> dict[str, str]:
    """Return the columns of a query, name -> DuckDB type, in order."""
    rows = connection.execute(f"DESCRIBE {query}", parameters).fetchall()
    return {str(row[0]): str(row[1]) for row in rows}


def _cast(name: str, wanted: str) -> str:
    return f"CAST({identifier(name)} AS {wanted}) AS {identifier(name)}"


def _complaint(error: Exception, file: SourceFile) -> str:
    """Return what the reader complained of, in one line, with the file's own name in place of our link to it."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if isinstance(error, UnicodeDecodeError):
        line = f"it is not in UTF-8 ({line}); save it so"
    return f"the file cannot be read: {line.strip().replace(str(file.path), file.name)[:300]}"


def _folder_of(first: str, other: str) -> str:
    """Return what to call the origin of a table read from several files."""
    folder = first if first.endswith("/") else first.rpartition("/")[0] + "/"
    return folder if other.startswith(folder) else f"{first}, {other}"[:500]
