"""The local stack: Prefect's server and worker, watcher, UIs and prediction service, in one foreground and one log."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

from deployments import declared
from flows.errors import UnavailableError
from flows.secret import shown
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps.links import HOST, docs_page

PROCFILE = Path(__file__).with_name("Procfile")
FEATURE_REPO = Path(__file__).parents[1] / "feature_repo"
ENDING_SECONDS = 15.0  # in which all parts of a stack that was killed have ended


def processes(settings: Settings) -> dict[str, str]:
    """Return the commands of the stack by name: those of the Procfile, without MLflow's server where one is named."""
    from honcho.environ import parse_procfile

    found: dict[str, str] = parse_procfile(PROCFILE.read_text()).processes
    return {name: command for name, command in found.items() if name != "mlflow" or not _has_mlflow(settings)}


def _has_mlflow(settings: Settings) -> bool:
    return settings.tracking_uri.startswith(("http://", "https://"))


def ports(settings: Settings) -> dict[str, tuple[str, int]]:
    """Return the ports of the stack: what listens on each, and the setting that changes it."""
    mlflow = {} if _has_mlflow(settings) else {"MLflow": ("EVERGREEN_MLFLOW_PORT", settings.mlflow_port)}
    return {
        "Prefect": ("EVERGREEN_PREFECT_PORT", settings.prefect_port),
        **mlflow,
        "Feast": ("EVERGREEN_FEAST_PORT", settings.feast_port),
        "Data Docs": ("EVERGREEN_DOCS_PORT", settings.docs_port),
        "the prediction service": ("EVERGREEN_SERVICE_PORT", settings.service_port),
    }


def refuse_taken_ports(settings: Settings) -> None:
    """Raise UnavailableError if the home is up already; or one that names every port that is taken or asked for twice.

    Where the stack of this home was killed, its parts are ending still, and their ports are waited for.
    """
    from flows.steps.prefect_server import refuse_running, was_killed

    patience = ENDING_SECONDS if was_killed(settings) else 0.0
    refuse_running(settings)
    deadline = time.monotonic() + patience
    while problems := _port_problems(settings):
        if time.monotonic() >= deadline:
            raise UnavailableError(f"nothing was started: port {'; port '.join(problems)}, or end what listens there")
        time.sleep(0.5)


def _port_problems(settings: Settings) -> list[str]:
    wanted: dict[int, str] = {}
    problems = []
    for who, (setting, port) in ports(settings).items():
        if port in wanted:
            problems.append(f"{port} is asked for by {wanted[port]} and {who}, set {setting}")
        elif port and _is_taken(port):
            problems.append(f"{port} for {who} is taken, set {setting} to another")
        wanted.setdefault(port, who)
    return problems


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port whose last user has just ended is free
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def links(settings: Settings, spec: ModelSpec) -> dict[str, str]:
    """Return where to look once the stack is up."""
    return {
        "Prefect UI": f"http://{HOST}:{settings.prefect_port}",
        "MLflow UI": shown(settings.tracking_uri) if _has_mlflow(settings) else f"http://{HOST}:{settings.mlflow_port}",
        "Feast UI": f"http://{HOST}:{settings.feast_port}",
        "service": f"http://{HOST}:{settings.service_port}",
        "landing folder": str(settings.landing(spec.name)),
        "Data Docs": docs_page(settings, settings.docs / spec.name / "index.html"),
    }


def undeployed(spec: ModelSpec) -> str:
    """Return a note if nothing is declared that takes what lands for a model, else nothing."""
    if any(one.model == spec.name for one in declared.read()):
        return ""
    return (
        f"{spec.name} has no deployments: what lands for it waits, and nothing trains by itself; copy the blocks of taxi in "
        f"{declared.PREFECT_YAML} for it, then start again"
    )


def environment(settings: Settings, spec: ModelSpec) -> dict[str, str]:
    """Return the variables of the Procfile and of what it starts."""
    api_url = f"http://{HOST}:{settings.prefect_port}/api"
    return os.environ | settings.environment() | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONUNBUFFERED": "1",  # the log tells things when they happen
        "PREFECT_API_URL": api_url,
        # The UI asks this address for its data; without it, it would ask port 4200.
        "PREFECT_SERVER_API_PORT": str(settings.prefect_port),
        "PREFECT_SERVER_UI_API_URL": api_url,
        # Pages of other sites that are open in the same browser have no business here.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{settings.prefect_port},http://localhost:{settings.prefect_port}",
        # A run starts within the second in which it was asked for; Prefect would look every ten.
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "MLFLOW_BACKEND_STORE_URI": settings.tracking_uri,  # not as an option: it may hold a password, others see those
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its job queue is for its GenAI side; each worker is a process
        "EVERGREEN_MODEL": spec.name,
        "EVERGREEN_FEATURE_REPO": str(FEATURE_REPO),
        "EVERGREEN_PREFECT_PORT": str(settings.prefect_port),
        "EVERGREEN_MLFLOW_PORT": str(settings.mlflow_port),
        "EVERGREEN_FEAST_PORT": str(settings.feast_port),
        "EVERGREEN_DOCS_PORT": str(settings.docs_port),
        "EVERGREEN_SERVICE_HOST": HOST,
        "EVERGREEN_SERVICE_PORT": str(settings.service_port),
        "EVERGREEN_WORKER_LIMIT": str(settings.worker_limit),
    }  # fmt: skip


def prepare(settings: Settings) -> None:
    """Make the stores that several of the processes would otherwise make at once."""
    from flows import database
    from flows.steps import feature_store, registry

    settings.docs.mkdir(parents=True, exist_ok=True)
    database.connect(settings)
    registry.open_client(settings)
    feature_store.open_store(settings)


def run(settings: Settings, spec: ModelSpec) -> int:
    """Run the Procfile until a signal, and return the exit status; raise UnavailableError if a part ends: then all end.

    Meanwhile the home's ``prefect/server.json`` says where the server is, so that other commands use it.
    """
    from honcho.manager import Manager

    from deployments.tied import Tied
    from flows.steps.prefect_server import announced

    variables = environment(settings, spec)
    manager = Manager()
    manager._process_ctor = Tied
    ended: list[str] = []
    end_all = manager.terminate

    def terminate() -> None:  # called at the first end, or at a signal
        if not manager._terminating:
            done = {name: one["returncode"] for name, one in manager._processes.items() if "returncode" in one}
            ended.extend(f"{name} ended with status {status}" for name, status in done.items())
        end_all()

    manager.terminate = terminate
    for name, command in processes(settings).items():
        manager.add_process(name, command, env=variables, cwd=str(settings.home))
    with announced(settings, variables["PREFECT_API_URL"]):
        manager.loop()
    if ended:
        raise UnavailableError(
            f"{', '.join(ended)}, and so all was ended; its last lines above may say why; the next `evergreen up` goes on"
        )
    return int(manager.returncode or 0)
