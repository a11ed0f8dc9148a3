"""The application of the prediction service: ``/predict``, and what others add to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.service.predict_route import add_predict
from deployments.service.predictor import Predictor
from deployments.service.request import RequestParser


class Service(FastAPI):
    """FastAPI behind plain ASGI of ours: what is put before it sees a request first, and costs no more than its own work."""

    _front: ASGIApp | None = None
    load_first: Callable[[float], None]  # waits so many seconds at most for a first model, before requests are taken

    def put_before(self, wrap: Callable[[ASGIApp], ASGIApp]) -> None:
        """Put an application before all that is there, FastAPI's own middleware included."""
        self._front = wrap(self._front or super().__call__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await (self._front or super().__call__)(scope, receive, send)


def create_app(
    predictor: Predictor,
    start: Callable[[], None] = lambda: None,
    stop: Callable[[], None] = lambda: None,
    more: Sequence[Callable[[Service], None]] = (),
) -> Service:
    """Return the service's application; ``start`` and ``stop`` are called when it begins and ends to run.

    Each of ``more`` adds routes of its own.
    """

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        start()
        yield
        stop()

    spec = predictor.spec
    parser = RequestParser(spec)
    # No pages that load scripts from the web: the description alone.
    app = Service(
        title=f"{spec.name}: predictions",
        description=spec.description,
        version="1",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        # Its own telemetry would send by the environment's say alone; ours is ``tracing``, behind a setting.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )

    add_predict(app, predictor, parser)
    for add in more:
        add(app)
    return app
