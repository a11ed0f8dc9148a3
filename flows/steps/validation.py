"""What Great Expectations says of the event rows: hard rules, row rules and the rows that break them.

The verdict is always its own: a row rule (``mostly`` below 1) is first asked without tolerance, and only if a row
breaks it asked again as it stands, for its number and for the query of those rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

from flows.errors import BrokenCheckError, ContractError
from flows.lookup import resolve_callable
from flows.spec import Frozen, ModelSpec
from flows.steps.event_rows import EVENTS, ROW
from flows.steps.sql import identifier, literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

REJECTS = "rejects"  # table (row, reason): which rows may not be used, and why; a row may have several reasons
LISTED = 100_000  # rows that are worth a list, where Great Expectations has no query of them
DETAILS = {"result_format": "BASIC", "return_unexpected_index_query": True, "unexpected_index_column_names": [ROW]}

_TOLD = ("column", "column_A", "column_B", "column_list", "mostly")  # parameters told elsewhere than in a list of them


Verdict = Literal["passed", "failed", "rows rejected"]


class Check(Frozen):
    """One thing that was checked, as people read it; ``tolerated`` is the share of rows that may break it."""

    source: Literal["contract", "suite"]
    rule: str
    tolerated: float | None = None
    observed: str
    verdict: Verdict


class Judge(Protocol):
    """Great Expectations on the event rows, wherever it works."""

    def validate(self, expectations: list[Any], result_format: str | dict[str, Any]) -> list[dict[str, Any]]:
        """Return its results as plain data, in the order of the expectations."""


class Judgement(Frozen):
    """What checks found: the reasons not to use a partition at all, if any, and Great Expectations' raw results."""

    checks: tuple[Check, ...]
    reasons: tuple[str, ...]
    results: tuple[dict[str, Any], ...] = ()


def reason_of(check: Check) -> str:
    """Return a failed check as the reason to refuse a partition."""
    tolerated = f", {check.tolerated:.1%} tolerated" if check.tolerated is not None else ""
    return f"{check.rule}: {check.observed}{tolerated}"


def load_suite(spec: ModelSpec) -> list[Any]:
    """Return a model's expectations; raises ContractError if its function does not give a suite with at least one."""
    from great_expectations import ExpectationSuite

    suite = resolve_callable(spec.expectations)()
    if not isinstance(suite, ExpectationSuite):
        raise ContractError(f"{spec.expectations} must return an ExpectationSuite, not {type(suite).__name__}")
    if not suite.expectations:
        raise ContractError(
            f"{spec.expectations} returns a suite without expectations, which passes anything; add some"
        )
    return list(suite.expectations)


def run_suite(connection: DuckDBPyConnection, judge: Judge, expectations: list[Any]) -> Judgement:
    """Judge the table of ``judge`` by a suite and add the rows that break a rule to ``rejects``.

    Raises BrokenCheckError if a check could not be evaluated, or nothing was: that says nothing about the data.
    """
    from great_expectations.expectations import expectation as kinds

    maps = (kinds.ColumnMapExpectation, kinds.ColumnPairMapExpectation, kinds.MulticolumnMapExpectation)
    by_row = [isinstance(item, maps) for item in expectations]
    strict = [item.copy(update={"mostly": 1.0}) for item, is_map in zip(expectations, by_row, strict=True) if is_map]
    quick = iter(_evaluate(judge, strict, "BOOLEAN_ONLY"))
    results = [next(quick) if is_map else {} for is_map in by_row]
    # Once more for the figures: the rules that a row broke, and those of the whole table, which cost nothing more.
    again = [number for number, result in enumerate(results) if not result.get("success")]
    for number, detail in zip(again, _evaluate(judge, [expectations[n] for n in again], DETAILS), strict=True):
        results[number] = detail
    if not results:
        raise BrokenCheckError("the suite evaluated nothing; look at the model's expectations, then ingest again")
    checks, reasons = [], []
    for number, (item, result) in enumerate(zip(expectations, results, strict=True)):
        rule = describe(item)
        if by_row[number] and number in again:
            _reject(connection, judge, item, rule, result)
        checks.append(_check(item, rule, result, by_row[number]))
        if not result["success"]:
            reasons.append(reason_of(checks[-1]))
    return Judgement(checks=tuple(checks), reasons=tuple(reasons), results=tuple(results))


def _evaluate(judge: Judge, expectations: list[Any], result_format: str | dict[str, Any]) -> list[dict[str, Any]]:
    """Return one result for each expectation; raises BrokenCheckError if one is missing or ended in an exception."""
    if not expectations:
        return []
    results = judge.validate(expectations, result_format)
    for result in results:
        error = _exception_of(result)
        if error:
            kind = result["expectation_config"]["type"]
            raise BrokenCheckError(f"check {kind} could not be evaluated ({error}); mend it, then ingest again")
    if len(results) != len(expectations):
        raise BrokenCheckError(
            f"{len(expectations) - len(results)} of {len(expectations)} checks were not evaluated; "
            "look at the model's expectations, then ingest again"
        )
    return results


def _exception_of(result: dict[str, Any]) -> str | None:
    """Return the first line of the exception in a result; Great Expectations nests them by metric."""
    found = result.get("exception_info") or {}
    for info in (found, *(value for value in found.values() if isinstance(value, dict))):
        if info.get("raised_exception"):
            lines = str(info.get("exception_message") or "").splitlines()
            return lines[0][:300] if lines else "no message"
    return None


def _reject(connection: DuckDBPyConnection, judge: Judge, item: Any, rule: str, result: dict[str, Any]) -> None:
    """Add the rows that broke a rule to ``rejects``; they must be as many as Great Expectations counted."""
    import duckdb

    query = _query_of(item, result)
    expected = int(result["result"].get("unexpected_count") or 0)
    into = f"INSERT INTO {REJECTS} SELECT {ROW}, {literal(rule)} FROM"
    try:
        done = connection.execute(f"{into} ({query})").fetchone()
    except (duckdb.InvalidInputException, duckdb.ParserException):
        # Of some rules, such as one of a set of values, it writes a query with open parameters: have it list the rows.
        if expected > LISTED and not result["success"]:
            return  # the partition is refused anyway, and so many rows are no help to anybody
        (listed,) = _evaluate(judge, [item], {**DETAILS, "result_format": "COMPLETE"})
        found = listed["result"].get("unexpected_index_list") or []
        rows = [place[ROW] for place in found]
        done = connection.execute(f"{into} (SELECT unnest($rows::BIGINT[]) AS {ROW})", {"rows": rows}).fetchone()
    if done is None or done[0] != expected:
        raise BrokenCheckError(
            f"{rule}: not all of the {expected} rows that break it were found; mend it, ingest again"
        )


def _query_of(item: Any, result: dict[str, Any]) -> str:
    """Return the query of the rows that broke a rule: Great Expectations' own, but for one."""
    if item.expectation_type == "expect_compound_columns_to_be_unique":
        # Its own is a cross product with a parameter left open, and its list is empty (1.24); the same condition:
        names = [identifier(name) for name in item.column_list]
        known = " AND ".join(f"{name} IS NOT NULL" for name in names)
        return f"SELECT {ROW} FROM {EVENTS} WHERE {known} QUALIFY count(*) OVER (PARTITION BY {', '.join(names)}) > 1"
    return str(result["result"].get("unexpected_index_query") or "").strip().rstrip(";")


def _check(item: Any, rule: str, result: dict[str, Any], by_row: bool) -> Check:
    """Return Great Expectations' result on a rule as people read it."""
    found = result["result"]
    broken = found.get("unexpected_count", 0) if by_row else 0
    if not by_row:
        observed = _short(found.get("observed_value", "no value"))
    elif broken:
        observed = (
            f"{rows_text(broken)} ({broken / found['element_count']:.2%}) {'breaks' if broken == 1 else 'break'} it"
        )
    else:
        observed = "no row breaks it"
    tolerated = round(1 - item.mostly, 9) if by_row and item.mostly < 1 else None
    verdict: Verdict = "failed" if not result["success"] else "rows rejected" if broken else "passed"
    return Check(source="suite", rule=rule, tolerated=tolerated, observed=observed, verdict=verdict)


def rows_text(number: int) -> str:
    """Return so many rows in words."""
    return f"{number:,} row{'' if number == 1 else 's'}"


def describe(item: Any) -> str:
    """Return an expectation in one line, such as ``minutes: values > 0 and ≤ 180``."""
    columns = [getattr(item, name, None) for name in ("column", "column_A", "column_B")]
    names = [name for name in columns if name] + list(getattr(item, "column_list", None) or [])
    words = item.expectation_type.removeprefix("expect_").replace("_", " ")
    for prefix in ("column pair ", "compound columns ", "multicolumn ", "column "):
        words = words.removeprefix(prefix)
    given = item.configuration.kwargs.items()
    settings = {key: value for key, value in given if value is not None and key not in _TOLD}
    if words.endswith(" to be between"):
        words = words.removesuffix(" to be between")
        low, high = (settings.pop(key, None) for key in ("min_value", "max_value"))
        signs = (">" if settings.pop("strict_min", False) else "≥", "<" if settings.pop("strict_max", False) else "≤")
        bounds = [f"{sign} {_short(end)}" for sign, end in zip(signs, (low, high), strict=True) if end is not None]
        words = f"{words} {' and '.join(bounds)}"
    parts = [f"{key.replace('_', ' ')} {_short(value)}" for key, value in settings.items()]
    return ", ".join([f"{' + '.join(names) or 'table'}: {words}", *parts])


def _short(value: Any) -> str:
    text = str(value)
    if isinstance(value, float) and abs(value) < 1e15:
        text = f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.4g}"  # with its digits, not as 1.1e+04
    return text if len(text) <= 120 else text[:117] + "..."
