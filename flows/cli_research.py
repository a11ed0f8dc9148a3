"""The commands of research: what features there are, and an experiment that becomes the model's code."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli_call import AsJson, Home, Model, report


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (features, adopt):
        app.command()(command)


def features(
    name: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Those of a model; default: of all.")] = None,
    search: Annotated[str | None, typer.Option(help="Part of a name, a description or a key.")] = None,
    tag: Annotated[str | None, typer.Option(metavar="NAME[=VALUE]", help="With this tag.")] = None,
    owner: Annotated[str | None, typer.Option(help="Part of an owner.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List registered features: what each is, which models use it, what its table holds."""
    from flows import workbench
    from flows.show_research import show_features
    from flows.steps.research import feature_list
    from flows.terminal import quiet_libraries

    quiet_libraries()
    found = workbench.features(name, search=search, tag=tag, owner=owner, home=home)
    report(feature_list.records(found), as_json, show_features)


def adopt(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="MLflow run of an experiment.")],
    branch: Annotated[str | None, typer.Option(help="Name of the branch; default: adopt-MODEL-RUN.")] = None,
    model: Model = "taxi",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Open the change that makes an experiment's code the model's: a commit on a new branch, or a patch file."""
    from flows import workbench
    from flows.show_research import show_adopted
    from flows.terminal import quiet_libraries

    quiet_libraries()
    found = workbench.adopt(run_id, model=model, branch=branch, home=home)
    report(found.model_dump(mode="json"), as_json, show_adopted)
