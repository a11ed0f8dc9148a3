"""The direct read of Feast's online stores: what ``read_online`` returns, in a fraction of its time and without Feast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from flows.errors import UnavailableError
from flows.spec import ModelSpec
from flows.steps.feature_store import OnlineRows
from flows.steps.online_last import LastValues
from flows.steps.online_plan import OnlinePlan, StoredView, function_of, request_value
from flows.steps.online_redis import RedisValues
from flows.steps.online_sqlite import SqliteValues
from flows.steps.trusted import one_line


class ComputedError(UnavailableError):
    """A view that is computed from the request failed on it; the store has answered, and holds what it held."""


class OnlineReader:
    """Reads a model's features by its plan, from SQLite or from the Redis at ``redis_url``; may be called from threads.

    While the store fails, rows are answered by what was read of them last.
    """

    def __init__(self, plan: OnlinePlan, spec: ModelSpec, redis_url: str = "") -> None:
        self.plan = plan
        self.values = LastValues(SqliteValues(plan) if plan.database else RedisValues(plan, redis_url), plan)
        self._time = spec.source.event_time
        self._zone = ZoneInfo(spec.source.time_zone)
        self._functions = [(view, function_of(view)) for view in plan.computed]

    def __call__(self, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> OnlineRows:
        """Return the named features of some rows as ``read_online`` does.

        Raises what a store raises that never answered, and ComputedError.
        """
        columns: dict[str, list[Any]] = {}
        unknown: list[list[str]] = [[] for _ in rows]
        if not rows:
            return OnlineRows({}, unknown)
        found = self.values(rows)
        moments = [row[self._time].replace(tzinfo=self._zone).timestamp() for row in rows]
        for view, stored in zip(self.plan.stored, found, strict=True):
            valid = [
                one[1] if one is not None and _is_valid(view, moment - one[0] // 1_000_000, one[1]) else _NOTHING
                for moment, one in zip(moments, stored, strict=True)
            ]
            for views, values in zip(unknown, valid, strict=True):
                if values is _NOTHING:
                    views.append(view.name)
            for field in view.fields:
                columns[field] = [values.get(field) for values in valid]
        for computed, function in self._functions:
            try:
                made = function({name: [request_value(row[name]) for row in rows] for name in computed.inputs})
            except Exception as error:  # the researcher's code may raise anything
                failed = f"{computed.function} failed ({type(error).__name__}: {one_line(error)})"
                raise ComputedError(
                    f"{failed}; correct the request, or the function and run `evergreen featurize`"
                ) from error
            for field in computed.fields:
                columns[field] = made[field]
        return OnlineRows({name: columns[name] for name in names if name in columns}, unknown)


_NOTHING: dict[str, Any] = {}


def _is_valid(view: StoredView, age: float, values: Mapping[str, Any]) -> bool:
    """Say whether what is stored of a key counts at an age in seconds: neither from the future, nor too old, nor empty."""
    longest = view.ttl_seconds
    return (
        age >= 0 and (longest is None or age <= longest) and any(values.get(field) is not None for field in view.fields)
    )
