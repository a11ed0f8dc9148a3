"""Retrain or not: one decision from all that is known, with its reasons; no input or output in here."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from flows.causes import Cause
from flows.database import CLOCKS_APART
from flows.events import Kind
from flows.ledger import Partition, Promotion
from flows.run_records import Run
from flows.spec import Frozen, Triggers
from flows.steps.drift import FeatureDrift, gone_missing
from flows.steps.performance import Performance
from flows.steps.policies import Known, weigh

# How the reason of a cause that no person gave begins.
NAMED = ("schedule", "new data:", "performance:", "distribution:", "drift:", "staleness:")
# What a policy looks at says what kind of cause its wish for a training is; any other looks at errors.
BY_TIME = ("every-period", "cara-periodic", "retrainopt-base")


class Facts(Frozen):
    """What the decision rests on.

    ``causes`` were raised before and wait. ``since_training`` is the time since the last training began;
    ``new_partitions``, ``new_rows`` and ``new_keys`` tell of what was accepted after it, ``since_accepted`` and
    ``champion_age`` count by the wall clock, ``age`` is how far the newest data lies past what the champion was fitted on.
    ``known`` is what a policy other than the spec's own thresholds looks at. ``data_problems`` are texts for people.
    """

    causes: tuple[Cause, ...] = ()
    performance: Performance | None = None
    drift: tuple[FeatureDrift, ...] = ()
    since_training: timedelta | None = None
    new_partitions: int = 0
    new_rows: int = 0
    new_keys: tuple[str, ...] = ()
    age: timedelta | None = None
    since_accepted: timedelta | None = None
    champion_age: timedelta | None = None
    known: Known | None = None
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
    """Return the facts from what was measured and what the ledger holds; ``fitted_until`` ends the fitted data."""
    partitions, drift = list(partitions), tuple(drift)
    known = standing(champion, partitions, runs, now)
    newest = max((one.last_event for one in partitions if one.status == "accepted" and one.last_event), default=None)
    missing = gone_missing(drift, triggers)
    problems = list(known.data_problems)
    if missing:
        problems.append(
            f"missing far more often than at training: {', '.join(missing)}; `evergreen features` says what their tables hold"
        )
    return known.model_copy(
        update={
            "performance": performance, "drift": drift, "data_problems": tuple(problems),
            "age": newest - fitted_until if newest and fitted_until else None,
        }
    )  # fmt: skip


def standing(
    champion: Promotion | None,
    partitions: Iterable[Partition],
    runs: Iterable[Run],
    now: datetime,
    causes: Iterable[Cause] = (),
) -> Facts:
    """Return the facts that the ledger alone holds.

    The data of a training that failed is still new; its time counts all the same: failures must not chase each other.
    One that is under way counts as if it had come to its end, one that a wrong clock puts into the future does not: nothing
    would be new, or cooled down, until then.
    """
    partitions = list(partitions)
    latest = now + CLOCKS_APART
    trainings = [run for run in runs if run.flow == "train" and run.started_at <= latest]
    first = champion.at if champion and champion.at <= latest else None
    begun = max((run.started_at for run in trainings), default=first)
    learned = max((run.started_at for run in trainings if run.state in ("completed", "running")), default=first)
    accepted = [one for one in partitions if one.status == "accepted"]
    fresh = [one for one in accepted if one.decided_at and (learned is None or one.decided_at > learned)]
    mended = {one.key for one in accepted}
    problems = [
        f"partition {one.key} is quarantined: {'; '.join(one.reasons) or 'no reason recorded'}"
        for one in partitions
        if one.status == "quarantined"
        and one.key not in mended
        and one.decided_at
        and (learned is None or one.decided_at > learned)
    ]
    last = max((one.decided_at for one in accepted if one.decided_at), default=None)
    return Facts(
        causes=tuple(causes), since_training=now - begun if begun else None, new_partitions=len(fresh),
        new_rows=sum(one.accepted_rows for one in fresh), new_keys=tuple(sorted(one.key for one in fresh)),
        since_accepted=now - last if last else None, champion_age=now - champion.at if champion else None,
        data_problems=tuple(problems),
    )  # fmt: skip


def decide(facts: Facts, triggers: Triggers) -> Decision:
    """Return one decision that names every cause.

    A data problem is only noted: bad data is no reason to learn from it. A cause is held back while the last training
    is too recent, or if no partition was accepted since: the same data would make the same model, again and again. A
    person who asks for a training gets one.
    """
    reasons = tuple(dict.fromkeys([*(cause.reason for cause in facts.causes), *findings(facts, triggers).values()]))
    asked = any(cause.kind == "on demand" for cause in facts.causes)
    held = [] if asked or not reasons else _held(facts, triggers)
    return Decision(retrain=bool(reasons and not held), reasons=reasons, held=tuple(held), notes=facts.data_problems)


def findings(facts: Facts, triggers: Triggers) -> dict[Kind, str]:
    """Return the causes that the facts themselves hold, each with its reason, as the policy sees them."""
    if triggers.policy not in ("spec", "performance", "drift"):
        reason = weigh(triggers.policy, facts.known) if facts.known else ""
        kind: Kind = "staleness" if triggers.policy in BY_TIME else "performance"
        return {kind: f"{kind}: {reason}"} if reason else {}
    watched = {"performance": ("performance",), "drift": ("distribution",)}.get(triggers.policy)
    found: dict[Kind, str] = {
        "performance": _degraded(facts, triggers),
        "distribution": _drifted(facts, triggers),
        "staleness": "; ".join(filter(None, _stale(facts, triggers))),
    }
    return {kind: reason for kind, reason in found.items() if reason and (watched is None or kind in watched)}


def enough_data(facts: Facts, triggers: Triggers) -> str:
    """Return why the newly accepted partitions ask for a training: there are so many, or they have so many rows.

    Only the spec's own thresholds and the policy of that name look at them.
    """
    if triggers.policy not in ("spec", "new-data"):
        return ""
    partitions, rows = triggers.new_partitions, triggers.new_rows
    many = partitions is not None and facts.new_partitions >= partitions
    long = rows is not None and facts.new_rows >= rows
    if not facts.new_partitions or not (many or long):
        return ""
    first, last = facts.new_keys[0], facts.new_keys[-1]
    which = first if first == last else f"{first} to {last}"
    return f"new data: {facts.new_partitions} partitions ({which}) with {facts.new_rows:,} rows"


def _held(facts: Facts, triggers: Triggers) -> list[str]:
    held = []
    if facts.since_training is not None and facts.since_training < triggers.cool_down:
        ago, needed = _span(facts.since_training), _span(triggers.cool_down)
        held.append(f"the last training was {ago} ago, the cool-down is {needed}")
    if not facts.new_partitions:
        held.append("no partition was accepted since the last training: there is nothing new to learn from")
    return held


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


def _stale(facts: Facts, triggers: Triggers) -> list[str]:
    limits = (
        (facts.age, triggers.max_age, "the newest data is {} past the training data, more than {}"),
        (facts.since_accepted, triggers.expected_every, "no partition was accepted for {}, one is expected every {}"),
        (facts.champion_age, triggers.max_champion_age, "the champion has served for {}, more than {}"),
    )
    return [
        f"staleness: {text.format(_span(found), _span(most))}"
        for found, most, text in limits
        if found is not None and most is not None and found > most
    ]


def _span(time: timedelta) -> str:
    """Return a length of time in words, in its largest fitting unit."""
    seconds = time.total_seconds()
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
