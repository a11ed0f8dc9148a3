"""The commands of promotion: at once, after a trial on the traffic, back again; the trial seen, judged, stopped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli_call import Approve, AsJson, Home, Model, Why, find_home, report, run_flow
from flows.cli_delivery import home_at, promote_across
from flows.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from flows.settings import Settings
    from flows.spec import ModelSpec


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (promote, rollback, trial):
        app.command()(command)


def promote(
    version: Annotated[int | None, typer.Argument(help="Default: the newest challenger.")] = None,
    why: Why = "",
    approve: Approve = False,
    canary: Annotated[bool, typer.Option("--canary", help="First let it answer a share of the requests.")] = False,
    shadow: Annotated[bool, typer.Option("--shadow", help="First let it answer copies, then as canary.")] = False,
    share: Annotated[float | None, typer.Option(min=0.0001, max=0.99, help="Of a canary; default: the spec's.")] = None,
    source: Annotated[str | None, typer.Option("--from", help="Place whose champion, or VERSION, is copied.")] = None,
    target: Annotated[str | None, typer.Option("--to", help="Place that it is copied to and serves in.")] = None,
    model: Model = "taxi",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Make a version the champion, at once or after a trial; with --from and --to, one copied from another place."""
    if (canary and shadow) or (share is not None and not (canary or shadow)):
        raise UsageError("give --canary or --shadow, and --share with one of them")
    if canary or shadow:
        if approve or source is not None or target is not None:
            raise UsageError("--canary and --shadow go without --approve, --from and --to")
        _begin_trial(model, home, version, "canary" if canary else "shadow", share, why, as_json)
        return
    if source is not None or target is not None:
        if source is None or target is None or approve or home is not None:
            raise UsageError("--from and --to go together, and without --home and --approve")
        promote_across(source, target, version, why, model, as_json)
        return

    def call() -> Any:
        from flows.promote import promote as flow

        return flow(model=model, version=version, why=why, approve=approve)

    def check(settings: Settings, spec: ModelSpec, engine: Engine) -> None:
        from flows.steps.promotion import choose

        choose(settings, spec, engine, version)

    from flows.show import show_promoted

    report(run_flow(home, model, call, check, ("flows.promote", "mlflow", "skops.io")), as_json, show_promoted)


def rollback(
    why: Why = "",
    at: Annotated[str | None, typer.Option("--at", help="Place, a file in deployments/environments.")] = None,
    model: Model = "taxi",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Make the version that served before the champion the champion again."""
    home = home_at(at, home)

    def call() -> Any:
        from flows.promote import rollback as flow

        return flow(model=model, why=why)

    def check(_settings: Settings, spec: ModelSpec, engine: Engine) -> None:
        from flows.steps.promotion import rollback_goal

        rollback_goal(engine, spec)

    from flows.show import show_promoted

    report(run_flow(home, model, call, check, ("flows.promote", "mlflow", "skops.io")), as_json, show_promoted)


def trial(
    judge: Annotated[bool, typer.Option("--judge", help="Judge it now, and do what follows.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop it; the champion serves on alone.")] = False,
    why: Why = "",
    model: Model = "taxi",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show what is, or was last, on trial as shadow or canary; judge it or stop it."""
    if judge and stop:
        raise UsageError("--judge and --stop: give one of them")
    from flows import database, trials
    from flows.show import show_trial
    from flows.steps.status import on_trial

    if judge:

        def call() -> Any:
            from flows.rollout import judge_trial

            return judge_trial(model=model)

        report(run_flow(home, model, call), as_json, show_trial)
        return
    engine = database.connect(find_home(home, model))
    if stop:
        running = trials.running(engine, model)
        evidence = {"tallies": running.tallies} if running else {}
        if running is None or not trials.end(engine, running.id, "stopped", why or "by hand", evidence):
            raise RefusedError(f"{model}: nothing is on trial; begin one with `evergreen promote --canary`")
    found = trials.listed(engine, model)
    report(on_trial(found[0]) if found else None, as_json, show_trial)


def _begin_trial(
    model: str,
    home: Path | None,
    version: int | None,
    kind: Literal["shadow", "canary"],
    share: float | None,
    why: str,
    as_json: bool,
) -> None:
    """Put a version on trial instead of promoting it."""

    def call() -> Any:
        from flows.rollout import begin_trial

        return begin_trial(model=model, version=version, kind=kind, share=share, why=why)

    def check(settings: Settings, spec: ModelSpec, engine: Engine) -> None:
        from flows.steps.promotion import choose

        choose(settings, spec, engine, version)

    from flows.show import show_trial

    report(run_flow(home, model, call, check, ("flows.rollout", "mlflow", "skops.io")), as_json, show_trial)
