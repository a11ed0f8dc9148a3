"""The decision on a landed partition: contract, suite, split of bad rows, statistics, page, ledger."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from sqlalchemy.engine import Engine

from flows import ledger
from flows.errors import BrokenCheckError, UnavailableError
from flows.ledger import BY, LABELLED_UNTIL, ROWS, Partition
from flows.settings import Settings
from flows.spec import Frozen, ModelSpec
from flows.steps import docs, judged_rows, revisions, storage
from flows.steps.contract import schema_problems, with_examples
from flows.steps.event_rows import EVENTS, LABEL_TIME, ROW, added_sql, compiled, create_events, delete_events
from flows.steps.landing import Landed
from flows.steps.periods import Period, parse_key
from flows.steps.presence import check_rows
from flows.steps.reading import describe
from flows.steps.statistics import describe_rows
from flows.steps.validation import REJECTS, Check, Judge, Judgement, load_suite, run_suite

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from flows.steps.gx_duckdb import TableJudge

MIN_PEERS = 3  # so many periods of one batch tell what is usual, where nothing was accepted before


class Decision(Frozen):
    """What was decided on a partition, and on what grounds."""

    status: Literal["accepted", "quarantined"]
    checks: tuple[Check, ...] = ()
    reasons: tuple[str, ...] = ()
    results: tuple[dict[str, Any], ...] = ()
    statistics: dict[str, Any] = Field(default_factory=dict)
    accepted_rows: int = 0
    accepted_uri: str | None = None
    accepted_sha256: str | None = None
    rejected_uri: str | None = None
    sample: tuple[dict[str, str], ...] = ()
    first_event: datetime | None = None
    last_event: datetime | None = None


class Bench:
    """What judges the partitions of one landing: its connection, with Great Expectations on it, made once for all."""

    def __init__(
        self, connection: DuckDBPyConnection, spec: ModelSpec, settings: Settings, engine: Engine, landed: Landed
    ) -> None:
        self.connection, self.spec, self.settings, self.engine = connection, spec, settings, engine
        self.tables, self.by, self.again = dict(landed.tables), landed.by, landed.again
        self.expectations = load_suite(spec)
        self.rules = rules_digest(spec, self.expectations)
        self.rows = sha256(compiled(spec)[0].encode()).hexdigest()  # what makes event rows of the raw ones
        accepted = ledger.list_partitions(engine, spec.name, "accepted")
        self.in_force = {partition.key: partition for partition in accepted}
        self.usual = usual_rows(accepted, landed.partitions)
        self._judge: TableJudge | None = None

    @contextmanager
    def judge(self) -> Iterator[Judge]:
        """Yield Great Expectations on the table ``events`` as it is: in DuckDB, or on the cluster if one is set."""
        if self.settings.compute_url:
            from flows.steps.gx_spark import judging

            with judging(self.settings, self.connection, EVENTS) as judge:
                yield judge
            return
        if self._judge is None:
            from flows.steps.gx_duckdb import TableJudge

            self._judge = TableJudge(self.connection, EVENTS)
        yield self._judge


def rules_digest(spec: ModelSpec, expectations: list[Any]) -> str:
    """Return the sha256 of all that a partition is judged by; another one asks for another judgement."""
    rules = [item.configuration.to_json_dict() for item in expectations]
    text = json.dumps([spec.source.model_dump(mode="json"), spec.key, rules], sort_keys=True, default=str)
    return sha256(text.encode()).hexdigest()


def usual_rows(accepted: list[Partition], peers: list[Partition]) -> dict[str, list[int]]:
    """Return the row counts to measure a partition by, by kind of period: of the accepted ones, else of its peers."""
    usual: dict[str, list[int]] = {}
    for kind in ("day", "week", "month"):
        before, beside = (
            [p.rows for p in group if (period := parse_key(p.key)) and period.kind == kind]
            for group in (accepted, peers)
        )
        usual[kind] = before or (beside if len(beside) >= MIN_PEERS else [])
    return usual


def is_open(partition: Partition, bench: Bench) -> bool:
    """Say whether a partition waits for a decision: it has none, was refused by other rules, or its rows are lost.

    One that was refused is judged again as well if somebody means it to stand. Accepted rows that are gone or damaged, or that
    another ``rows`` of the model has made, are made anew of the landed ones.
    """
    otherwise = partition.validation.get(ROWS) != bench.rows
    if partition.status == "accepted" and partition.accepted_uri:
        return otherwise or storage.is_lost(partition.accepted_uri)
    return partition.status == "landed" or (
        partition.status == "quarantined"
        and (otherwise or bench.again or partition.validation.get("rules") != bench.rules)
    )


def decide(bench: Bench, partition: Partition) -> Partition:
    """Judge a landed partition, write what comes of it and record the decision; return the partition as it is now.

    Raises BrokenCheckError if a check could not be evaluated: the partition stays as it is, for a later run to judge.
    """
    import duckdb

    # Accepted before it was recorded what made its rows: if they come out the same, nothing is new.
    is_old = partition.status == "accepted" and ROWS not in partition.validation
    try:
        had = judged_rows.digest(bench.connection, bench.settings, partition.accepted_uri) if is_old else None
        decision = judge(bench, partition)
        page = storage.publish(
            bench.settings, docs.write_page(bench.settings, bench.spec, partition, decision.model_dump())
        )
    except BrokenCheckError as error:
        raise BrokenCheckError(f"{partition.model} {partition.key} r{partition.revision}: {error}") from error
    except duckdb.IOException as error:
        first = str(error).splitlines()[0]
        raise UnavailableError(f"{partition.uri} cannot be read ({first}); bring it back, then ingest again") from error
    except duckdb.Error as error:
        raise BrokenCheckError(
            f"{partition.model} {partition.key} r{partition.revision} could not be judged "
            f"({str(error).splitlines()[0]}); correct {bench.spec.rows} or the suite, then ingest again"
        ) from error
    except OSError as error:
        raise UnavailableError(
            f"{bench.settings.home} cannot be written ({error}); free some space, then run again"
        ) from error
    return ledger.decide_partition(
        bench.engine,
        partition.id,
        decision.status,
        is_same=had is not None and had == judged_rows.digest(bench.connection, bench.settings, decision.accepted_uri),
        accepted_uri=decision.accepted_uri,
        accepted_sha256=decision.accepted_sha256,
        rejected_uri=decision.rejected_uri,
        docs_uri=page,
        accepted_rows=decision.accepted_rows,
        rejected_rows=partition.rows - decision.accepted_rows,
        reasons=list(decision.reasons),
        statistics=decision.statistics,
        validation={
            "rules": bench.rules,
            ROWS: bench.rows,
            BY: partition.validation.get(BY, bench.by),  # which is not always the command that looks at it once more
            "checks": [check.model_dump() for check in decision.checks],
        },
        first_event=decision.first_event,
        last_event=decision.last_event,
    )


def judge(bench: Bench, partition: Partition) -> Decision:
    """Judge a landed file and write its accepted and its rejected rows."""
    if not partition.uri.endswith(".parquet"):
        readable = _failed("the file can be read", partition.reasons)
        return Decision(status="quarantined", reasons=tuple(partition.reasons), checks=readable)
    file = storage.local(bench.settings, partition.uri)
    columns = describe(bench.connection, "SELECT * FROM read_parquet($uri)", {"uri": file})
    # Examples are known to whoever read the file that came: this one may hold a part of its rows.
    problems = with_examples(
        schema_problems(bench.spec.source, columns, label=bench.spec.label.name), partition.reasons
    )
    if not partition.rows:
        problems.append("there are no rows")
    if problems:
        return Decision(
            status="quarantined", reasons=tuple(problems), checks=_failed("columns as in the contract", problems)
        )
    return _judge_rows(bench, partition, file)


def _failed(rule: str, problems: Sequence[str]) -> tuple[Check, ...]:
    return tuple(Check(source="contract", rule=rule, observed=problem, verdict="failed") for problem in problems)


def _judge_rows(bench: Bench, partition: Partition, file: str) -> Decision:
    """Judge the rows of a landed file whose columns are those of the contract."""
    connection, spec = bench.connection, bench.spec
    period = parse_key(partition.key)
    rows, raw = create_events(connection, spec, file, bench.tables.pop(partition.id, None))
    if rows != partition.rows:
        raise BrokenCheckError(
            f"{spec.rows} made {rows} rows of {partition.rows}; it must keep each row, then ingest again"
        )
    judgement = _checked(bench, period, rows)
    judged_rows.collect_refused(connection, spec, raw)
    if not judgement.reasons:
        delete_events(connection, judged_rows.REFUSED, for_good=True)
    added = added_sql(connection, spec)
    time = added["event_timestamp"]
    left, first, last, labelled = connection.execute(
        f"SELECT count(*), min({time}), max({time}), max({time}) FILTER ({added['label']} IS NOT NULL) FROM {EVENTS}"
    ).fetchone() or (0, None, None, None)
    statistics = describe_rows(connection, _profiled(spec), spec.label.name)
    statistics[LABELLED_UNTIL] = labelled and labelled.astimezone(UTC).isoformat()
    unfit = () if left or judgement.reasons else _failed("a row is left", ["no row is left"])
    notes: tuple[str, ...] = ()
    before = bench.in_force.get(partition.key)
    if period and before and left and not judgement.reasons and before.id != partition.id:
        uncovered, notes = _beside_what_it_replaces(bench, partition, before, first, last, statistics)
        unfit += uncovered
    reasons = judgement.reasons or tuple(check.observed for check in unfit)
    common: dict[str, Any] = {
        "checks": judgement.checks + unfit,
        "results": judgement.results,
        "statistics": statistics,
        "sample": judged_rows.sample(connection, spec),
        "rejected_uri": judged_rows.write_rejected(connection, spec, bench.settings, partition),
    }
    if reasons:
        return Decision(status="quarantined", reasons=reasons, **common)
    counted = connection.execute(
        f"SELECT reason, count(*) FROM {REJECTS} GROUP BY reason ORDER BY 2 DESC, 1"
    ).fetchall()
    uri, digest = judged_rows.write_accepted(connection, spec, bench.settings, partition, added)
    return Decision(
        status="accepted",
        reasons=(*(f"{count:,} rows: {reason}" for reason, count in counted), *notes),
        accepted_rows=left,
        accepted_uri=uri,
        accepted_sha256=digest,
        first_event=first,
        last_event=last,
        **common,
    )


def _checked(bench: Bench, period: Period | None, rows: int) -> Judgement:
    """Check event rows against the contract, and by the suite where they keep it; ``REJECTS`` lists the rows to leave out."""
    connection = bench.connection
    connection.execute(f"CREATE OR REPLACE TABLE {REJECTS} ({ROW} BIGINT, reason VARCHAR)")
    found = check_rows(connection, bench.spec, period, rows, bench.usual[period.kind] if period else [])
    as_columns = Check(source="contract", rule="columns as in the contract", observed="all are", verdict="passed")
    if found.reasons:
        return Judgement(checks=(as_columns, *found.checks), reasons=found.reasons)
    with bench.judge() as judge:
        suite = run_suite(connection, judge, bench.expectations)
    return Judgement(checks=(as_columns, *found.checks, *suite.checks), reasons=suite.reasons, results=suite.results)


def _beside_what_it_replaces(
    bench: Bench, partition: Partition, before: Partition, first: datetime, last: datetime, statistics: dict[str, Any]
) -> tuple[tuple[Check, ...], tuple[str, ...]]:
    """Return what of the rows in force a revision does not tell of, as failed checks, and what is to be noted of it.

    Where somebody means it to stand, those rows are wrong, and nothing of them is missing.
    """
    if not (before.first_event and before.last_event):
        return (), ()
    apart = () if bench.again else revisions.uncovered(before, first, last)
    uncovered = _failed("a revision tells of what it replaces", apart)
    notes = revisions.taken_back(bench.engine, partition, before)
    return uncovered, notes or revisions.left_out(before, first, last, partition.rows, statistics)


def _profiled(spec: ModelSpec) -> dict[str, str]:
    """Return the columns that statistics are made of: those of the rows, the label among them."""
    return {name: kind for name, kind in compiled(spec)[1].items() if name not in (ROW, LABEL_TIME)}


def summary(partition: Partition) -> dict[str, Any]:
    """Return what is said of a partition to people and in events."""
    names = ("key", "revision", "status", "rows", "accepted_rows", "rejected_rows", "reasons")
    return {name: getattr(partition, name) for name in names}


def counts(partitions: list[Partition]) -> dict[str, Any]:
    """Return how many partitions have each status, and their rows."""
    statuses = Counter(partition.status for partition in partitions)
    return {
        "partitions": len(partitions),
        **{str(status): number for status, number in statuses.items()},
        "accepted_rows": sum(partition.accepted_rows for partition in partitions),
        "rejected_rows": sum(partition.rejected_rows for partition in partitions),
    }
