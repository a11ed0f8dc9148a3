"""Addresses of pages that a browser can open: a run in MLflow, the pages of Data Docs.

They are served by `evergreen up`. Links to files would not do: a browser opens none from a page that was served.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from flows.secret import shown
from flows.settings import Settings

HOST = "127.0.0.1"


def mlflow_page(settings: Settings) -> str:
    """Return the address of MLflow's UI: that of its server if there is one, else of the local stack's."""
    if settings.tracking_uri.startswith(("http://", "https://")):
        return shown(settings.tracking_uri).rstrip("/")
    return f"http://{HOST}:{settings.mlflow_port}"


def run_page(settings: Settings, run_id: str) -> str | None:
    """Return the address of a run in MLflow's UI; None if MLflow does not know it or is away."""
    from mlflow.exceptions import MlflowException

    from flows.errors import EvergreenError
    from flows.steps import registry

    try:
        experiment = registry.open_client(settings).get_run(run_id).info.experiment_id
    except (MlflowException, EvergreenError):
        return None
    return f"{mlflow_page(settings)}/#/experiments/{quote(experiment)}/runs/{quote(run_id)}"


def docs_page(settings: Settings, page: Path) -> str:
    """Return the address of a page below ``settings.docs``."""
    return f"http://{HOST}:{settings.docs_port}/{quote(page.relative_to(settings.docs).as_posix())}"


def line(settings: Settings, model: str, run_id: str, report: Path | None = None) -> str:
    """Return links to a run in MLflow, to Data Docs and to a report, as one line of Markdown."""
    run = run_page(settings, run_id)
    found = [f"[MLflow run]({run})" if run else f"MLflow run {run_id}, which MLflow does not show"]
    found.append(f"[Data Docs]({docs_page(settings, settings.docs / model / 'index.html')})")
    if report:
        found.append(f"[Report]({docs_page(settings, report)})")
    return " · ".join(found)
