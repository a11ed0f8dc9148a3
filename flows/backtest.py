"""Backtest: history replayed through the real parts of training, under retraining policies side by side."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows import database, ledger
from flows.featurize import featurize
from flows.ingest import ingest
from flows.lookup import load_model
from flows.runs import recorded, run_name, stage
from flows.settings import Settings, load
from flows.spec import Costs, ModelSpec, PolicyName
from flows.steps import feature_store, history, machines, past, spark, spark_tasks, stages
from flows.steps.backtest import findings, kept, logged, on_spark, page
from flows.steps.backtest.models import Made, open_window, prune, train_window
from flows.steps.backtest.replay import Bench, Outcome, replay
from flows.steps.backtest.timeline import History, plan_steps, read_history
from flows.steps.periods import Kind
from flows.steps.same_code import code_of

AT_ONCE = 2  # windows: one's fit, which takes all threads, beside another's probe, a process of its own

join_features = stage(read_history, name="join-features")


def _parser_failed(_task: Any, _run: Any, state: Any) -> bool:
    """Say whether it was Python's parser, which may count wrongly while another thread parses (CPython issue 106905)."""
    return isinstance(state.result(raise_on_failure=False), SystemError)


make_task: Any = task(
    name="train-window", cache_policy=NO_CACHE, retries=4, retry_delay_seconds=0.1, retry_condition_fn=_parser_failed
)
train, train_on_spark = make_task(train_window), make_task(on_spark.train_window)
conclude = stage(findings.conclude, name="conclude")
log_backtest = stage(logged.log, name="log-backtest", retries=2, retry_delay_seconds=2)


def replay_history(
    model: str = "taxi",
    start: date | None = None,
    end: date | None = None,
    every: Kind | None = None,
    policies: Sequence[PolicyName] = (),
    cost_train: float | None = None,
    cost_error: float | None = None,
    judge_days: int | None = None,
    data: str | None = None,
    html: Path | None = None,
) -> dict[str, Any]:
    """Replay the accepted history of a model by periods, and compare retraining policies on it.

    ``data`` is landed first, or the spec's own ``history_data`` if the home has no accepted partition. All policies
    share the models: what one window makes is trained once, and kept in the home, so that a replay that broke off, or
    is asked for again, trains only what it has not. Costs are in one currency: of a training, and of a unit of error
    in one prediction. The champion and everything that serves are left as they are.
    """
    home = load()
    spec = load_model(model, home)
    engine = database.connect(home)
    source = data or (None if ledger.list_partitions(engine, model, "accepted") else spec.history_data)
    if source:
        ingest(source=history.landable(source, home.home / "source"), model=model)
        featurize(model=model)
    begun, at = time.perf_counter(), database.now()
    judge = timedelta(days=judge_days) if judge_days else spec.training.judge
    with (
        recorded(engine, model, "backtest", f"by {every}" if every else "by periods of the data") as run,
        stages.one_at_a_time(home, f"{model}-backtest"),
    ):
        accepted = ledger.list_partitions(engine, model, "accepted")
        kind, steps = plan_steps(spec, accepted, every, start, end)
        if home.dask_url:
            get_run_logger().info(machines.look(home, model, code_of(spec)))
        if on_cluster(home):
            get_run_logger().info(spark_tasks.look(home, spec))
        store = feature_store.open_store(home)
        feature_store.check_names(store, spec)
        joined = join_features(home, store, spec, accepted, steps, judge, start is not None)
        place = on_spark.keep(home, joined) if on_cluster(home) else kept.keep(home, joined)
        replayed = kept.opened(home, place)
        made = train_all(home, replayed, place, judge)
        models = [open_window(home, replayed, step, one) for step, one in enumerate(made)]
        found_before = sum(not one.made for one in made)
        bench = Bench(replayed, models, Costs(training=0.0))
        bench.costs, costs_from = findings.costs_of(spec, cost_train, cost_error, bench.errors, bench.rows)
        lived = replay_all(bench, tuple(policies) or findings.POLICIES)
        found = conclude(
            bench, lived, kind, judge, at, costs_from, found_before=found_before, seconds=0.0
        ).model_copy(update={"seconds": time.perf_counter() - begun})  # fmt: skip
        prune(home, spec)
        stored = findings.keep(home, found)
        past.write(home, model, bench.told(len(replayed.steps)), at)
        written = page.write(spec, found, html or stored.with_suffix(".html"))
        logged_as = log_backtest(home, spec, found, stored, written)
        files = {"json": str(stored), "html": str(written), "mlflow_run": logged_as}
        show(spec, found)
        run.summary = {
            "windows": found.windows, "trained": found.windows - found_before, "policy": found.verdict.policy, **files,
        }  # fmt: skip
    return findings.summary(found, files)


# Prefect sends the flow along with each task. A decorated function is not found by its name on another machine, and would
# be sent whole, with all that it names.
backtest = flow(name="backtest", flow_run_name=run_name)(replay_history)


def train_all(home: Settings, replayed: History, place: kept.Place, judge: timedelta) -> list[Made]:
    """Have the models of all periods made, some at once, here or on the machines of a cluster; each is shown when it is done.

    Every policy may need any of them, and the best plan in hindsight needs them all.
    """
    made: dict[int, Made] = {}
    what, code, steps = f"{replayed.spec.name}: windows", code_of(replayed.spec), range(len(replayed.steps))
    watch: Callable[[], AbstractContextManager[None]]
    many, work, watch = task_runner(home), train, nullcontext
    if on_cluster(home):
        # Each task is watched as well, this is for those that wait: where all workers are gone, none waits for them anew.
        work, watch = train_on_spark, partial(spark.told, home, what)
    with progress(what, len(steps)) as advance, watch(), many as runner:
        futures = {
            runner.submit(work, {"place": place, "step": step, "judge": judge, "code": code}): step for step in steps
        }
        with machines.told(home, runner.client, futures) if home.dask_url else nullcontext():
            for future in as_completed(list(futures)):
                made[futures[future]] = future.result()
                advance()
    return [made[step] for step in steps]


def replay_all(bench: Bench, policies: Sequence[PolicyName]) -> list[Outcome]:
    """Let the policies live through the past, some at once in threads of this process, where they share what they measure."""

    def live(policy: PolicyName) -> Outcome:
        return replay(bench, policy, bench.spec.triggers)

    # The bench is no parameter: Prefect would look through all of it.
    living: Any = task(name="replay-policy", cache_policy=NO_CACHE)(live)
    runner: Any = ThreadPoolTaskRunner(max_workers=os.cpu_count())
    with progress(f"{bench.spec.name}: policies", len(policies)) as advance, runner:
        futures = [runner.submit(living, {"policy": policy}) for policy in policies]
        for _ in as_completed(futures):
            advance()
        return [future.result() for future in futures]


def on_cluster(home: Settings) -> bool:
    """Say whether the workers of the Spark cluster train: the settings name one, and no Dask cluster for it."""
    return bool(home.compute_url and not home.dask_url)


def task_runner(home: Settings) -> Any:
    """Return what runs the trainings: threads of this process, or the workers of a Dask cluster if the settings name one.

    On a Spark cluster a thread waits for each window that is under way there.
    """
    if home.dask_url:
        from prefect_dask import DaskTaskRunner

        return DaskTaskRunner(address=home.dask_url)
    return ThreadPoolTaskRunner(max_workers=on_spark.hands(home) if home.compute_url else AT_ONCE)


@contextmanager
def progress(what: str, total: int) -> Iterator[Any]:
    """Show how far the work is, on a terminal only; yields what is called for each piece."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    shown = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True,
    )  # fmt: skip
    with shown:
        bar = shown.add_task(what, total=total)
        yield lambda: shown.advance(bar)


def show(spec: ModelSpec, found: findings.Findings) -> None:
    """Put the table on the run's page in Prefect."""
    create_markdown_artifact(
        key=f"backtest-{spec.name.replace('_', '-')}", markdown=page.markdown(found),
        description=f"{found.periods[0]} to {found.periods[-1]} by {found.every}",
    )  # fmt: skip
