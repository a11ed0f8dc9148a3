"""What Great Expectations says of the event rows: hard rules, row rules and the rows that break them.

The verdict is always its own: a row rule (``mostly`` below 1) is first asked without tolerance, and only if a row breaks
it asked again as it stands, for its number and for the query of those rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from flows.errors import BrokenCheckError, ContractError
from flows.spec import Frozen, ModelSpec, resolve_callable
from flows.steps.event_rows import EVENTS, ROW
from flows.steps.sql import identifier, literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from flows.steps.gx_duckdb import TableJudge

REJECTS = "rejects"  # table (row, reason): which rows may not be used, and why; a row may have several reasons
DETAILS = {"result_format": "BASIC", "return_unexpected_index_query": True, "unexpected_index_column_names": [ROW]}

# The words of an expectation's type, in which each parameter is told better than by its name.
_WORDS = {"min_value": "from", "max_value": "to", "value_set": "one of", "mostly": "in at least the share"}


class Check(Frozen):
    """One thing that was checked, as people read it."""

    source: Literal["contract", "suite"]
    rule: str
    observed: str
    verdict: Literal["passed", "failed", "rows rejected"]


class Judgement(Frozen):
    """What checks found: why a partition must not be used as a whole, if at all, and Great Expectations' raw results."""

    checks: tuple[Check, ...]
    reasons: tuple[str, ...]
    results: tuple[dict[str, Any], ...] = ()


def load_suite(spec: ModelSpec) -> list[Any]:
    """Return a model's expectations; raises ContractError if its function does not give a suite with at least one."""
    from great_expectations import ExpectationSuite

    suite = resolve_callable(spec.expectations)()
    if not isinstance(suite, ExpectationSuite):
        raise ContractError(f"{spec.expectations} must return an ExpectationSuite, not {type(suite).__name__}")
    if not suite.expectations:
        raise ContractError(f"{spec.expectations} returns a suite without expectations, which would pass anything; add some")
    return list(suite.expectations)


def run_suite(connection: DuckDBPyConnection, judge: TableJudge, expectations: list[Any]) -> Judgement:
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
            _reject(connection, item, rule, result)
        checks.append(_check(item, rule, result, by_row[number]))
        if not result["success"]:
            reasons.append(f"{rule}: {checks[-1].observed}")
    return Judgement(checks=tuple(checks), reasons=tuple(reasons), results=tuple(results))


def _evaluate(judge: TableJudge, expectations: list[Any], result_format: str | dict[str, Any]) -> list[dict[str, Any]]:
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


def _reject(connection: DuckDBPyConnection, item: Any, rule: str, result: dict[str, Any]) -> None:
    """Add the rows that broke a rule to ``rejects``; they must be as many as Great Expectations counted."""
    query = _query_of(item, result)
    expected = int(result["result"].get("unexpected_count") or 0)
    if not query:
        if result["success"] and expected:
            raise ContractError(f"{rule}: the rows that break it cannot be named; drop mostly, so that it is a hard rule")
        return
    done = connection.execute(f"INSERT INTO {REJECTS} SELECT {ROW}, {literal(rule)} FROM ({query})").fetchone()
    found = done[0] if done else 0
    if found != expected:
        raise BrokenCheckError(f"{rule}: {expected} rows break it, but {found} were found; mend the check, then ingest again")


def _query_of(item: Any, result: dict[str, Any]) -> str:
    """Return the query of the rows that broke a rule: Great Expectations' own, where that can be run."""
    if item.expectation_type == "expect_compound_columns_to_be_unique":
        # Its own is a cross product with a parameter left open (1.24); this is the same condition.
        names = [identifier(name) for name in item.column_list]
        known = " AND ".join(f"{name} IS NOT NULL" for name in names)
        return f"SELECT {ROW} FROM {EVENTS} WHERE {known} QUALIFY count(*) OVER (PARTITION BY {', '.join(names)}) > 1"
    return str(result["result"].get("unexpected_index_query") or "").strip().rstrip(";")


def _check(item: Any, rule: str, result: dict[str, Any], by_row: bool) -> Check:
    found = result["result"]
    if not by_row:
        observed = _short(found.get("observed_value", "no value"))
    elif "unexpected_count" in found:
        share = found["unexpected_count"] / max(1, found["element_count"])
        allowed = f", {1 - item.mostly:.3g} tolerated" if item.mostly < 1 else ""
        observed = f"{found['unexpected_count']:,} rows ({share:.2%}) break it{allowed}"
    else:
        observed = "no row breaks it"
    verdict = "failed" if not result["success"] else "rows rejected" if found.get("unexpected_count") else "passed"
    return Check(source="suite", rule=rule, observed=observed, verdict=verdict)


def describe(item: Any) -> str:
    """Return an expectation in one line, such as ``minutes: values to be between, above 0, to 180``."""
    settings = {
        key: value
        for key, value in item.configuration.kwargs.items()
        if value is not None and key not in ("column", "column_A", "column_B", "column_list", "column_set", "mostly")
    }
    columns = [getattr(item, name, None) for name in ("column", "column_A", "column_B")]
    names = [name for name in columns if name] + list(getattr(item, "column_list", None) or [])
    words = item.expectation_type.removeprefix("expect_").replace("_", " ")
    for prefix in ("column pair ", "compound columns ", "multicolumn ", "column "):
        words = words.removeprefix(prefix)
    parts = []
    for key, value in settings.items():
        if key in ("strict_min", "strict_max"):
            continue
        strict = settings.get({"min_value": "strict_min", "max_value": "strict_max"}.get(key, ""))
        word = {"min_value": "above", "max_value": "below"}[key] if strict else _WORDS.get(key, key.replace("_", " "))
        parts.append(f"{word} {_short(value)}")
    return ", ".join([f"{' + '.join(names) or 'table'}: {words}", *parts])


def _short(value: Any) -> str:
    text = f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)
    return text if len(text) <= 120 else text[:117] + "..."
