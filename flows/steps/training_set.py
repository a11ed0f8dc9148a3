"""The training set: which rows, joined with the features as they were known, split by time."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather

from flows.errors import RefusedError
from flows.ledger import ROWS, Partition
from flows.settings import Settings
from flows.spec import Frozen, ModelSpec
from flows.steps import feature_record, feature_store
from flows.steps.arrival import arrived, drawn
from flows.steps.feature_tables import next_tick
from flows.steps.files import sha256_of, write_arrow
from flows.steps.in_memory import connect
from flows.steps.reading import describe
from flows.steps.sql import identifier, identifiers
from flows.steps.storage import locals_of, pull

if TYPE_CHECKING:
    import pandas as pd
    from duckdb import DuckDBPyConnection
    from feast import FeatureStore

ACCEPTED = "read_parquet($uris, union_by_name = true)"
DRAWN = "drawn_"  # how columns of features begin that are those of a row which trains
PART = "part"  # the column that says "train" or "judge"
SAMPLE = "evergreen_sample"  # the column by which a budget chooses: a hash of the row's key


class Window(Frozen):
    """Times of the split, UTC: rows of [start, split) train, rows of [split, end) judge."""

    start: datetime
    split: datetime
    end: datetime
    partition_ids: tuple[int, ...]


class TrainingSet(Frozen):
    """A written training set: where it is, its hash, and what its columns mean."""

    uri: str
    digest: str
    features: tuple[str, ...]
    train_rows: int
    judge_rows: int
    window: Window
    feature_files: tuple[feature_record.FeatureFile, ...] = ()


def choose_window(
    spec: ModelSpec,
    accepted: list[Partition],
    judge: timedelta | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Window:
    """Return the newest window of a model's accepted partitions and its split: the newest part judges.

    It ends where labels end: rows that still wait for theirs judge nothing, and days of them would be no judging part.
    ``until`` is an end to go back to, ``since`` a start in place of the one that the spec's window gives. Raises
    RefusedError if nothing was accepted, the data is not longer than the judging part, or the feature tables do not
    hold all of the window yet: its newest rows would be trained with the features of earlier days.
    """
    known = [partition for partition in accepted if partition.first_event and partition.last_event]
    if not known:
        raise RefusedError(
            f"{spec.name}: no accepted partition to train on; run `evergreen ingest SOURCE` first, or see "
            "in `evergreen partitions` why none was taken"
        )
    newest = timedelta(microseconds=1)
    end = max(one.labelled_until or one.first_event for one in known if one.first_event) + newest
    end = min(end, until or end)
    first = min(partition.first_event for partition in known if partition.first_event)
    split = next_tick(spec, end - newest) - (judge or spec.training.judge)
    start = max(first, since or split - spec.training.window)
    if split <= start:
        span = max(end - max(first, since or first), timedelta(0))
        raise RefusedError(
            f"{spec.name}: the accepted data spans {span}, not more than the {judge or spec.training.judge} "
            "that judge the model; ingest more, or shorten the judging part"
        )
    used = [p for p in known if p.last_event and p.first_event and p.last_event >= start and p.first_event < end]
    waiting = [p.key for p in used if p.featurized_at is None]
    if waiting:
        raise RefusedError(
            f"{spec.name}: the feature tables lack {len(waiting)} accepted partitions ({', '.join(waiting[:3])}"
            f"{', …' if len(waiting) > 3 else ''}); run `evergreen featurize --model {spec.name}` first"
        )
    return Window(start=start, split=split, end=end, partition_ids=tuple(p.id for p in used))


def made_otherwise(partitions: list[Partition]) -> list[str]:
    """Return the keys of those partitions whose event rows another ``rows`` of the model has made than the newest ones."""
    known = [one for one in partitions if one.decided_at and ROWS in one.validation]
    if not known:
        return []
    newest = max(known, key=lambda one: one.decided_at or one.landed_at).validation[ROWS]
    return [one.key for one in known if one.validation[ROWS] != newest]


def build(
    settings: Settings, store: FeatureStore, spec: ModelSpec, partitions: list[Partition], window: Window, folder: Path
) -> TrainingSet:
    """Write the training set of a window: the rows that count, with their features as they were known.

    The feature tables are held as they are meanwhile, so that all views are of one time and the files named are those read.
    """
    uris = [p.accepted_uri for p in partitions if p.id in set(window.partition_ids) and p.accepted_uri]
    selected = select_rows(spec, locals_of(settings, uris), window)
    with feature_store.held_still(settings, spec.name):
        pull(settings, settings.features(spec.name))
        files = feature_record.feature_files(store, spec)
        rows = feature_store.historical(store, spec, selected, _past(spec, selected))
    names = feature_store.feature_names(store, spec)
    return write_training_set(rows, names, window, folder).model_copy(update={"feature_files": files})


def _past(spec: ModelSpec, rows: pa.Table) -> pa.ChunkedArray:
    """Return up to when the past of each row is there: what judges is joined as served, what trains has a past of any age."""
    times = rows["event_timestamp"]
    return pc.if_else(pc.equal(rows[PART], "judge"), arrived(spec, times), drawn(spec, times))


def as_trained(rows: pa.Table, features: tuple[str, ...]) -> pa.Table:
    """Return the rows of a window, whose features are those served, with the ``DRAWN`` ones where they train, if there are."""
    judges = pc.equal(rows[PART], "judge")
    for name in features:
        if DRAWN + name in rows.column_names:
            chosen = pc.if_else(judges, rows[name], rows[DRAWN + name])
            rows = rows.set_column(rows.column_names.index(name), name, chosen).drop_columns([DRAWN + name])
    return rows


def select_rows(spec: ModelSpec, files: list[str], window: Window) -> pa.Table:
    """Return the rows of partitions' files that train or judge, in order of time: keys, request fields, label and both times."""
    return parted(spec, read_rows(spec, files, window.start, window.end, window.split), window)


def read_rows(
    spec: ModelSpec, files: list[str], start: datetime, end: datetime, split: datetime | None = None
) -> pa.Table:
    """Return the rows of [start, end) whose label the model answers for, in order of time.

    Where ``spec.training.max_rows`` is set each has a hash of its key, by which ``parted`` chooses. With ``split``, the
    start of the judging part, what it will leave out is not even read. A column that came into the contract later has no
    values in the rows of before; raises RefusedError if no file has it, or if it is one that the model's rows were to give.
    """
    columns = list(dict.fromkeys([*(field.name for field in spec.request), *spec.key]))
    low, high = spec.label.low, spec.label.high
    bounds: dict[str, float] = {}
    counts = "label IS NOT NULL"  # classes may be texts, which are not compared with numbers
    if spec.task == "regression":
        bounds = {"low": -float("inf") if low is None else low, "high": float("inf") if high is None else high}
        counts = "label >= $low AND label <= $high"
    where = f"event_timestamp >= $start AND event_timestamp < $end AND {counts}"
    values = {"uris": files, "start": start, "end": end, **bounds}
    limit, added = spec.training.max_rows, ""
    with connect() as connection:
        _refuse_absent(connection, spec, files, columns)
        if limit is not None:
            sample = f"md5_number_lower(concat_ws(chr(31), {', '.join(f'CAST({identifier(k)} AS VARCHAR)' for k in spec.key)}))"
            added = f", {sample} AS {SAMPLE}"
            if split:
                known = "event_timestamp < $split AND label_timestamp <= $split"
                (highest,) = connection.execute(
                    f"SELECT max(h) FROM (SELECT {sample} AS h FROM {ACCEPTED} WHERE {where} AND {known} "
                    "ORDER BY h LIMIT $limit)",
                    {**values, "split": split, "limit": limit},
                ).fetchone() or (None,)
                where += f" AND (event_timestamp >= $split OR {sample} <= $highest)"
                values |= {"split": split, "highest": highest}
        return connection.execute(
            f"""
            SELECT {identifiers(columns)}, event_timestamp, label_timestamp, label{added} FROM {ACCEPTED}
            WHERE {where}
            ORDER BY event_timestamp, {identifiers(columns)}, label, label_timestamp
            """,
            values,
        ).to_arrow_table()


def _refuse_absent(connection: DuckDBPyConnection, spec: ModelSpec, files: list[str], columns: list[str]) -> None:
    """Raise RefusedError if no file has a column, or if some lack one that the model's rows were to give."""
    held = describe(connection, f"SELECT * FROM {ACCEPTED}", {"uris": files})
    absent = [name for name in columns if name not in held]
    made = {*columns} - {*spec.source.columns}
    older = {}
    if made:
        import pyarrow.parquet as pq

        lacking = {Path(file).stem: made - {*pq.read_schema(file).names} for file in files}
        older = {name: lost for name, lost in lacking.items() if lost}
    if older:
        raise RefusedError(
            f"{spec.name}: the accepted rows of {len(older)} of {len(files)} partitions (the first {next(iter(older))}) lack "
            f"{', '.join(sorted(set().union(*older.values())))}, which {spec.rows} did not give when they came; ingest their "
            "sources again by name, which makes them anew"
        )
    if absent:
        raise RefusedError(
            f"{spec.name}: no accepted row has a column {', '.join(absent)}, which the spec names; land files that have it"
        )


def parted(spec: ModelSpec, rows: pa.Table, window: Window) -> pa.Table:
    """Return the rows of a window with the part that each belongs to.

    A training row counts only if its label was known at the split: what trains must have been there when the judging
    part began. Of more than ``spec.training.max_rows`` those with the lowest hashes of their keys train: the same wherever
    they are joined, and all of them again under a larger budget. Raises RefusedError for too few rows, or of one class alone.
    """
    times = rows["event_timestamp"]
    start, split, end = (pa.scalar(moment, times.type) for moment in (window.start, window.split, window.end))
    judges = pc.greater_equal(times, split)
    known = pc.less_equal(rows["label_timestamp"], split.cast(rows["label_timestamp"].type))
    inside = pc.and_(pc.greater_equal(times, start), pc.less(times, end))
    rows = rows.append_column(PART, pc.if_else(judges, "judge", "train")).filter(
        pc.and_(inside, pc.or_kleene(judges, known))
    )
    parts = {name: pc.sum(pc.equal(rows[PART], name)).as_py() or 0 for name in ("train", "judge")}
    if parts["train"] < spec.training.min_rows or not parts["judge"]:
        raise RefusedError(
            f"{spec.name}: {parts['train']} rows to train on and {parts['judge']} to judge, "
            f"at least {spec.training.min_rows} and 1 are needed; ingest more, or change spec.training"
        )
    if SAMPLE in rows.column_names:
        rows = _within_budget(rows, spec.training.max_rows)
        parts["train"] = min(parts["train"], spec.training.max_rows or parts["train"])
    classes = pc.unique(rows.filter(pc.equal(rows[PART], "train"))["label"])
    if spec.task != "regression" and len(classes) < 2:
        raise RefusedError(
            f"{spec.name}: all {parts['train']} rows to train on are of class {classes[0].as_py()!r}, and there is nothing "
            "to learn from one; ingest more, and see that the rows come in the order of time"
        )
    return rows


def _within_budget(rows: pa.Table, limit: int | None) -> pa.Table:
    """Return the judging rows and at most ``limit`` training rows, without the column of hashes."""
    import numpy as np

    train = pc.equal(rows[PART], "train").to_numpy()
    places = np.flatnonzero(train)
    chosen = ~train
    chosen[places[np.argsort(rows[SAMPLE].to_numpy()[places], kind="stable")[:limit]]] = True
    return rows.filter(pa.array(chosen)).drop_columns([SAMPLE])


def write_training_set(rows: pa.Table, features: list[str], window: Window, folder: Path) -> TrainingSet:
    """Write the joined rows and return their record."""
    path = write_arrow(rows, folder / "training_set.arrow")
    train = pc.sum(pc.equal(rows[PART], "train")).as_py()
    return TrainingSet(
        uri=str(path), digest=sha256_of(path), features=tuple(features), train_rows=train,
        judge_rows=rows.num_rows - train, window=window,
    )  # fmt: skip


def read_part(data: TrainingSet, part: str) -> pa.Table:
    """Read the rows of one part of a training set; where they lie side by side they are not copied."""
    rows = feather.read_table(data.uri, memory_map=True)
    chosen = pc.equal(rows[PART], part)
    first, count = max(pc.index(chosen, True).as_py(), 0), pc.sum(chosen).as_py() or 0
    if pc.all(chosen.slice(first, count)).as_py():
        return rows.slice(first, count)
    return rows.filter(chosen)


def matrix(rows: pa.Table, features: tuple[str, ...]) -> pd.DataFrame:
    """Return the model's input: one column a feature, in order; numbers as float64 with NaN for missing."""
    columns = {
        name: column.cast(pa.float64()) if not pa.types.is_string(column.type) else column
        for name, column in ((name, rows[name]) for name in features)
    }
    frame: pd.DataFrame = pa.table(columns).to_pandas()
    return frame
