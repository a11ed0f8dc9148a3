"""``windows.rolling`` taken apart: what is summed of rows beforehand, what is ranked, and how the whole comes of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.steps.windows import TICK, seen_at

if TYPE_CHECKING:
    import ibis.expr.types as ir

EVENT, LABEL, ROWS = "event_timestamp", "label_timestamp", "_rows"


class Parts(NamedTuple):
    """A rolling table apart.

    ``rows`` has the keys ``by``, both times, and a column for each value that a statistic is of. ``summed`` and
    ``ranked`` name those, the latter with the quantiles wanted, each and the column that is to hold it. ``reaches``
    are all times that a tick looks back, the first of them the window.
    """

    rows: ir.Table
    by: tuple[str, ...]
    reaches: tuple[timedelta, ...]
    summed: tuple[str, ...]
    ranked: dict[str, dict[float, str]]
    join: Any
    metrics: Mapping[str, Any]
    names: dict[Any, str]


def sum_of(value: str) -> str:
    """Return the name of the column that holds a value's sum."""
    return f"{value}_sum"


def count_of(value: str) -> str:
    """Return the name of the column that holds how many of a value are not null."""
    return f"{value}_count"


def apart(table: ir.Table) -> Parts | None:
    """Return the parts of a table that ``windows.rolling`` made; None for another one, or if a statistic has no parts.

    Parts have counts, means of whole numbers, medians and quantiles. Conditions may only ask for how long ago a row is:
    rows between two moments that none asks for are then alike.
    """
    from ibis.expr import operations as ops

    project = table.op()
    grouped = project.parent if isinstance(project, ops.Project) else None
    if not isinstance(grouped, ops.Aggregate):
        return None
    join = grouped.parent
    if not isinstance(join, ops.JoinChain) or len(join.rest) != 1:
        return None
    plain = {name: TICK if name == EVENT else name for name in project.values}
    if any(project.values[name] != ops.Field(grouped, old) for name, old in plain.items()):
        return None
    if any(key != ops.Field(join, name) for name, key in grouped.groups.items()):
        return None
    rows, ticks = join.first.parent.to_expr(), join.rest[0].table.parent.to_expr()
    window = _length(getattr(join.rest[0].predicates[0], "right", None))
    if window is None or seen_at(rows, ticks, window).op() != join:
        return None

    reaches, summed = [window], list[str]()
    names: dict[Any, str] = {}
    ranked: dict[str, dict[float, str]] = {}
    for metric in grouped.metrics.values():
        for one in metric.find(ops.Reduction, filter=ops.Value):
            ago = _reaches(one.where, join)
            if ago is None:
                return None
            reaches += ago
            if isinstance(one, ops.CountStar):
                continue
            name = names.setdefault(one.arg, f"_value{len(names)}")
            if isinstance(one, ops.Count) or (isinstance(one, ops.Mean) and one.arg.dtype.is_integer()):
                summed.append(name)
            elif isinstance(one, ops.Median | ops.Quantile) and one.where is None and _is_number(one.arg.dtype):
                share = _share(one)
                if share is None:
                    return None
                wanted = ranked.setdefault(name, {})
                wanted.setdefault(share, f"{name}_at{len(wanted)}")
            else:
                return None
    by = tuple(name for name in grouped.groups if name != TICK)
    values = {name: _moved(value, join, rows).to_expr() for value, name in names.items()}
    narrow = rows.select(*by, EVENT, LABEL, **values)
    return Parts(
        narrow, by, tuple(dict.fromkeys(reaches)), tuple(dict.fromkeys(summed)), ranked, join, grouped.metrics, names
    )


def whole(parts: Parts, sums: ir.Table, ranks: Sequence[ir.Table], ticks: ir.Table) -> ir.Table:
    """Return the rolling table from its parts.

    ``sums`` are counts and sums of the values by keys and both times, ``ranks`` the quantiles by keys and tick, a table
    for each value.
    """
    from ibis.expr import operations as ops

    seen = seen_at(sums, ticks, parts.reaches[0])
    totals: dict[Any, str] = {}

    def total(name: str, where: Any) -> Any:
        moved = where and _moved(where, parts.join, seen)
        one = ops.Sum(seen[name].op(), where=moved)
        return totals.setdefault(one, f"_total{len(totals)}")

    def parted(one: Any) -> list[str]:
        if isinstance(one, ops.CountStar):
            return [total(ROWS, one.where)]
        name = parts.names[one.arg]
        if isinstance(one, ops.Count):
            return [total(count_of(name), one.where)]
        if isinstance(one, ops.Mean):
            return [total(sum_of(name), one.where), total(count_of(name), one.where)]
        return [parts.ranked[name][_share(one) or 0.0]]

    reductions = [one for metric in parts.metrics.values() for one in metric.find(ops.Reduction, filter=ops.Value)]
    columns = {one: parted(one) for one in reductions}
    found = seen.group_by([*parts.by, TICK]).aggregate(**{name: one.to_expr() for one, name in totals.items()})
    for one in ranks:
        keys = [found[name].identical_to(one[name]) for name in (*parts.by, TICK)]
        found = found.left_join(one, keys).drop(*[f"{name}_right" for name in (*parts.by, TICK)])

    def again(node: Any, kwargs: dict[str, Any] | None) -> Any:
        if node not in columns:
            return node.__recreate__(kwargs) if kwargs else node
        first, *rest = (found[name] for name in columns[node])
        if isinstance(node, ops.Mean):
            return (first / rest[0]).op()
        return (first.cast("int64").fill_null(0) if isinstance(node, ops.CountStar | ops.Count) else first).op()

    metrics = {name: metric.replace(again).to_expr() for name, metric in parts.metrics.items()}
    return found.select(*parts.by, **{EVENT: found[TICK]}, **metrics)


def _moved(node: Any, join: Any, rows: ir.Table) -> Any:
    """Return an expression of the joined rows as one of the rows themselves."""
    from ibis.expr import operations as ops

    def move(node: Any, kwargs: dict[str, Any] | None) -> Any:
        if isinstance(node, ops.Field) and node.rel == join:
            return rows[node.name].op()
        return node.__recreate__(kwargs) if kwargs else node

    return node.replace(move)


def _share(node: Any) -> float | None:
    """Return which quantile a node is, None if it is not known beforehand."""
    from ibis.expr import operations as ops

    if isinstance(node, ops.Median):
        return 0.5
    return float(node.quantile.value) if isinstance(node.quantile, ops.Literal) else None


def _is_number(kind: Any) -> bool:
    return bool(kind.is_float64() or kind.is_integer())


def _length(ago: Any) -> timedelta | None:
    """Return the length of an interval that is taken off a tick."""
    from ibis.expr import operations as ops

    if not isinstance(ago, ops.TimestampSub) or not isinstance(ago.right, ops.Literal):
        return None
    if ago.right.dtype.unit.short != "s":
        return None
    return timedelta(seconds=int(ago.right.value))


def _reaches(where: Any, join: Any) -> list[timedelta] | None:
    """Return how far back a condition looks, None if it asks for anything else."""
    from ibis.expr import operations as ops

    if where is None:
        return []
    if isinstance(where, ops.And | ops.Or | ops.Not):
        sides = [_reaches(one, join) for one in where.args]
        return None if None in sides else [one for side in sides for one in side or ()]
    if isinstance(where, ops.GreaterEqual | ops.Less) and where.left == ops.Field(join, EVENT):
        ago = where.right
        length = _length(ago)
        if length is not None and ago.left == ops.Field(join, TICK):
            return [length]
    return None
