"""Policies live through the past: each is told what was known, it trains, the gates decide, what passes serves."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.causes import Cause
from flows.spec import Costs, Frozen, ModelSpec, PolicyName, Triggers
from flows.steps import decision, drift, evaluation, gates, labels, metrics, observed, performance
from flows.steps.backtest.models import Model, judged_part
from flows.steps.backtest.timeline import History, micros
from flows.steps.drift import FeatureDrift
from flows.steps.performance import Performance
from flows.steps.policies import COSTED, POLICIES, Known, Past
from flows.steps.schedule import exact_plan, step_costs

LEAST_EFFECT = 1e-9  # with it the limit of a column is what noise and chance explain


class Outcome(Frozen):
    """What came of a policy. ``trained`` and ``refused`` are numbers of periods, ``in_force`` the period before which the
    model of each period was trained; ``errors`` and ``costs`` are one a period. ``rollbacks`` counts promotions that the
    labels of their first period would have taken back, ``stale_days`` the days served clearly worse than a new model would.
    """

    policy: str
    in_force: tuple[int, ...]
    trained: tuple[int, ...] = ()
    refused: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()
    errors: tuple[float, ...]
    costs: tuple[float, ...]
    mean_error: float
    total: float
    seconds: float = 0.0
    rollbacks: int = 0
    stale_days: float = 0.0
    regret: float = 0.0


@dataclass
class Bench:
    """The models of all periods, and what pairs of them and of periods have come to; each is computed at first use, once.

    Policies may live in threads: what one computes is there for all.
    """

    history: History
    models: list[Model]
    costs: Costs
    pairs: dict[tuple[str, int, int], Any] = field(default_factory=dict)
    _making: defaultdict[tuple[str, int, int], threading.Lock] = field(
        default_factory=lambda: defaultdict(threading.Lock), repr=False
    )

    def __post_init__(self) -> None:
        steps = len(self.history.steps)
        self.spans = [self.history.span(step) for step in range(steps)]
        self.rows = np.array([one.stop - one.start for one in self.spans], dtype=np.float64)
        self.errors, self.due = np.full((steps, steps), np.nan), np.full((steps, steps), np.nan)
        for number, model in enumerate(self.models):
            since = slice(self.spans[number].start, self.spans[-1].stop)
            expected = model.trained.reference.expected
            due = performance.due_losses(self.spec, expected, model.answered(self.history, since))
            for step, span in enumerate(self.spans[number:], number):
                # A period without rows costs nothing.
                losses = model.losses_at(span)
                promised = due[span.start - since.start : span.stop - since.start]
                self.errors[number, step] = metrics.error(self.spec.metric, losses) if len(losses) else 0.0
                self.due[number, step] = metrics.error(self.spec.metric, promised) if len(losses) else 0.0

    @property
    def spec(self) -> ModelSpec:
        """The spec of the model."""
        return self.history.spec

    def _once(self, kind: str, first: int, second: int, make: Callable[[], Any]) -> Any:
        key = (kind, first, second)
        with self._making[key]:
            if key not in self.pairs:
                self.pairs[key] = make()
        return self.pairs[key]

    def judged(self, challenger: int, champion: int) -> list[str]:
        """Return the gates that a challenger fails beside a champion: the very gates of a training."""

        def judge() -> list[str]:
            new, old = self.models[challenger], self.models[champion]
            part = judged_part(self.history, new)
            losses = evaluation.Losses(new.losses.ours, new.losses.baseline, old.losses_at(new.judge_rows))
            found = evaluation.beside(self.spec, new.trained.evaluation, part, losses, champion)
            fields = {one.name: str(one.type) for one in self.spec.request}
            return gates.failed(gates.judge_all(self.spec, found, new.trained.probe, fields))

        return list(self._once("judged", challenger, champion, judge))

    def joined(self, model: int, since: int, step: int) -> pa.Table:
        """Return the predictions that a model made from the start of period ``since`` on, as known when ``step`` began."""
        rows = slice(self.spans[since].start, self.spans[step].start)
        now = micros(self.history.steps[step].start)
        states = np.where(self.history.known[rows] <= now, "labelled", "waiting")
        return self.models[model].answered(self.history, rows).append_column(labels.STATE, pa.array(states))

    def measured(self, model: int, step: int) -> tuple[Performance | None, tuple[FeatureDrift, ...]]:
        """Return what monitoring finds when a period begins, of a model trained before: limits are set by ``adjusted``."""

        def measure() -> tuple[Performance | None, tuple[FeatureDrift, ...]]:
            spec = self.spec
            served = self.joined(model, model, step)
            if not served.num_rows:
                return None, ()
            newest = pc.max(served["event_timestamp"])
            last = pa.scalar(timedelta(days=spec.triggers.window_days), pa.duration("us"))
            seen = served.filter(pc.greater(served["event_timestamp"], pc.subtract(newest, last)))
            known = self.models[model].trained.reference
            found = performance.assess(spec.model_copy(update={"slices": ()}), seen, known.expected)
            days = labels.whole_days(seen, spec.triggers.drift_days)
            least = spec.triggers.model_copy(update={"drift_effect": LEAST_EFFECT})
            return found, tuple(drift.compare(known.drift, days, least, labels.labelled(days)))

        found: tuple[Performance | None, tuple[FeatureDrift, ...]] = self._once("measured", model, step, measure)
        return found

    def past(self, step: int) -> Past | None:
        """Return the errors on the periods whose labels were all known when a period began; None for none."""
        now = micros(self.history.steps[step].start)
        over = [int(self.history.known[one].max(initial=0)) <= now for one in self.spans[:step]]
        known = over.index(False) if False in over else step
        return self.told(known) if known else None

    def told(self, steps: int) -> Past:
        """Return what the first periods tell; when one begins, the one before is the newest that is known."""
        days = float(np.mean([one.days for one in self.history.steps]))
        seen, expected = np.full((steps, steps), np.nan), np.full((steps, steps), np.nan)
        seen[:, 1:], expected[:, 1:] = self.errors[:steps, : steps - 1], self.due[:steps, : steps - 1]
        return Past(errors=self.errors[:steps, :steps], rows=self.rows[:steps], days=days, seen=seen, expected=expected)

    def facts(self, policy: PolicyName, model: int, asked: int, step: int, triggers: Triggers) -> decision.Facts:
        """Return what was known when a period began: of ``model``, trained before, after a training before ``asked``."""
        steps, now = self.history.steps, self.history.steps[step].start
        found, moved = self.measured(model, step) if policy in ("spec", "performance", "drift") else (None, ())
        keys = tuple(sorted(one.key for one in self.history.partitions if self._arrived(one, steps[asked].start, now)))
        rows = int(((self.history.known > micros(steps[asked].start)) & (self.history.known <= micros(now))).sum())
        since = now - steps[asked].start
        known = None
        if policy in POLICIES:
            expected = self.models[model].trained.reference.expected
            told = self._once(
                f"told {asked}", model, step,
                lambda: observed.observe(self.spec, self.joined(model, asked, step), expected),
            )  # fmt: skip
            past = self.past(step) if policy in COSTED else None
            known = Known(costs=self.costs, past=past, days=since / timedelta(days=1), **told)
        facts = decision.Facts(
            performance=found, drift=moved, since_training=since, new_partitions=max(len(keys), int(rows > 0)),
            new_rows=rows, new_keys=keys or (steps[step - 1].key,), champion_age=now - steps[model].start,
            age=now - self.models[model].trained.window.split, known=known,
        )  # fmt: skip
        facts = adjusted(facts, triggers)
        more = decision.enough_data(facts, triggers)
        return facts.model_copy(update={"causes": (_cause(self.spec.name, more, now),)}) if more else facts

    def _arrived(self, partition: Any, since: Any, now: Any) -> bool:
        return bool(partition.last_event and since <= partition.last_event + self.spec.label.delay < now)


def _cause(model: str, reason: str, at: Any) -> Cause:
    return Cause(
        id=0, key="", model=model, kind="new data", event="", reason=reason, payload={}, at=at, sent_at=None,
        claimed_by=None, claimed_at=None, answered_at=None, outcome=None,
    )  # fmt: skip


def adjusted(facts: decision.Facts, triggers: Triggers) -> decision.Facts:
    """Return the facts with the verdicts that other thresholds would have given: of performance and of drift."""
    found = facts.performance
    if found is not None:
        worse = found.labelled >= triggers.min_labels and found.ratio_interval[0] > triggers.performance_ratio
        found = found.model_copy(update={"degraded": worse})
    moved = []
    for one in facts.drift:
        limit = max(triggers.drift_effect, one.limit)
        moved.append(one.model_copy(update={"limit": limit, "drifted": one.watched and one.distance > limit}))
    return facts.model_copy(update={"performance": found, "drift": tuple(moved)})


def replay(bench: Bench, policy: PolicyName, triggers: Triggers) -> Outcome:
    """Let a policy live through the periods and return what came of it; the first period's model is given to all."""
    triggers = triggers.model_copy(update={"policy": policy})
    model = asked = 0
    in_force, trained, refused, reasons, taken_back = [0], [], [], [], 0
    for step in range(1, len(bench.history.steps)):
        choice = decision.decide(bench.facts(policy, model, asked, step, triggers), triggers)
        if choice.retrain:
            trained.append(step)
            reasons.append("; ".join(choice.reasons))
            asked = step
            if bench.judged(step, model):
                refused.append(step)
            else:
                taken_back += _worse(bench, step, model)
                model = step
        in_force.append(model)
    return outcome(bench, policy, in_force, trained, triggers).model_copy(
        update={"refused": tuple(refused), "reasons": tuple(reasons), "rollbacks": taken_back}
    )


def outcome(bench: Bench, name: str, in_force: list[int], trained: list[int], triggers: Triggers) -> Outcome:
    """Return the figures of a schedule."""
    steps = np.arange(len(in_force))
    errors = bench.errors[np.array(in_force), steps]
    spent = step_costs(bench.errors, bench.rows, in_force, trained, bench.costs)
    stale = errors > triggers.performance_ratio * np.diag(bench.errors)
    days = np.array([one.days for one in bench.history.steps])
    return Outcome(
        policy=name, in_force=tuple(in_force), trained=tuple(trained), errors=tuple(errors.tolist()),
        costs=tuple(spent.tolist()), mean_error=float(errors[bench.rows > 0].mean()), total=float(spent.sum()),
        seconds=sum(bench.models[one].trained.seconds for one in trained), stale_days=float(days[stale].sum()),
    )  # fmt: skip


def best_plan(bench: Bench, triggers: Triggers) -> Outcome:
    """Return the schedule that one would have wished for in hindsight."""
    _, trained = exact_plan(bench.errors, bench.rows, bench.costs)
    model, in_force = 0, []
    for step in range(len(bench.errors)):
        model = step if step in trained else model
        in_force.append(model)
    return outcome(bench, "best in hindsight", in_force, trained, triggers)


def _worse(bench: Bench, new: int, old: int) -> int:
    """Return 1 if the labels of a new model's first period say that the one before it is surely better, else 0."""
    span, spec = bench.spans[new], bench.spec
    if span.stop == span.start:
        return 0
    hours = bench.history.events[span] // labels.HOUR
    ours, theirs = (bench.models[one].losses_at(span) for one in (new, old))
    low, _ = metrics.block_interval(spec.metric, ours, theirs, hours, spec.gates.confidence, spec.training.seed)
    return int(low > 0)
