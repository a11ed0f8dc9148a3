"""What the commands have in common: their options, the home that they open, the flow that they run, what they print."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from flows.settings import Settings
    from flows.spec import ModelSpec

from flows.errors import UsageError

Model = Annotated[str, typer.Option(help="Name of the model, a folder in flows/models.")]
Home = Annotated[
    Path | None, typer.Option(help="Folder that holds everything; default: EVERGREEN_HOME, or .evergreen.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Approve = Annotated[bool, typer.Option("--approve", help="Promote after a person's word in the Prefect UI only.")]
Check = Callable[["Settings", "ModelSpec", "Engine"], object]
Why = Annotated[str, typer.Option(help="The reason, kept in the ledger.")]


def open_home(home: Path | None, model: str) -> Any:
    """Read the settings and make sure that the model is one, before anything is started or written."""
    settings = _settings(home, model)
    if settings.home.exists() and not settings.home.is_dir():
        raise UsageError(f"{settings.home} is a file; name a folder with --home")
    return settings.activate()


def find_home(home: Path | None, model: str) -> Any:
    """Read the settings of a home that is there, as ``open_home`` does: to look at one makes none.

    Raises UsageError if there is neither its folder nor a ledger on a server.
    """
    settings = _settings(home, model)
    if not settings.ledger_url and not settings.home.is_dir():
        raise UsageError(
            f"{settings.home} is no folder; `evergreen ingest` makes it, or name the one you mean with --home"
        )
    return settings.activate()


def _settings(home: Path | None, model: str) -> Settings:
    from flows.lookup import load_model
    from flows.settings import Settings

    settings = Settings() if home is None else Settings(home=home)
    load_model(model, settings)
    return settings


def run_flow(
    home: Path | None, model: str, call: Callable[[], Any], check: Check | None = None, needs: Iterable[str] = ()
) -> Any:
    """Run a flow on the Prefect server of the home, or on one that lives as long as it.

    ``check`` raises what the flow would raise of a call that must be refused, before a server is started for it; ``needs``
    names the modules that the flow imports, its own first, which are loaded while that server starts.
    """
    settings = open_home(home, model)
    from flows.steps.prefect_server import prefect_server
    from flows.terminal import end_on_signals, quiet_libraries, stop_if_interrupted

    quiet_libraries()
    end_on_signals()
    if check is not None:
        from flows import database
        from flows.lookup import load_model

        check(settings, load_model(model, settings), database.connect(settings))
    with prefect_server(settings, needs):
        from prefect import tags

        from flows.errors import CancelledError
        from flows.runs import TAG, confirm_cancelled, settle

        try:
            with tags(TAG):
                return call()
        except CancelledError:
            confirm_cancelled()
            raise
        except Exception:
            stop_if_interrupted()
            raise
        finally:
            settle()


def report(outcome: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    """Print what came of a command, as JSON or for a person."""
    if as_json:
        import json

        print(json.dumps(outcome, indent=1, default=str))  # noqa: T201 (rich would fold it)
    else:
        show(outcome)
