"""Predictions and their late labels: which of them are looked at, and the join on the spec's key."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps.in_memory import connect
from flows.steps.prediction_log import read_predictions
from flows.steps.sql import identifier, identifiers

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Of a request field of the same name the join would have two.
STATE = "evergreen_state"  # of a prediction: labelled, waiting (no label yet), outside (the model does not answer for its label)
TIMES = ("version", "at", "event_timestamp")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR = 3_600_000_000  # microseconds
DAY = 24 * HOUR


def read_newest(settings: Settings, spec: ModelSpec, version: int, since: datetime | None, days: int) -> pa.Table:
    """Read a version's logged predictions for the newest ``days`` of events, of those at ``since`` or later.

    Which days these are is found by the times alone: a version that has served for months has answered far more.
    """
    timed = any(field.name == spec.source.event_time for field in spec.request)
    read = partial(read_predictions, settings, spec, by="event_timestamp" if timed else "at", version=version)
    times = newest(read(start=since if timed else None, only=TIMES), version, days)
    span = pc.min_max(times["event_timestamp"]).as_py()
    first, last = (span["min"], span["max"]) if times.num_rows else (EPOCH, EPOCH)
    return dated(read(start=first, end=last + timedelta(microseconds=1)))


def newest(predictions: pa.Table, version: int, days: int) -> pa.Table:
    """Return the predictions of one version for the newest ``days`` of events.

    The clock is the events' own, so that history and simulations are read like the present. A client may ask for any
    time, so two kinds of events do not set it: those that lie more than a day further after their answer than nine in ten
    do, and the few that lie more than a day after all others (above the 99.9 % quantile). A request without an event time
    is as old as its answer.
    """
    rows = dated(predictions.filter(pc.equal(predictions["version"], version)))
    if not rows.num_rows:
        return rows
    times = microseconds(rows)
    ahead = times - microseconds(rows, "at")
    usual = max(float(np.quantile(ahead, 0.9, method="inverted_cdf")), 0.0)
    plausible = times[ahead <= usual + DAY]
    bulk = np.quantile(plausible, 0.999, method="inverted_cdf")
    end = plausible[plausible <= bulk + DAY].max()
    return rows.filter(pa.array((times > end - days * DAY) & (times <= end)))


def dated(rows: pa.Table) -> pa.Table:
    """Return predictions with an event time each: one without it is as old as its answer."""
    place = rows.schema.get_field_index("event_timestamp")
    return rows.set_column(place, "event_timestamp", pc.coalesce(rows["event_timestamp"], rows["at"]))


def whole_days(rows: pa.Table, most: int) -> pa.Table:
    """Return the rows of the newest whole days (24 hours, back from the newest event), at most ``most``, perhaps none.

    Half a day has other hours than a training set, without any drift. A day may lack an hour at its ends.
    """
    if not rows.num_rows:
        return rows
    times = microseconds(rows)
    days = min(int((times.max() - times.min() + HOUR) // DAY), most)
    return rows.filter(pa.array(times > times.max() - days * DAY))


def join_labels(spec: ModelSpec, predictions: pa.Table, accepted_uris: Sequence[str]) -> pa.Table:
    """Return each prediction once, in order of event time, with ``label``, ``label_timestamp`` and ``state``.

    They meet on the spec's key. The same request, row and moment logged twice is one prediction; a client may give
    several requests one id. Where several labelled rows have the key, the label that was known first counts, of equals the
    smallest.
    """
    on = " AND ".join(f"p.{identifier(name)} = l.{identifier(name)}" for name in spec.key)
    low, high = spec.label.low, spec.label.high
    inside = " AND ".join(
        [*(["l.label >= $low"] if low is not None else []), *(["l.label <= $high"] if high is not None else [])]
    )
    bounds = {name: value for name, value in (("low", low), ("high", high)) if value is not None}
    with connect() as connection:
        connection.register("logged", predictions)
        if accepted_uris:
            connection.execute(
                f"CREATE TEMP TABLE known AS SELECT {identifiers(spec.key)}, label, label_timestamp "
                "FROM read_parquet($uris, union_by_name = true) WHERE label IS NOT NULL AND event_timestamp BETWEEN "
                "(SELECT min(event_timestamp) - INTERVAL 1 DAY FROM logged) AND "
                "(SELECT max(event_timestamp) + INTERVAL 1 DAY FROM logged)",
                {"uris": list(accepted_uris)},
            )
        else:
            connection.execute(
                f"CREATE TEMP TABLE known AS SELECT {identifiers(spec.key)}, NULL::DOUBLE AS label, "
                "NULL::TIMESTAMPTZ AS label_timestamp FROM logged LIMIT 0"
            )
        return connection.execute(
            f"""
            SELECT p.*, l.label, l.label_timestamp,
                   CASE WHEN l.label IS NULL THEN 'waiting' WHEN {inside or "true"} THEN 'labelled' ELSE 'outside' END
                   AS {STATE}
            FROM logged p LEFT JOIN known l ON {on}
            QUALIFY row_number() OVER (
                PARTITION BY p.request_id, p.row, p.at ORDER BY p.version, l.label_timestamp, l.label
            ) = 1
            ORDER BY p.event_timestamp, p.request_id, p.row
            """,
            bounds,
        ).to_arrow_table()


def labelled(joined: pa.Table) -> pa.Table:
    """Return the predictions whose label is known and one that the model answers for."""
    return joined.filter(pc.equal(joined[STATE], "labelled"))


def microseconds(rows: pa.Table, column: str = "event_timestamp") -> NDArray[np.int64]:
    """Return the event times, or another column of times, in microseconds since 1970, UTC."""
    times = rows[column].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    return np.asarray(times.to_numpy(), dtype=np.int64)
