"""Starts the prediction service: ``python -m deployments.service --model taxi [--home DIR] [--port PORT]``."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import warnings
from types import FrameType
from typing import Any

from flows import settings as settings_of
from flows.errors import EvergreenError, UnavailableError
from flows.settings import Settings
from flows.spec import ModelSpec, load_model

MOST_CONNECTIONS = 512  # beyond it 503: with 1 MiB a body this bounds the memory
GRACE_SECONDS = 1


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
        listener = _listen(
            options.host or settings.service_host, settings.service_port if options.port is None else options.port
        )
        with listener:
            serve(settings, spec, listener)
    except EvergreenError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    return 0


def serve(settings: Settings, spec: ModelSpec, listener: socket.socket) -> None:
    """Serve a model on a listening socket; while it does, the home says where."""
    import uvicorn

    from deployments.service.build import build
    from deployments.service.record import remove_record, write_record

    host, port = listener.getsockname()[:2]

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            write_record(settings, spec.name, host, port)

    config = uvicorn.Config(
        build(settings, spec), log_level="warning", access_log=False, server_header=False,
        limit_concurrency=MOST_CONNECTIONS, timeout_keep_alive=15, timeout_graceful_shutdown=GRACE_SECONDS,
    )  # fmt: skip
    try:
        Server(config).run(sockets=[listener])
    finally:
        remove_record(settings, spec.name)


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deployments.service", description="Serve a model's champion over HTTP."
    )
    parser.add_argument("--model", default="taxi", help="name of the model")
    parser.add_argument("--home", help="folder of the installation; default: EVERGREEN_HOME, else .evergreen")
    parser.add_argument("--host", help="address to listen on; default: 127.0.0.1")
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
