"""Labels that came in a table of their own, filled into the landed rows that they are of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flows.errors import UnavailableError, UsageError
from flows.ledger import Partition
from flows.settings import Settings
from flows.spec import Frozen, ModelSpec
from flows.steps.contract import fits
from flows.steps.event_rows import FLOATS
from flows.steps.landing import PARQUET_OPTIONS
from flows.steps.periods import Kind, Period, parse_key
from flows.steps.reading import NUMBERED, describe, read_some
from flows.steps.sources import opened
from flows.steps.sql import identifier, identifiers, without_nan
from flows.steps.storage import is_lost, local

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LABELS = "labels"  # the table of them, each once
NUMBER = "evergreen_label"  # of a label in it
MET = "labels_met"  # the numbers of those that belong to landed rows, of which partition, and to how many
REPEATED = 0.02  # share of landed rows that may repeat another


class Labels(Frozen):
    """What a table of labels holds: ``on`` are the columns that say which rows each is of, ``filled`` the others."""

    origin: str
    on: tuple[str, ...]
    filled: tuple[str, ...]


class Filled(Frozen):
    """A landed partition with labels filled in: ``file`` holds all of it, ``rows`` is how many rows have changed."""

    key: str
    kind: Kind
    file: Path
    rows: int


class Found(Frozen):
    """What became of a table of ``labels``: how many there are, how many ``met`` a row, and the partitions that changed.

    ``others`` are its columns that the raw table has not, ``lost`` partitions whose landed rows are gone, which labels that
    met none may be of.
    """

    origin: str
    others: tuple[str, ...]
    labels: int
    met: int
    lost: tuple[str, ...]
    partitions: tuple[Filled, ...]


def fill(
    connection: DuckDBPyConnection,
    spec: ModelSpec,
    settings: Settings,
    partitions: Iterable[Partition],
    source: str,
    on: tuple[str, ...],
    folder: Path,
) -> Found:
    """Write each partition that the labels of a source change, whole and with them, into a folder.

    The source holds columns of the raw table: those that tell which rows are meant, ``on`` or else the model's key, and
    those to fill in, the label or what it is made of. A value that is missing changes nothing. A partition that labels
    belong to, and that is not accepted or has lost its accepted rows, is written unchanged too, to be decided anew. Raises
    UsageError for a table that cannot be that, or of which nothing belongs to a landed row.
    """
    with opened(source, settings) as files:
        read = [read_some(connection, f"labels_{n}", spec.source, file) for n, file in enumerate(files)]
        others = tuple(dict.fromkeys(name for _, more in read for name in more))
        labels = _split(
            spec, files[0].origin if len(files) == 1 else source, {name for own, _ in read for name in own}, others, on
        )
        rows = " UNION ALL BY NAME ".join(f"SELECT * FROM labels_{n}" for n in range(len(read)))
        count = _keep(connection, spec, labels, rows)
    connection.execute(f"CREATE TABLE {MET} ({NUMBER} BIGINT, key VARCHAR, rows BIGINT)")
    found: list[Filled | None] = []
    lost: list[str] = []
    for one, known in _standing(partitions):
        path = _landed(settings, one)
        if path:
            found.append(_fill_one(connection, spec, settings, one, path, labels, folder, known))
        elif known is None:  # else what is in force is another one
            lost.append(one.key)
    # Two revisions of a period hold the same rows, or most of them.
    once = f"(SELECT {NUMBER}, max(rows) AS rows FROM {MET} GROUP BY {NUMBER}, key)"
    met, rows = connection.execute(f"SELECT count(DISTINCT {NUMBER}), sum(rows) FROM {once}").fetchone() or (0, 0)
    if not met:
        raise UsageError(
            f"{labels.origin}: none of its {count:,} labels belongs to a landed row by {', '.join(labels.on)}; land the rows "
            "first, or name the columns that tell which row is meant with --on"
            + (f" (the landed rows of {', '.join(lost)} are gone)" if lost else "")
        )
    if set(spec.key) - set(labels.on) and rows > (1 + REPEATED) * met:
        raise UsageError(
            f"{labels.origin}: {met:,} of its labels belong to {rows:,} landed rows by {', '.join(labels.on)}; name all columns "
            "that tell which row is meant with --on"
        )
    return Found(
        origin=labels.origin, others=others, labels=count, met=met, lost=tuple(lost) if met < count else (),
        partitions=tuple(one for one in found if one),
    )  # fmt: skip


def _split(spec: ModelSpec, origin: str, columns: set[str], others: tuple[str, ...], on: tuple[str, ...]) -> Labels:
    """Return which columns of a table tell the row, and which are filled in."""
    told = on or spec.key
    missing = [name for name in told if name not in columns]
    if missing:
        hint = "" if on else "; name the columns that tell which row is meant with --on"
        raise UsageError(f"{origin} has no column {', '.join(missing)}{hint}")
    filled = [name for name in spec.source.columns if name in columns and name not in told]
    if not filled:
        unknown = f": {', '.join(others)} is no column of the raw table" if others else ""
        raise UsageError(f"{origin} has {', '.join(told)} alone, and nothing to fill in{unknown}")
    if spec.source.event_time in filled:
        raise UsageError(
            f"{spec.source.event_time} is the time of a row, no label: leave it out, or name it in --on too"
        )
    return Labels(origin=origin, on=told, filled=tuple(filled))


def _keep(connection: DuckDBPyConnection, spec: ModelSpec, labels: Labels, rows: str) -> int:
    """Make the table of all labels that say something, and return how many; raises UsageError if two contradict."""
    kinds = spec.source.columns
    values = ", ".join(
        f"{without_nan(name)} AS {identifier(name)}" if kinds[name] in FLOATS else identifier(name)
        for name in (*labels.on, *labels.filled)
    )
    known = " AND ".join(f"{identifier(name)} IS NOT NULL" for name in labels.on)
    says = ", ".join(map(identifier, labels.filled))
    connection.execute(
        f"CREATE TABLE {LABELS} AS SELECT row_number() OVER () AS {NUMBER}, * FROM ("
        f"SELECT DISTINCT {values} FROM ({rows})) WHERE {known} AND coalesce({_texts(labels.filled)}) IS NOT NULL"
    )
    keys = identifiers(labels.on)
    twice = f"(SELECT {keys}, count(*) AS n FROM {LABELS} GROUP BY {keys} HAVING n > 1)"
    many, *example = connection.execute(f"SELECT count(*), {_firsts(labels.on)} FROM {twice}").fetchone() or (0,)
    if many:
        row = ", ".join(f"{name} {value}" for name, value in zip(labels.on, example, strict=True))
        raise UsageError(
            f"{labels.origin} says different things of {many:,} rows in {says} (first: {row}); correct it, or name all columns "
            "that tell which row is meant with --on"
        )
    return int((connection.execute(f"SELECT count(*) FROM {LABELS}").fetchone() or (0,))[0])


def _texts(names: Iterable[str]) -> str:
    return ", ".join(f"CAST({identifier(name)} AS VARCHAR)" for name in names)


def _firsts(names: Iterable[str]) -> str:
    return ", ".join(f"first(CAST({identifier(name)} AS VARCHAR))" for name in names)


def _standing(partitions: Iterable[Partition]) -> list[tuple[Partition, Partition | None]]:
    """Return the revisions of each period that labels are for: the accepted one, and the newest if it came after that.

    Such a one may wait for its labels alone; beside it is the accepted one, whose labels it takes over.
    """
    found: dict[str, list[Partition]] = {}
    for one in sorted(partitions, key=lambda one: one.revision):
        if one.status != "replaced" and one.rows and parse_key(one.key):
            found.setdefault(one.key, []).append(one)
    _leave_other_kinds(found)
    pairs: list[tuple[Partition, Partition | None]] = []
    for key in sorted(found):
        accepted = next((one for one in found[key] if one.status == "accepted"), None)
        pairs += [(accepted, None)] if accepted else []
        pairs += [(found[key][-1], accepted)] if found[key][-1] is not accepted else []
    return pairs


def _leave_other_kinds(found: dict[str, list[Partition]]) -> None:
    """Leave out periods that overlap one of another kind which is accepted, or came later: they could not be landed."""
    kept: dict[Kind, list[Period]] = {}

    def rank(key: str) -> tuple[bool, int]:
        return any(one.status == "accepted" for one in found[key]), found[key][-1].id

    for key in sorted(found, key=rank, reverse=True):
        period = parse_key(key)
        assert period
        others = (other for kind, some in kept.items() if kind != period.kind for other in some)
        if any(other.start < period.end and period.start < other.end for other in others):
            del found[key]
        else:
            kept.setdefault(period.kind, []).append(period)


def _landed(settings: Settings, partition: Partition) -> str | None:
    """Return the path of a partition's landed rows, None if they are gone or damaged."""
    try:
        path = local(settings, partition.uri)
    except UnavailableError as error:
        if not isinstance(error.__cause__, FileNotFoundError):  # the bucket does not answer
            raise
        return None
    return None if is_lost(path) else path


def _fill_one(
    connection: DuckDBPyConnection,
    spec: ModelSpec,
    settings: Settings,
    partition: Partition,
    path: str,
    labels: Labels,
    folder: Path,
    accepted: Partition | None,
) -> Filled | None:
    """Fill the labels of one partition in; None if that changes nothing of it, or if it is broken in other ways.

    ``path`` is where its landed rows are. Labels that it lacks and nobody tells of now are those of the ``accepted`` revision
    of its period, by the model's key.
    """
    period = parse_key(partition.key)
    assert period
    columns = describe(connection, "SELECT * FROM read_parquet($path)", {"path": path})
    if not _fits(spec, columns, labels):
        return None
    joined = _join(spec, settings, path, columns, labels, accepted)
    connection.execute(
        f"INSERT INTO {MET} SELECT {NUMBER}, $key, count(*) FROM {joined.rows} WHERE {NUMBER} IS NOT NULL GROUP BY 1",
        {**joined.parameters, "key": partition.key},
    )
    counts = f"SELECT count({NUMBER}), count(*) FILTER ({joined.changed}) FROM {joined.rows}"
    met, rows = connection.execute(counts, joined.parameters).fetchone() or (0, 0)
    # What is refused, was left undecided by a run that was killed, or has lost its accepted rows is looked at once more.
    settled = partition.status == "accepted" and not is_lost(partition.accepted_uri or "")
    if not met or (settled and not rows):
        return None
    values = ", ".join(
        f"coalesce(told.{identifier(name)}, {joined.known[name]}) AS {identifier(name)}"
        if name in joined.known
        else f"raw.{identifier(name)}"
        for name in spec.source.columns
    )
    file = folder / f"{partition.key}-{partition.revision}.parquet"
    copy = f"COPY (SELECT {values} FROM {joined.rows} ORDER BY raw.file_row_number) TO $target {PARQUET_OPTIONS}"
    connection.execute(copy, {**joined.parameters, "target": str(file)})
    return Filled(key=partition.key, kind=period.kind, file=file, rows=int(rows))


class Joined(NamedTuple):
    """Landed rows, as ``raw``, beside what labels say of them, as ``told``: SQL, and the values that it asks for.

    ``changed`` is whether a row has another label than is told, ``known`` what there is of each column to fill in already.
    """

    rows: str
    parameters: dict[str, str]
    changed: str
    known: dict[str, str]


def _join(
    spec: ModelSpec, settings: Settings, path: str, columns: dict[str, str], labels: Labels, accepted: Partition | None
) -> Joined:
    """Return the rows of a landed file with their labels, and with those of the ``accepted`` revision, if there is one."""
    parameters = {"path": path}
    on = " AND ".join(f"raw.{identifier(name)} = told.{identifier(name)}" for name in labels.on)
    # A file that lacks the label lies here as it came, of times to the nanosecond for one.
    kinds = [(name, kind) for name, kind in spec.source.columns.items() if name in columns]
    casts = ", ".join(f"CAST({identifier(name)} AS {kind}) AS {identifier(name)}" for name, kind in kinds)
    joined = f"(SELECT {casts}, file_row_number FROM {NUMBERED}) AS raw LEFT JOIN {LABELS} AS told ON {on}"
    old = {name: f"raw.{identifier(name)}" if name in columns else "NULL" for name in labels.filled}
    changed = " OR ".join(
        f"(told.{identifier(name)} IS NOT NULL AND told.{identifier(name)} IS DISTINCT FROM {was})"
        for name, was in old.items()
    )
    if accepted and not is_lost(accepted.accepted_uri or "") and set(spec.key) <= set(columns):
        firsts = ", ".join(f"first({identifier(name)}) AS {identifier(name)}" for name in labels.filled)
        before = f"SELECT {identifiers(spec.key)}, {firsts} FROM read_parquet($before) GROUP BY {identifiers(spec.key)}"
        same = " AND ".join(f"raw.{identifier(name)} = before.{identifier(name)}" for name in spec.key)
        joined += f" LEFT JOIN ({before}) AS before ON {same}"
        parameters["before"] = local(settings, accepted.accepted_uri or "")
        for name, was in old.items():
            own = f"nullif({was}, 'nan'::DOUBLE)" if spec.source.columns[name] in FLOATS else was
            old[name] = f"coalesce({own}, before.{identifier(name)})"
    return Joined(joined, parameters, changed, old)


def _fits(spec: ModelSpec, columns: dict[str, str], labels: Labels) -> bool:
    """Say whether the columns of a landed file keep the contract, but for those that are to be filled in."""
    wanted, known = spec.source.columns, {*spec.source.columns, *spec.source.ignored}
    lacking = [name for name in wanted if name not in columns and name not in labels.filled]
    return (
        not lacking
        and known >= set(columns)
        and all(fits(columns.get(name, kind), kind) for name, kind in wanted.items())
    )
