"""The commands of the stack: start it, deploy to it, list what starts trainings by itself."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.cli_call import AsJson, Home, Model, open_home, report


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(up)
    app.command()(deploy)
    app.command()(triggers)


def up(model: Model = "taxi", home: Home = None) -> None:
    """Start everything in the foreground: Prefect, worker, watcher, MLflow UI, Feast UI, prediction service."""
    from deployments import stack
    from flows.errors import UsageError
    from flows.lookup import load_model
    from flows.show import show_links

    settings = open_home(home, model)
    if settings.profile == "team":
        raise UsageError("`evergreen up` runs all parts on this machine; a team's run as docker/compose.yaml has them")
    spec = load_model(model, settings)
    stack.refuse_taken_ports(settings)
    stack.prepare(settings)
    show_links(stack.links(settings, spec), stack.undeployed(spec))
    raise typer.Exit(stack.run(settings, spec))


def deploy(
    env: Annotated[str, typer.Option(help="Environment, a file in deployments/environments.")] = "local",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the server of PREFECT_API_URL to start.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Bring deployments, schedules and triggers onto the Prefect server; again changes nothing."""
    import os

    from deployments import deploy as deploying
    from flows.errors import UsageError
    from flows.settings import Settings
    from flows.show import show_deployed
    from flows.steps.prefect_server import prefect_server
    from flows.terminal import end_on_signals, quiet_libraries

    end_on_signals()  # what was paused is paused again then as well
    deploying.use_environment(env)
    settings = (Settings() if home is None else Settings(home=home)).activate()
    if wait:
        api_url = os.environ.get("PREFECT_API_URL")
        if not api_url:
            raise UsageError("--wait needs PREFECT_API_URL, the server to wait for")
        deploying.wait_for_server(api_url)
    quiet_libraries()
    with prefect_server(settings):
        found: dict[str, Any] = deploying.deploy(settings)
    report(found, as_json, show_deployed)


def triggers(model: Model = "taxi", home: Home = None, as_json: AsJson = False) -> None:
    """List what starts trainings and the other flows, when each fired last, and why."""
    import os

    from deployments import declared
    from deployments.triggers import listing
    from flows import database
    from flows.show import show_triggers
    from flows.steps.prefect_server import running

    settings = open_home(home, model)
    api_url = os.environ.get("PREFECT_API_URL") or running(settings)
    found = listing(database.connect(settings), model, declared.read(), api_url)
    report([one.model_dump(mode="json") for one in found], as_json, show_triggers)
