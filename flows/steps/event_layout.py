"""How event rows lie in one table beside their raw rows, where each is computed from its raw row alone."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any, NamedTuple

from flows.steps.event_rows import FLOATS, RAW, ROW
from flows.steps.sql import identifier, without_nan


class Layout(NamedTuple):
    """Which column of the table holds each event column, and the SQL over raw columns of those that are computed."""

    shown: dict[str, str]
    computed: dict[str, str]


@lru_cache(maxsize=64)
def lay_out(sql: str, names: tuple[str, ...], columns: tuple[tuple[str, str], ...]) -> Layout | None:
    """Return the layout of the event columns ``names`` that a query over ``raw`` gives.

    ``columns`` are those of the contract, name and DuckDB type; NaN in them counts as missing. None if the query is more
    than one expression over a raw row for each column, or does not give the same each time.
    """
    import duckdb
    import sqlglot
    from sqlglot import exp

    query = sqlglot.parse_one(sql, dialect="duckdb")
    if not isinstance(query, exp.Select) or len(list(query.find_all(exp.Select))) > 1:
        return None
    nothing = ", ".join(f"CAST(NULL AS {kind}) AS {identifier(name)}" for name, kind in (*columns, (ROW, "BIGINT")))
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE {RAW} AS SELECT {nothing} LIMIT 0")
        plan, again = (
            json.loads((connection.execute(f"EXPLAIN (FORMAT json) {text}").fetchall())[0][1])
            for text in (sql, query.sql(dialect="duckdb"))
        )
        volatile = connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'"
        ).fetchall()
    changing = "|".join(
        ["current_[a-z]+", "localtime", "localtimestamp", *(re.escape(str(row[0])) for row in volatile)]
    )
    if not _operators(plan) <= {"PROJECTION", "SEQ_SCAN"} or re.search(rf"\b({changing})\b", sql, re.IGNORECASE):
        return None
    if plan != again:  # the parser's text says something else
        return None
    raw = dict(columns)
    shown, computed = {}, {}
    for column in query.expressions:
        name, value = column.alias_or_name, column.unalias()
        if name == ROW or name not in names:
            continue
        if isinstance(value, exp.Column) and value.name in raw:
            shown[name] = value.name
            continue
        read = list(value.find_all(exp.Column))
        if any(one.name not in raw for one in read):
            return None
        for one in read:
            clean = without_nan(one.name) if raw[one.name] in FLOATS else identifier(one.name)
            one.replace(sqlglot.parse_one(clean, dialect="duckdb"))
        shown[name] = name if name not in raw else f"evergreen_{name}"
        computed[shown[name]] = value.sql(dialect="duckdb")
    return Layout(shown, computed)


def _operators(nodes: list[dict[str, Any]]) -> set[str]:
    return {str(node["name"]).strip() for node in nodes}.union(*(_operators(node["children"]) for node in nodes))
