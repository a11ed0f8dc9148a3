"""Has a column's distribution moved since training? Binned shares, their distance, and how far chance alone goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.spec import Frozen, Triggers
from flows.steps.answered import PREDICTION, PROBABILITIES, probabilities_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bins = NDArray[np.int64]

LABEL = "label"  # a column that is watched beside the features and the prediction
PARTS = 10  # quantile bins of a number
FLAGS = ("true", "false")
CATEGORIES = 20  # the most frequent ones; all others share a bin
USUAL = 0.9  # the share of training days whose distance counts as usual, so that one odd day does not blind the monitor
MOST_ROWS = 200_000  # of a reference: sampling error is far below what matters, and every n-th row keeps the days
FALSE_ALARMS = 0.01  # chance that sampling alone lifts any of the columns over its limit


class ColumnReference(Frozen):
    """How one column was distributed at training.

    A number has ``edges`` (bin i holds edges[i-1] <= x < edges[i], the outer bins what lies beyond the training set), a
    string ``categories`` (their bins, then one for all others). ``shares`` are those bins' shares of all rows, and last
    the share of missing values. ``noise`` is the distance that a single training day usually has from the others.
    Of answers, ``rows`` is how many there were, and ``of`` the class whose probability is meant.
    """

    name: str
    of: str | None = None
    rows: int | None = None
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] | None = None
    shares: tuple[float, ...]
    noise: float


class Reference(Frozen):
    """A training set's distributions, and the times of its first and last event if it had times."""

    rows: int
    start: datetime | None
    end: datetime | None
    columns: tuple[ColumnReference, ...]


class FeatureDrift(Frozen):
    """One column now against training; ``drifted`` if ``distance`` (0 to 1) is above ``limit`` and it is watched."""

    feature: str
    distance: float
    limit: float
    missing: float
    missing_reference: float
    samples: int
    watched: bool
    drifted: bool


def reference(table: pa.Table, columns: Sequence[str]) -> Reference:
    """Return the distributions of ``columns`` over the rows that a model is trained on.

    With an ``event_timestamp`` column, the distance of each day (24 hours from the first event) from all other days is
    measured too: a column that moves by construction, such as a weekday or a count over a window that is still filling
    up, gets a limit to match. Takes ``prediction`` and ``label`` like any other column. Of a larger table every n-th
    row counts, at most ``MOST_ROWS``; ``rows`` says how many.
    """
    timed = "event_timestamp" in table.column_names and table.num_rows
    times = pc.min_max(table["event_timestamp"]).as_py() if timed else {"min": None, "max": None}
    table = _thinned(table, columns)
    days = _days(table)
    if days is not None and (np.diff(days) < 0).any():
        order = np.argsort(days, kind="stable")
        table, days = table.take(pa.array(order)), days[order]
    found = tuple(_distribution(name, table[name], days) for name in columns)
    return Reference(rows=table.num_rows, start=times["min"], end=times["max"], columns=found)


def held_out(judged: pa.Table, trained: pa.Table) -> tuple[ColumnReference, ...]:
    """Return how a model's answers were distributed on rows that it was not fitted on, with the noise of those it was.

    Of classes that is the probability of each, of two that of the second: where one is rare, the answer is always the other.
    Answers to rows that were fitted are nearer to their labels than any later ones: compared with them, an overfitted
    model would have drifted from its first day on. The rows that judge may be a few odd days themselves: of n days that
    vary by themselves, the squared distance from what is usual is an n-th of a single day's, which is added.
    """
    columns = [name for name in (PREDICTION, PROBABILITIES) if name in judged.column_names]
    judged, trained = _thinned(judged, columns), _thinned(trained, columns)
    judged_days, trained_days = _days(judged), _days(trained)
    more = 1.0 if judged_days is None else float(np.sqrt(1.0 + 1.0 / len(np.unique(judged_days))))
    fitted = _answers(trained)
    found = []
    for of, values in list(_answers(judged).items())[:CATEGORIES]:
        column = _distribution(PREDICTION, values, None)
        bins, width = _bins(column, fitted[of])
        noise = more * _noise(bins, np.bincount(bins, minlength=width), trained_days)
        found.append(column.model_copy(update={"of": of, "noise": noise, "rows": judged.num_rows}))
    return tuple(found)


def compare(
    reference: Reference, table: pa.Table, triggers: Triggers | None = None, labelled: pa.Table | None = None
) -> list[FeatureDrift]:
    """Return the drift of each column that both sides have: the watched ones first, the farthest moved first.

    Of the classes' probabilities the one that moved farthest stands for all.

    The distance is Jensen and Shannon's on the binned shares (Lin, IEEE Trans. Inf. Theory 37, 1991; the root of the
    divergence in bits). The limit is the larger of ``triggers.drift_effect``, the effect that matters, and noise plus
    sampling: the distance is a metric (Endres and Schindelin, IEEE Trans. Inf. Theory 49, 2003), so a window drawn from
    a usual training day lies within sampling error of that day, and that day within the noise of the reference.
    Rows should span whole days. ``labelled`` holds the rows whose label is known, if that is not yet so for all.
    """
    triggers = triggers or Triggers()
    answers = _answers(table) if any(column.of is not None for column in reference.columns) else {}
    known = []
    for column in reference.columns:
        rows = labelled if column.name == LABEL and labelled is not None else table
        if column.of is not None:
            values = answers.get(column.of)
        else:
            values = rows[column.name] if column.name in rows.column_names else None
        if values is not None and rows.num_rows:
            known.append((column, values))
    if not known or not reference.rows:
        return []
    widest = max(len(column.shares) for column, _ in known)
    then, now = np.zeros((2, len(known), widest))
    for i, (column, values) in enumerate(known):
        bins, width = _bins(column, values)
        then[i, :width] = column.shares
        now[i, :width] = np.bincount(bins, minlength=width) / len(bins)
    distances = _distance(then, now)
    samples = np.array([len(values) for _, values in known])
    filled = ((then + now) > 0).sum(axis=1)
    watched = [not triggers.drift_columns or column.name in triggers.drift_columns for column, _ in known]
    rows_then = np.array([reference.rows if column.rows is None else column.rows for column, _ in known])
    chance = sampling_distance(filled, samples, rows_then, max(sum(watched), 1))
    limits = np.maximum(triggers.drift_effect, np.array([column.noise for column, _ in known]) + chance)
    drifts = [
        FeatureDrift(
            feature=_shown(column), distance=float(distances[i]), limit=float(limits[i]),
            missing=float(now[i, len(column.shares) - 1]), missing_reference=column.shares[-1], samples=int(samples[i]),
            watched=watched[i], drifted=bool(watched[i] and distances[i] > limits[i]),
        )
        for i, (column, _) in enumerate(known)
    ]  # fmt: skip
    drifts.sort(key=lambda drift: (not drift.watched, drift.limit - drift.distance, drift.feature))
    classes = {_shown(column) for column, _ in known if column.of is not None}
    farthest = next((drift.feature for drift in drifts if drift.feature in classes), None)  # it speaks for all classes
    return [drift for drift in drifts if drift.feature not in classes or drift.feature == farthest]


def sampling_distance(bins: Any, rows: Any, reference_rows: Any, columns: int) -> Any:
    """Return the distance that two samples of one distribution stay below, but for ``FALSE_ALARMS`` over all columns.

    For small differences the divergence in bits is chi-square distributed: JSD * 8 ln 2 / (1/rows + 1/reference_rows),
    with one degree of freedom less than there are bins (second-order expansion; Grosse et al., Physical Review E 65,
    041905, 2002, for samples weighted by size). Bonferroni's correction shares the chance out over the columns.
    """
    from scipy.stats import chi2

    quantile = chi2.ppf(1.0 - FALSE_ALARMS / columns, np.maximum(np.asarray(bins) - 1, 1))
    return np.sqrt(quantile * (1.0 / np.asarray(rows) + 1.0 / np.asarray(reference_rows)) / (8.0 * np.log(2.0)))


def gone_missing(drifts: Iterable[FeatureDrift], triggers: Triggers) -> list[str]:
    """Return the columns that are missing in far more rows than at training: a fault of the data, not a drift."""
    return [drift.feature for drift in drifts if drift.missing - drift.missing_reference > triggers.missing_rise]


def _distance(then: Floats, now: Floats) -> Floats:
    """Return the Jensen-Shannon distance of each row of shares, shape (n,), in [0, 1]."""
    from scipy.spatial.distance import jensenshannon

    # Equal shares may come out as the root of a rounding error below zero, which is NaN.
    return np.nan_to_num(np.asarray(jensenshannon(then, now, base=2.0, axis=1), dtype=np.float64), nan=0.0)


def _thinned(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return every n-th row of a table of more than ``MOST_ROWS``, with some columns and its times."""
    if table.num_rows <= MOST_ROWS:
        return table
    timed = ["event_timestamp"] if "event_timestamp" in table.column_names else []
    return table.select([*columns, *timed]).take(
        pa.array(np.arange(0, table.num_rows, -(-table.num_rows // MOST_ROWS)))
    )


def _shown(column: ColumnReference) -> str:
    return column.name if column.of is None else f"probability of {column.of}"


def _answers(rows: pa.Table) -> dict[str | None, pa.ChunkedArray]:
    """Return the probability of each class, the likeliest first, and of two that of the second; else answers under None."""
    if PROBABILITIES not in rows.column_names:
        return {None: rows[PREDICTION]}
    names, shares = probabilities_of(rows)
    likely = [1] if len(names) == 2 else np.argsort(-shares.mean(axis=0), kind="stable")
    return {names[place]: pa.chunked_array([shares[:, place]]) for place in likely}


def _distribution(name: str, values: pa.ChunkedArray, days: Bins | None) -> ColumnReference:
    numbers = None if _is_text(values) else _numbers(values)
    edges, categories = ((), _categories(values)) if numbers is None else (_edges(numbers), None)
    empty = ColumnReference(name=name, edges=edges, categories=categories, shares=(), noise=0.0)
    bins, width = _bins(empty, values)
    counts = np.bincount(bins, minlength=width)
    shares = tuple((counts / max(len(bins), 1)).tolist())
    noise = _noise(bins, counts, days)
    if numbers is not None and days is not None:
        noise = max(noise, _beyond(numbers, days))
    return empty.model_copy(update={"shares": shares, "noise": noise})


def _days(table: pa.Table) -> Bins | None:
    """Return the number of each row's day, 0, 1, ..., or None without times."""
    if "event_timestamp" not in table.column_names or not table.num_rows:
        return None
    times = table["event_timestamp"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy() // 1_000_000
    return np.asarray((times - times.min()) // 86_400, dtype=np.int64)


def _noise(bins: Bins, counts: Bins, days: Bins | None) -> float:
    """Return the distance from all other days that nine tenths of the days stay below, without their sampling error.

    Days cut short do not count. What sampling adds to the squared distance on average, (bins - 1) / (8 ln 2) times the
    reciprocal rows of both sides, is taken off.
    """
    if days is None:
        return 0.0
    width = len(counts)
    by_day = np.bincount(days * width + bins, minlength=(int(days.max()) + 1) * width).reshape(-1, width)
    rows = by_day.sum(axis=1)
    whole = by_day[rows >= np.median(rows[rows > 0]) / 2.0]
    if len(whole) < 2:
        return 0.0
    others = counts[None, :] - whole
    distances = _distance(others / others.sum(axis=1, keepdims=True), whole / whole.sum(axis=1, keepdims=True))
    bins_used = (counts > 0).sum() - 1
    chance = bins_used * (1.0 / whole.sum(axis=1) + 1.0 / others.sum(axis=1)) / (8.0 * np.log(2.0))
    return float(np.sqrt(max(0.0, np.quantile(np.square(distances) - chance, USUAL))))


def _beyond(numbers: Floats, days: Bins) -> float:
    """Return the distance that a day usually has from all but the newest before it, by the values alone that lie beyond theirs.

    A charge that only falls, or a count that only rises, does so on each day: a training set holds none of what is next.
    ``days`` come in order.
    """
    known = np.isfinite(numbers)
    numbers, days = (numbers, days) if known.all() else (numbers[known], days[known])
    starts = np.flatnonzero(np.diff(days, prepend=-1))
    present, rows = days[starts], np.diff(starts, append=len(days))
    before = (
        np.searchsorted(present, present - 2, side="right") - 1
    )  # the last day to compare with; -1 if there is none
    later = (before >= 0) & (present > days[-1] / 2 if len(days) else False)  # those before have seen little
    if not later.any():
        return 0.0
    low = np.minimum.accumulate(np.minimum.reduceat(numbers, starts))[before]
    high = np.maximum.accumulate(np.maximum.reduceat(numbers, starts))[before]
    beyond = (numbers < np.repeat(low, rows)) | (numbers > np.repeat(high, rows))
    share = float(np.quantile((np.add.reduceat(beyond, starts) / rows)[later], USUAL))
    return float(_distance(np.array([[0.0, 1.0]]), np.array([[share, 1.0 - share]]))[0])


def _is_text(column: pa.ChunkedArray) -> bool:
    return bool(
        pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_dictionary(column.type)
    )


def _numbers(column: pa.ChunkedArray) -> Floats:
    if (
        pa.types.is_string(column.type) and pc.all(pc.is_in(column.drop_null(), pa.array(FLAGS))).as_py()
    ):  # a class in the log
        column = column.cast(pa.bool_())
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


def _edges(values: Floats) -> tuple[float, ...]:
    """Return the edges of quantile bins; a value that fills a bin by itself gets its own."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return ()
    points = np.quantile(finite, np.linspace(0.0, 1.0, PARTS + 1), method="inverted_cdf")
    repeated = points[1:][np.diff(points) == 0]
    return tuple(np.unique([*points, *np.nextafter(repeated, np.inf), np.nextafter(points[-1], np.inf)]).tolist())


def _categories(column: pa.ChunkedArray) -> tuple[str, ...]:
    """Return the most frequent values, most frequent first, ties by name."""
    counted = pc.value_counts(column.cast(pa.string()).drop_null()).to_pylist()
    ranked = sorted(counted, key=lambda entry: (-entry["counts"], entry["values"]))
    return tuple(entry["values"] for entry in ranked[:CATEGORIES])


def _bins(column: ColumnReference, values: pa.ChunkedArray) -> tuple[Bins, int]:
    """Return the bin of each value and how many bins there are; the last one is for missing values."""
    if column.categories is not None:
        width = len(column.categories) + 2
        position = pc.index_in(values.cast(pa.string()), value_set=pa.array(column.categories, pa.string()))
        bins = np.asarray(pc.fill_null(position, width - 2).to_numpy(), dtype=np.int64)
        return np.where(np.asarray(pc.is_null(values).to_numpy()), width - 1, bins), width
    width = len(column.edges) + 2
    numbers = _numbers(values)
    return np.where(np.isnan(numbers), width - 1, np.searchsorted(column.edges, numbers, side="right")), width
