"""How the champion does on what has become known since: the error by day and slice, against the one to expect."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.spec import Frozen, Metric, ModelSpec
from flows.steps import metrics
from flows.steps.answered import PREDICTION, probabilities_of
from flows.steps.labels import HOUR, STATE, labelled, microseconds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flows.steps.metrics import Floats

EPOCH = date(1970, 1, 1)
STRATA = 10  # bins of what was answered within which errors are alike


class Expected(Frozen):
    """The champion's mean row loss on its judging part, by bins of what it answered.

    Errors differ between short and long trips, Sundays and Mondays; a few judging days have their own mix of them. The
    loss to expect of other days is the mean over their mix (post-stratification: Holt and Smith, J. R. Statist. Soc. A
    142, 1979). Numbers have the bins' inner ``edges``, as have classes that are judged by their probabilities: of the
    highest one. Classes that hit or miss have ``categories``, after which a last bin is for others. ``interval`` is that
    of ``error``, None where it is not known.
    """

    error: float
    interval: tuple[float, float] | None = None
    rows: int
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] | None = None
    losses: tuple[float, ...]


class Part(Frozen):
    """The error on some rows: a day or a slice."""

    name: str
    rows: int
    error: float
    expected: float
    low: float
    high: float


class Performance(Frozen):
    """How the champion did; errors are smaller-is-better, in the unit of the metric, NaN without labelled rows.

    ``expected`` is the error that its own test leads one to expect of these rows, ``ratio`` is error over expected.
    """

    metric: str
    first_event: datetime | None
    last_event: datetime | None
    predictions: int
    labelled: int
    waiting: int
    outside: int
    error: float
    interval: tuple[float, float]
    reference_error: float
    expected: float
    ratio: float
    ratio_interval: tuple[float, float]
    days: tuple[Part, ...]
    slices: tuple[Part, ...]
    degraded: bool


def monitored(spec: ModelSpec, expected: Expected) -> Metric:
    """Return the metric by which a version is watched: the spec's, or that of a reference of classes that hit or miss."""
    return spec.metric if expected.categories is None else Metric(name="accuracy")


def losses_of(spec: ModelSpec, metric: Metric, rows: pa.Table) -> Floats:
    """Return the loss of each answer, shape (n,), of rows with ``label`` and what the prediction log has of answers."""
    labels, predictions = rows["label"], rows[PREDICTION]
    if spec.task == "regression":
        predicted = np.asarray(predictions.cast(pa.float64()).to_numpy(), dtype=np.float64)
        return metrics.row_losses(metric, labels.cast(pa.float64()).to_numpy(), predicted)
    # Classes are logged as text: 1 and 1.0 are one class, true and false are what Arrow calls them too.
    flags = pa.types.is_boolean(labels.type)
    kind = pa.string() if flags or pa.types.is_string(labels.type) else pa.float64()
    if metric.name == "accuracy":
        missed = pc.fill_null(pc.not_equal(labels.cast(kind), predictions.cast(kind)), True)
        return np.asarray(missed.to_numpy(), dtype=np.float64)
    names, shares = probabilities_of(rows)
    classes = pa.array([name.lower() for name in names] if flags else names, pa.string()).cast(kind)
    return metrics.row_losses(metric, labels.cast(kind).to_numpy(), shares, classes.to_numpy(zero_copy_only=False))


def expect(spec: ModelSpec, rows: pa.Table) -> Expected:
    """Return what the judging part tells of the errors to come; its rows as ``losses_of`` takes them."""
    losses = losses_of(spec, spec.metric, rows)
    edges: tuple[float, ...] = ()
    categories = None
    if spec.metric.name == "accuracy":
        names = pc.unique(rows[PREDICTION].cast(pa.string())).to_pylist()
        categories = tuple(sorted(name for name in names if name))
    else:
        values = _ranked(spec, rows)
        points = np.unique(np.quantile(values, np.linspace(0, 1, STRATA + 1)[1:-1], method="inverted_cdf"))
        edges = tuple(points[points > values.min()].tolist())  # each bin holds a value
    whole = plain(metrics.error(spec.metric, losses), spec.metric, len(losses))
    bins, width = _strata(spec, edges, categories, rows)
    counts = np.bincount(bins, minlength=width)
    sums = np.bincount(bins, weights=losses, minlength=width)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), whole.losses[0])
    interval = _interval(spec, spec.metric, losses, microseconds(rows) // HOUR)
    return whole.model_copy(
        update={
            "edges": edges, "categories": categories, "losses": tuple(means.tolist()),
            "interval": interval if np.isfinite(interval).all() else None,
        }
    )  # fmt: skip


def plain(error: float, metric: Metric, rows: int = 0) -> Expected:
    """Return the expectation that knows only the error as a whole."""
    return Expected(error=error, rows=rows, losses=(error**2 if metric.name == "rmse" else error,))


def assess(spec: ModelSpec, joined: pa.Table, expected: Expected) -> Performance:
    """Return the error of one version's joined predictions beside the one to expect, by day and by slice.

    Degraded means: the whole interval of their ratio lies above ``spec.triggers.performance_ratio``, on at least
    ``min_labels`` rows. What the test promised is as sure as its own rows are many. A prediction that is not a number
    has an infinite loss and degrades.
    """
    rows, metric = labelled(joined), monitored(spec, expected)
    counts = {str(entry["values"]): entry["counts"] for entry in pc.value_counts(joined[STATE]).to_pylist()}
    losses = losses_of(spec, metric, rows)
    due = due_losses(spec, expected, rows)
    hours = microseconds(rows) // HOUR

    def part(name: str, chosen: Any) -> Part:
        low, high = _interval(spec, metric, losses[chosen], hours[chosen])
        return Part(
            name=name, rows=len(losses[chosen]), error=metrics.error(metric, losses[chosen]),
            expected=metrics.error(metric, due[chosen]), low=low, high=high,
        )  # fmt: skip

    whole = part("all", np.ones(len(losses), dtype=bool))
    ratio = metrics.ratio(whole.error, whole.expected)
    low, high = _of_two_samples(ratio, _ratio_interval(spec, metric, losses, due, hours), expected)
    if metric.name == "accuracy" and whole.expected == 0 and expected.rows:
        low = whole.low / _most_missed(expected, spec.gates.confidence)
    times = pc.min_max(joined["event_timestamp"]).as_py()
    enough = len(losses) >= spec.triggers.min_labels
    return Performance(
        metric=metric.error, first_event=times["min"],
        last_event=times["max"], predictions=joined.num_rows, labelled=len(losses), waiting=counts.get("waiting", 0),
        outside=counts.get("outside", 0), error=whole.error,
        interval=(whole.low, whole.high), reference_error=expected.error, expected=whole.expected,
        ratio=ratio, ratio_interval=(low, high),
        days=tuple(part(f"{day:%Y-%m-%d}", chosen) for day, chosen in _by_day(spec, rows)),
        slices=tuple(part(name, chosen) for name, chosen in _by_slice(spec, rows)),
        degraded=bool(enough and low > spec.triggers.performance_ratio),
    )  # fmt: skip


def due_losses(spec: ModelSpec, expected: Expected, rows: pa.Table) -> Floats:
    """Return the loss to expect of each answer, shape (n,), of rows with what the prediction log has of answers."""
    bins, _ = _strata(spec, expected.edges, expected.categories, rows)
    return np.asarray(expected.losses)[bins]


def _interval(spec: ModelSpec, metric: Metric, losses: Floats, hours: NDArray[np.int64]) -> tuple[float, float]:
    if not len(losses):
        return float("nan"), float("nan")
    if not np.isfinite(losses).all():
        return float("inf"), float("inf")
    return metrics.block_interval(metric, losses, None, hours, spec.gates.confidence, spec.training.seed)


def _ratio_interval(
    spec: ModelSpec, metric: Metric, losses: Floats, due: Floats, hours: NDArray[np.int64]
) -> tuple[float, float]:
    """Return the block-bootstrap interval of error over expected error, both on the same resampled hours."""
    if not len(losses):
        return float("nan"), float("nan")
    if not np.isfinite(losses).all():
        return float("inf"), float("inf")
    block = metrics.blocks_of(hours, spec.training.seed)
    blocks = int(block.max()) + 1
    weights = np.random.default_rng(spec.training.seed).multinomial(
        blocks, np.full(blocks, 1.0 / blocks), size=metrics.RESAMPLES
    )
    found, wanted = (weights @ np.bincount(block, weights=values) for values in (losses, due))
    tail = (1.0 - spec.gates.confidence) / 2.0
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where((found == 0) & (wanted == 0), 1.0, found / wanted)
        ratios = np.sqrt(ratios) if metric.name == "rmse" else ratios
        low, high = np.quantile(ratios, [tail, 1.0 - tail])
    # Between two infinite ratios, of hours where no error at all was expected, numpy finds no number.
    low, high = np.nan_to_num([low, high], nan=np.inf, posinf=np.inf)
    return float(low), float(high)


def _of_two_samples(ratio: float, interval: tuple[float, float], expected: Expected) -> tuple[float, float]:
    """Return the interval of a ratio whose denominator is measured as well, from the one that takes it for exact.

    Logarithms of independent figures: the distances to the limits add as squares (Zou and Donner, Statistics in Medicine
    27, 2008).
    """
    if expected.interval is None or not all(0.0 < middle < np.inf for middle in (ratio, expected.error)):
        return interval
    with np.errstate(divide="ignore"):  # a limit of few misses may be 0: then the ratio has no upper one
        middle, low, high = np.log([ratio, *interval])
        down, up = np.abs(np.log(expected.interval) - np.log(expected.error))
    return float(np.exp(middle - np.hypot(middle - low, up))), float(np.exp(middle + np.hypot(high - middle, down)))


def _most_missed(expected: Expected, confidence: float) -> float:
    """Return the share of misses that a test may still have hidden of answers of which it had none.

    Of a test without any miss that is the exact form of the rule of three (Hanley and Lippman-Hand, JAMA 249, 1983): ratios
    to none at all are infinite. Where it missed others alone, it promises of these no less than of all.
    """
    if expected.error:
        return expected.interval[1] if expected.interval else expected.error
    return float(1.0 - ((1.0 - confidence) / 2.0) ** (1.0 / expected.rows))


def _ranked(spec: ModelSpec, rows: pa.Table) -> Floats:
    """Return that of each answer on which its loss depends most: the number, or the probability of the likeliest class."""
    if spec.task == "regression":
        return np.asarray(rows[PREDICTION].cast(pa.float64()).to_numpy(), dtype=np.float64)
    highest: Floats = probabilities_of(rows)[1].max(axis=1)
    return highest


def _strata(
    spec: ModelSpec, edges: tuple[float, ...], categories: tuple[str, ...] | None, rows: pa.Table
) -> tuple[NDArray[np.int64], int]:
    """Return the bin of each answer and how many bins there are."""
    if categories is None:
        places = np.searchsorted(edges, _ranked(spec, rows), side="right") if edges else np.zeros(rows.num_rows)
        return places.astype(np.int64), len(edges) + 1
    position = pc.index_in(rows[PREDICTION].cast(pa.string()), value_set=pa.array(categories, pa.string()))
    return np.asarray(pc.fill_null(position, len(categories)).to_numpy(), dtype=np.int64), len(categories) + 1


def _by_day(spec: ModelSpec, rows: pa.Table) -> list[tuple[date, Any]]:
    """Return the local days and which rows are theirs."""
    local = rows["event_timestamp"].cast(pa.timestamp("us", ZoneInfo(spec.source.time_zone).key))
    days = pc.local_timestamp(local).cast(pa.date32()).cast(pa.int32()).to_numpy()
    return [(EPOCH + timedelta(days=int(day)), days == day) for day in np.unique(days)]


def _by_slice(spec: ModelSpec, rows: pa.Table) -> list[tuple[str, Any]]:
    """Return the names of the slices of ``slice_min_rows`` rows or more, and which rows are theirs."""
    return [
        (f"{column} = {name}", chosen)
        for column in spec.slices
        if column in rows.column_names
        for name, chosen in metrics.slices(rows[column].to_pandas(), spec.gates.slice_min_rows)
    ]
