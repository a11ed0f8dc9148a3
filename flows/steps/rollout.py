"""The rules of a trial: who answers a request, when a challenger is broken, and what its labels say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from flows.settings import Settings
from flows.spec import Frozen, Metric, ModelSpec, Rollout
from flows.steps import metrics

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from flows.steps.metrics import Floats
    from flows.trials import Trial

LEAST_REQUESTS = 20  # before the challenger's time is compared
LEAST_HOURS = 10  # fewer of them would promise too narrow an interval: then single rows are resampled
EARLY = 4  # a failure may be told from this part of the labels that a promotion needs


class Tally(Frozen):
    """What was counted of a trial's requests.

    ``failed`` raised or answered what is no number, ``late`` took longer than the deadline; the champion answered both.
    ``unfit`` brought what only the champion understands, ``dropped`` were copies that a busy shadow did not take. Median
    seconds of an answer, None before there was one.
    """

    requests: int = 0
    failed: int = 0
    late: int = 0
    unfit: int = 0
    dropped: int = 0
    seconds: float | None = None
    champion_seconds: float | None = None
    last_error: str | None = None


class Scores(Frozen):
    """Labelled errors of challenger and champion, smaller is better, and the interval of their difference.

    Of a shadow on the same requests, of a canary on those that each answered.
    """

    metric: str
    labelled: int
    champion_labelled: int
    error: float | None
    champion_error: float | None
    interval: tuple[float, float] | None


class Ruling(Frozen):
    """What is to become of a trial, and why."""

    state: Literal["running", "passed", "failed"]
    why: str


def is_chosen(share: float, version: int, key: bytes) -> bool:
    """Say whether the challenger answers a key: the same key always alike, whatever process asks.

    The version salts it, so that not the same keys bear every trial.
    """
    place = int.from_bytes(sha256(b"%d:" % version + key).digest()[:8], "big")
    return place < share * 2.0**64


def broken(rollout: Rollout, tally: Tally) -> str | None:
    """Return which bound on failures or time a challenger has broken, None if it keeps them."""
    bad = tally.failed + tally.late
    if bad > rollout.forgiven and bad > rollout.max_error_rate * tally.requests:
        last = f"; the last: {tally.last_error}" if tally.last_error else ""
        return f"{tally.failed} failed and {tally.late} late of {tally.requests} requests{last}"
    if tally.seconds is None or tally.champion_seconds is None or tally.requests < LEAST_REQUESTS:
        return None
    most = max(rollout.latency_ratio * tally.champion_seconds, rollout.latency_ms / 1000)
    if tally.seconds > most:
        return (
            f"its median is {1000 * tally.seconds:.3g} ms where the champion's is {1000 * tally.champion_seconds:.3g} ms; "
            f"at most {1000 * most:.3g} ms are allowed"
        )
    return None


def together(tallies: Mapping[str, Mapping[str, Any]]) -> Tally:
    """Return the sum of what several processes counted; of their medians the largest counts."""
    found = [Tally.model_validate(one) for one in tallies.values()]
    mine = [one.seconds for one in found if one.seconds is not None]
    theirs = [one.champion_seconds for one in found if one.champion_seconds is not None]
    counts = {
        name: sum(getattr(one, name) for one in found) for name in ("requests", "failed", "late", "unfit", "dropped")
    }
    return Tally(
        **counts, seconds=max(mine, default=None), champion_seconds=max(theirs, default=None),
        last_error=next((one.last_error for one in found if one.last_error), None),
    )  # fmt: skip


def rule(rollout: Rollout, tally: Tally, scores: Scores, started: datetime, now: datetime) -> Ruling:
    """Decide on a trial: failed if a bound is broken, passed if its labels show it to be not worse, else it goes on.

    It is worse if the whole interval of the difference lies above the tolerance, and not worse if the difference
    itself lies within. In between the labels do not tell, and more are waited for.
    """
    why = broken(rollout, tally)
    if why:
        return Ruling(state="failed", why=why)
    told = f"{scores.labelled} of {rollout.min_labels} labels"
    least = min(scores.labelled, scores.champion_labelled)
    if scores.error is not None and scores.champion_error is not None and scores.interval is not None:
        allowed = rollout.tolerance * scores.champion_error
        told = (
            f"{scores.metric} {scores.error:.4g} on {scores.labelled} labels, the champion's {scores.champion_error:.4g} on "
            f"{scores.champion_labelled}; difference {scores.interval[0]:.3g} to {scores.interval[1]:.3g}"
        )
        if least * EARLY >= rollout.min_labels and not scores.interval[0] <= allowed:
            return Ruling(state="failed", why=f"worse: {told}, {allowed:.3g} is allowed")
        if least >= rollout.min_labels and scores.error - scores.champion_error <= allowed:
            return Ruling(state="passed", why=f"not worse: {told}")
    if now - started > rollout.longest:
        return Ruling(state="failed", why=f"no verdict within {rollout.longest}: {told}")
    return Ruling(state="running", why=told)


def measure(settings: Settings, spec: ModelSpec, trial: Trial, accepted_uris: Sequence[str]) -> Scores:
    """Return what the labels say of a trial's answers since it began.

    A shadow's answers are compared with the champion's to the same rows (paired), a canary's with those that the
    champion gave meanwhile to other keys, which were chosen by hash.
    """
    import pyarrow.compute as pc

    from flows.steps.prediction_log import read_predictions

    served = read_predictions(settings, spec, start=trial.started_at)
    theirs = served.filter(pc.equal(served["version"], trial.champion_version))
    ours = served.filter(pc.equal(served["version"], trial.version))
    if trial.kind == "shadow":
        ours = read_predictions(settings, spec, start=trial.started_at, role="shadow")
        ours = ours.filter(pc.equal(ours["version"], trial.version))
    mine, champion = (_labelled(spec, rows, accepted_uris) for rows in (ours, theirs))
    if trial.kind == "shadow":
        mine, champion = _paired(mine, champion)
    return compare(spec, mine, champion, paired=trial.kind == "shadow")


def compare(spec: ModelSpec, mine: pa.Table, champion: pa.Table, paired: bool) -> Scores:
    """Return the scores of labelled rows; paired tables hold the same rows in the same order."""
    from flows.steps.labels import HOUR, microseconds
    from flows.steps.performance import losses_of

    metric = spec.metric
    counts = {"metric": metric.error, "labelled": mine.num_rows, "champion_labelled": champion.num_rows}
    if not mine.num_rows or not champion.num_rows:
        return Scores(**counts, error=None, champion_error=None, interval=None)
    ours, theirs = (losses_of(spec, metric, rows) for rows in (mine, champion))
    ours, theirs = np.minimum(ours, 1e300), np.minimum(theirs, 1e300)  # what is no number is infinitely wrong
    our_hours, their_hours = microseconds(mine) // HOUR, microseconds(champion) // HOUR
    few = len(np.unique(np.concatenate([our_hours, their_hours]))) < LEAST_HOURS
    if few:
        our_hours, their_hours = np.arange(len(ours)), np.arange(len(theirs))
    confidence, seed = spec.gates.confidence, spec.training.seed
    if paired:
        interval = metrics.block_interval(metric, ours, theirs, our_hours, confidence, seed)
    else:
        if few:
            their_hours = their_hours + len(ours)
        interval = unpaired_interval(metric, ours, our_hours, theirs, their_hours, confidence, seed)
    return Scores(
        **counts, error=metrics.error(metric, ours), champion_error=metrics.error(metric, theirs), interval=interval
    )


def unpaired_interval(
    metric: Metric,
    ours: Floats,
    our_hours: NDArray[np.int64],
    theirs: Floats,
    their_hours: NDArray[np.int64],
    confidence: float,
    seed: int,
) -> tuple[float, float]:
    """Return the block-bootstrap interval of our error minus theirs, each on rows of its own.

    Hours that both have are drawn together: what made an hour hard was hard for both.
    """
    both = np.concatenate([our_hours, their_hours])
    block = metrics.blocks_of(both, seed)
    blocks = int(block.max()) + 1
    weights = np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1.0 / blocks), size=metrics.RESAMPLES)

    def errors(losses: Floats, place: NDArray[np.int64]) -> Floats:
        rows = weights @ np.bincount(place, minlength=blocks)
        with np.errstate(divide="ignore", invalid="ignore"):
            means = (weights @ np.bincount(place, weights=losses, minlength=blocks)) / rows
        return np.sqrt(means) if metric.name == "rmse" else means

    tail = (1.0 - confidence) / 2.0
    difference = errors(ours, block[: len(ours)]) - errors(theirs, block[len(ours) :])
    low, high = np.nanquantile(difference, [tail, 1.0 - tail])
    return float(low), float(high)


def _labelled(spec: ModelSpec, rows: pa.Table, accepted_uris: Sequence[str]) -> pa.Table:
    """Return the rows whose label is known, each request's row once; one without an event time is as old as its answer."""
    from flows.steps.labels import dated, join_labels, labelled

    return labelled(join_labels(spec, dated(rows), accepted_uris))


def _paired(mine: pa.Table, champion: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the rows of both tables that answer the same row of the same request at the same time, in one order."""
    import pyarrow as pa

    on = ["request_id", "row", "at"]
    places = [
        rows.select(on).append_column(name, pa.array(np.arange(rows.num_rows)))
        for rows, name in ((mine, "mine"), (champion, "champion"))
    ]
    pairs = places[0].join(places[1], on, join_type="inner").sort_by("mine")
    return mine.take(pairs["mine"]), champion.take(pairs["champion"])
