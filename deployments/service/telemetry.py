"""What a worker counts of its requests, cheap enough for each one, and its exposition for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
State = Mapping[str, Any]  # of one worker, as JSON


class Telemetry:
    """Requests by route and status, and how long they took. Only the event loop writes to it."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self.refused = 0  # because too many requests were under way

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests[route, status] += 1
        buckets = self._buckets.get(route)
        if buckets is None:
            buckets = self._buckets[route] = [0] * (len(BOUNDS) + 1)
        buckets[bisect_left(BOUNDS, seconds)] += 1
        self._seconds[route] += seconds

    def state(self) -> dict[str, Any]:
        """Return all counts as plain data."""
        return {
            "requests": [[route, status, count] for (route, status), count in sorted(self._requests.items())],
            "buckets": {route: list(counts) for route, counts in sorted(self._buckets.items())},
            "seconds": dict(self._seconds),
            "refused": self.refused,
        }


def exposition(model: str, states: Mapping[str, State]) -> bytes:
    """Return the page that Prometheus reads: the state of each worker under its number."""
    from prometheus_client import CollectorRegistry, generate_latest

    class Collector:
        def collect(self) -> Iterator[Metric]:
            yield from _families(model, states)

    registry = CollectorRegistry()
    registry.register(Collector())
    return generate_latest(registry)


def _families(model: str, states: Mapping[str, State]) -> Iterator[Metric]:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    workers = sorted(states.items())
    requests = CounterMetricFamily(
        "evergreen_requests", "Requests by route and status", labels=["model", "worker", "route", "status"]
    )
    errors = CounterMetricFamily(
        "evergreen_errors", "Requests that failed by our fault", labels=["model", "worker", "route"]
    )
    latency = HistogramMetricFamily(
        "evergreen_request_seconds",
        "From a request's head to the end of its answer",
        labels=["model", "worker", "route"],
    )
    for worker, state in workers:
        failed: Counter[str] = Counter()
        for route, status, count in state["requests"]:
            requests.add_metric([model, worker, route, str(status)], count)
            failed[route] += count if status >= 500 else 0
        for route, counts in state["buckets"].items():
            errors.add_metric([model, worker, route], failed[route])
            latency.add_metric([model, worker, route], _cumulative(counts), state["seconds"][route])
    yield from (requests, errors, latency)
    plain: dict[str, tuple[type[Any], str]] = {
        "refused": (CounterMetricFamily, "Requests that were refused because too many were under way"),
        "rows": (CounterMetricFamily, "Rows that were answered"),
        "unknown_rows": (CounterMetricFamily, "Of them, those with a key of which no features are stored"),
        "swaps": (CounterMetricFamily, "Champions that were put in place, the first one included"),
        "ready": (GaugeMetricFamily, "1 if a model is loaded"),
        "following": (GaugeMetricFamily, "1 if the ledger's champion is the one that serves"),
        "ledger_up": (GaugeMetricFamily, "1 if the ledger answered the last look"),
        "features_up": (GaugeMetricFamily, "1 if the last read of the online store succeeded"),
        "log_up": (GaugeMetricFamily, "1 unless the newest request could not be logged, and so was not answered"),
        "feature_age_seconds": (GaugeMetricFamily, "Age of the newest feature values that were read"),
        "model_version": (GaugeMetricFamily, "Version that serves"),
        "model_since_seconds": (GaugeMetricFamily, "When it was promoted, in seconds since 1970"),
        "trial_version": (GaugeMetricFamily, "Version that is on trial as shadow or canary"),
        "trial_requests": (CounterMetricFamily, "Requests, or copies of them, that it was given"),
        "trial_failed": (CounterMetricFamily, "Of them, those that it failed"),
        "trial_late": (CounterMetricFamily, "Of them, those for which it took too long"),
        "trial_dropped": (CounterMetricFamily, "Copies that it was too busy for"),
        "trial_stopped": (GaugeMetricFamily, "1 if it broke a bound and gets no more requests"),
    }
    for name, (family, text) in plain.items():
        metric = family(f"evergreen_{name}", text, labels=["model", "worker"])
        for worker, state in workers:
            if state.get(name) is not None:
                metric.add_metric([model, worker], float(state[name]))
        yield metric
    info = GaugeMetricFamily(
        "evergreen_model_info", "The version that serves", labels=["model", "worker", "version", "digest", "kind"]
    )
    for worker, state in workers:
        if state.get("model_version") is not None:
            info.add_metric([model, worker, str(state["model_version"]), state["digest"], state["kind"]], 1.0)
    yield info


def _cumulative(counts: Sequence[int]) -> list[tuple[str, float]]:
    found, total = [], 0
    for bound, count in zip([*map(str, BOUNDS), "+Inf"], counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found
