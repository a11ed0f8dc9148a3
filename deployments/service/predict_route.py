"""The route ``POST /predict``: plain ASGI in a FastAPI application, so that a request costs little more than its work.

FastAPI knows the route's path, method, description and responses. What is left out on its way is the router and the
solving of dependencies, of which there are none. What is put before it later (the guard) must be plain ASGI too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.service.at_once import at_once
from deployments.service.bodies import BODY_SECONDS, RETRY_AFTER, RequestError, in_time
from deployments.service.predictor import Predictor
from deployments.service.request import MAX_BODY_BYTES, BadRequestError, RequestParser
from deployments.service.responses import ANSWERS
from flows.errors import ContractError, UnavailableError

if TYPE_CHECKING:
    from deployments.service.app import Service

SMALL_BYTES = 2**14  # a body up to this size is answered at once: a thread would cost more than the work
JSON = (b"content-type", b"application/json")
Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]
log = logging.getLogger("evergreen.service")


def add_predict(app: Service, predictor: Predictor, parser: RequestParser) -> None:
    """Add ``POST /predict`` to an application."""

    def work(body: bytes, request_id: str) -> bytes:
        ready = parser.parse_ready(body)
        if ready is not None:
            return orjson.dumps(predictor.predict_ready(ready, request_id))
        return orjson.dumps(predictor.predict(parser.parse(body), request_id))

    async def predict(scope: Scope, receive: Receive, send: Send) -> None:
        status, headers = 200, [JSON]
        try:
            body = await _read(receive)
            request_id = scope.get("request_id", "")
            if len(body) <= SMALL_BYTES and predictor.is_quick:
                content = work(body, request_id)
            else:  # plain computing that takes its time leaves the event loop to the others
                content = await in_time(predictor.answer_seconds, work, body, request_id)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 (whatever happens, the client is told)
            status, detail, more = _told(predictor, error)
            headers = [JSON, *((name.lower().encode(), value.encode()) for name, value in more.items())]
            content = orjson.dumps({"detail": detail})
        headers.append((b"content-length", b"%d" % len(content)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    app.put_before(partial(Straight, endpoint=predict))
    app.router.add_api_route(
        "/predict", _described, methods=["POST"], route_class_override=_route(predict), openapi_extra=parser.openapi(),
        responses=ANSWERS, summary="Predict one row or several", name="predict",
    )  # fmt: skip


class Straight:
    """Hands ``POST /predict`` to its endpoint without going through the router; it tells all that goes wrong itself."""

    def __init__(self, app: ASGIApp, endpoint: Endpoint) -> None:
        self._app = app
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a prediction, pass anything else on."""
        if scope["type"] == "http" and scope["path"] == "/predict" and scope["method"] == "POST":
            await self._endpoint(scope, receive, send)
        else:
            await self._app(scope, receive, send)


async def _described() -> None:
    """Answer the rows of a request, each logged before.

    A row is what the caller knows (the request fields), or the model's own input (`features`).
    """


def _route(endpoint: Endpoint) -> type[APIRoute]:
    class Route(APIRoute):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.app = endpoint

    return Route


async def _read(receive: Receive) -> bytes:
    """Read a body of at most 1 MiB; raises RequestError 413 or 408 without reading on, ClientDisconnect."""
    message, rest = at_once(receive())
    if rest is None and not message.get("more_body"):  # it came with its headers, as most do: no clock is needed
        return _part(message, 0)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            if rest is not None:
                message = await rest
            parts.append(_part(message, size))
            while message.get("more_body"):
                size += len(parts[-1])
                message = await receive()
                parts.append(_part(message, size))
    except TimeoutError:
        raise RequestError(408, f"the body did not arrive within {BODY_SECONDS:.0f} s") from None
    return b"".join(parts)


def _part(message: Message, size: int) -> bytes:
    """Return a part of a body of which ``size`` bytes are there; raises RequestError 413, ClientDisconnect."""
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    part: bytes = message.get("body", b"")
    if size + len(part) > MAX_BODY_BYTES:
        raise RequestError(413, f"the body is larger than {MAX_BODY_BYTES} bytes; send fewer rows at once")
    return part


def _told(predictor: Predictor, error: Exception) -> tuple[int, Any, Mapping[str, str]]:
    """Return status, detail and further headers for what went wrong, counted: the client's fault 4xx, ours 5xx."""
    if isinstance(error, RequestError | BadRequestError):
        predictor.count("bad")
        return (422, error.details, {}) if isinstance(error, BadRequestError) else (error.status, str(error), {})
    predictor.count("failed")
    if isinstance(error, UnavailableError):
        return 503, str(error), RETRY_AFTER
    log.error("a request failed", exc_info=error)
    told = str(error) if isinstance(error, ContractError) else f"the model failed ({type(error).__name__})"
    return 500, told, {}
