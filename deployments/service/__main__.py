"""Starts the prediction service: ``python -m deployments.service --model taxi [--home DIR] [--port PORT] [--workers N]``."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from deployments.service.logs import log_json
from deployments.service.workers import end_with_parent, supervise
from flows import settings as settings_of
from flows.cli_error import UNFORESEEN, told
from flows.errors import EvergreenError, UnavailableError
from flows.lookup import load_model
from flows.settings import Settings
from flows.spec import ModelSpec

MOST_CONNECTIONS = 1024  # of one worker; the guard answers 503 to what is more than its queue long before
GRACE_SECONDS = 1
LOAD_SECONDS = 30.0  # for a first model, until requests are taken without one, to be told why there is none
GARBAGE = 20_000  # objects made and not yet freed before the collector looks; Python asks for 700


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    # One row is computed faster by one thread than by a team. Read by scikit-learn when it is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.filterwarnings("ignore", module=r"feast|feature_repo")  # of what Feast thinks of its own features
    options = _parser().parse_args(arguments)
    try:
        settings = settings_of.load(options.home)
        spec = load_model(options.model, settings)
        if options.socket is not None:
            end_with_parent()
            with socket.socket(fileno=options.socket) as listener:
                serve(settings, spec, listener, options.worker)
            return 0
        port = settings.service_port if options.port is None else options.port
        with _listen(options.host or settings.service_host, port) as listener:
            serve_all(settings, spec, listener, options.workers or settings.service_workers)
    except (EvergreenError, ValidationError, SettingsError, OSError) as error:
        line, status = told(error)
        if line.startswith(UNFORESEEN):
            raise
        sys.stderr.write(f"{line}\n")
        return status
    return 0


def serve_all(settings: Settings, spec: ModelSpec, listener: socket.socket, workers: int) -> None:
    """Serve a model on a listening socket, by this process or several; while it does, the home says where."""
    from deployments.service.board import clear_board
    from deployments.service.record import remove_record, write_record

    host, port = listener.getsockname()[:2]

    def begun() -> None:
        write_record(settings, spec.name, host, port)

    clear_board(settings, spec.name)
    try:
        if workers == 1:
            serve(settings, spec, listener, None, begun)
        else:
            log_json()
            begun()
            supervise(settings, spec.name, listener, workers)
    finally:
        remove_record(settings, spec.name)


def serve(
    settings: Settings,
    spec: ModelSpec,
    listener: socket.socket,
    worker: int | None,
    begun: Callable[[], None] = lambda: None,
) -> None:
    """Serve a model on a listening socket by this process, the only one (``worker`` None) or one of several."""
    import uvicorn

    from deployments.service.build import build
    from deployments.service.protocol import WholeResponses

    log_json()

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            begun()

    app = build(settings, spec, worker=worker, under_way=lambda: len(server.server_state.tasks))
    config = uvicorn.Config(
        app, http=WholeResponses, proxy_headers=False, log_config=None, access_log=False, server_header=False,
        limit_concurrency=MOST_CONNECTIONS, timeout_keep_alive=15, timeout_graceful_shutdown=GRACE_SECONDS,
    )  # fmt: skip
    server = Server(config)
    # What is loaded by now stays: the collector need not look at it again, nor each few requests at theirs, which have
    # no cycles to speak of. https://docs.python.org/3/library/gc.html#gc.freeze
    gc.freeze()
    gc.set_threshold(GARBAGE)
    # Whoever accepts answers: a worker that is started again leaves the requests to the others until it can.
    app.load_first(LOAD_SECONDS)
    server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        raise UnavailableError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port"
        ) from error
    return listener


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError(text)
    return port


def _workers(text: str) -> int:
    workers = int(text)
    if not 1 <= workers <= 64:
        raise ValueError(text)
    return workers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deployments.service", description="Serve a model's champion over HTTP."
    )
    parser.add_argument("--model", default="taxi", help="name of the model")
    parser.add_argument("--home", help="folder of the installation; default: EVERGREEN_HOME, else .evergreen")
    parser.add_argument("--host", help="address to listen on; default: 127.0.0.1")
    parser.add_argument("--workers", type=_workers, help="processes on the port; default: 1")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)  # the parent's words to a worker
    parser.add_argument("--socket", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=_port, help="port to listen on, 0 for a free one; default: 8300")
    return parser


def _end(_number: int, _frame: FrameType | None) -> None:
    """End the process in order: what is open is closed on the way out."""
    raise SystemExit(0)


if __name__ == "__main__":
    try:
        status = main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # all is closed; to take Feast and scikit-learn apart would need a second or two
