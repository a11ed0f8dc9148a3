"""Retrain or not: one decision from all that monitoring found, with its reasons; no input or output in here."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from flows.ledger import Partition, Promotion, Run
from flows.spec import Frozen, Triggers
from flows.steps.drift import FeatureDrift, gone_missing
from flows.steps.performance import Performance


class Facts(Frozen):
    """What the decision rests on.

    ``since_training`` is the time since the last training began, ``new_partitions`` how many were accepted after it,
    ``age`` how far the newest data lies past what the champion was fitted on. ``data_problems`` are texts for people.
    """

    performance: Performance | None = None
    drift: tuple[FeatureDrift, ...] = ()
    since_training: timedelta | None = None
    new_partitions: int = 0
    age: timedelta | None = None
    data_problems: tuple[str, ...] = ()


class Decision(Frozen):
    """Retrain, for all of ``reasons``; or not, because there is none or because of what ``held`` says."""

    retrain: bool
    reasons: tuple[str, ...]
    held: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def gather(
    triggers: Triggers,
    performance: Performance,
    drift: Iterable[FeatureDrift],
    champion: Promotion,
    fitted_until: datetime | None,
    partitions: Iterable[Partition],
    runs: Iterable[Run],
    now: datetime,
) -> Facts:
    """Return the facts from what was measured and what the ledger holds; ``fitted_until`` ends the fitted data.

    The data of a training that failed is still new; its time counts all the same: failures must not chase each other.
    """
    partitions, drift = list(partitions), tuple(drift)
    trainings = [run for run in runs if run.flow == "train"]
    begun = max((run.started_at for run in trainings), default=champion.at)
    learned = max((run.started_at for run in trainings if run.state == "completed"), default=champion.at)
    accepted = [one for one in partitions if one.status == "accepted"]
    newest = max((one.last_event for one in accepted if one.last_event), default=None)
    mended = {one.key for one in accepted}
    problems = [
        f"partition {one.key} is quarantined: {'; '.join(one.reasons) or 'no reason recorded'}"
        for one in partitions
        if one.status == "quarantined" and one.key not in mended and one.decided_at and one.decided_at > learned
    ]
    missing = gone_missing(drift, triggers)
    if missing:
        problems.append(f"missing far more often than at training: {', '.join(missing)}; see `evergreen featurize`")
    return Facts(
        performance=performance, drift=drift, since_training=now - begun,
        new_partitions=sum(1 for one in accepted if one.decided_at and one.decided_at > learned),
        age=newest - fitted_until if newest and fitted_until else None, data_problems=tuple(problems),
    )  # fmt: skip


def decide(facts: Facts, triggers: Triggers) -> Decision:
    """Return one decision that names every cause.

    A data problem is only noted: bad data is no reason to learn from it. A cause is held back while the last training
    is too recent, or if no partition was accepted since: the same data would make the same model, again and again.
    """
    causes = [_degraded(facts, triggers), _drifted(facts, triggers), _stale(facts, triggers)]
    reasons = tuple(cause for cause in causes if cause)
    held = []
    if reasons and facts.since_training is not None and facts.since_training < triggers.cool_down:
        ago, needed = _span(facts.since_training), _span(triggers.cool_down)
        held.append(f"the last training was {ago} ago, the cool-down is {needed}")
    if reasons and not facts.new_partitions:
        held.append("no partition was accepted since the last training: there is nothing new to learn from")
    return Decision(retrain=bool(reasons and not held), reasons=reasons, held=tuple(held), notes=facts.data_problems)


def _degraded(facts: Facts, triggers: Triggers) -> str:
    found = facts.performance
    if found is None or not found.degraded:
        return ""
    low, high = found.ratio_interval
    return (
        f"performance: {found.metric} {found.error:.3g} on {found.labelled:,} labelled predictions, {found.ratio:.2f} "
        f"times ({low:.2f} to {high:.2f}) the {found.expected:.3g} expected, more than {triggers.performance_ratio:g}"
    )


def _drifted(facts: Facts, triggers: Triggers) -> str:
    moved = [drift for drift in facts.drift if drift.drifted]
    if len(moved) < triggers.drift_features:
        return ""
    return "drift: " + ", ".join(f"{one.feature} {one.distance:.2f} (limit {one.limit:.2f})" for one in moved)


def _stale(facts: Facts, triggers: Triggers) -> str:
    if facts.age is None or triggers.max_age is None or facts.age <= triggers.max_age:
        return ""
    age, most = _span(facts.age), _span(triggers.max_age)
    return f"staleness: the newest data is {age} past the training data, more than {most}"


def _span(time: timedelta) -> str:
    """Return a length of time in words, in its largest fitting unit."""
    seconds = time.total_seconds()
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
