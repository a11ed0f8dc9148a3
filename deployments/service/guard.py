"""The guard before all routes: request id, API key, bound on requests under way, counts, and the request log.

Plain ASGI, a few microseconds a request: it is on the way of every prediction.
"""

from __future__ import annotations

import hmac
import itertools
import logging
import re
import secrets
from collections.abc import Callable
from time import perf_counter
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.service.logs import REQUEST_ID
from deployments.service.telemetry import Telemetry

SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
OPEN = frozenset({"/healthz", "/readyz", "/ping", "/health", "/v2/health/live", "/v2/health/ready"})  # need no key
KNOWN = OPEN | {"/predict", "/model", "/metrics", "/invocations", "/version", "/openapi.json", "/v2"}
log = logging.getLogger("evergreen.requests")


class Guard:
    """Wraps the application.

    ``key`` is what clients must send, empty for an open service. Beyond ``most`` predictions under way, which
    ``under_way`` may count otherwise, more are refused.
    """

    def __init__(
        self, app: ASGIApp, *, telemetry: Telemetry, key: str, most: int, log_all: bool,
        under_way: Callable[[], int | None] = lambda: None,
    ) -> None:  # fmt: skip
        self._app = app
        self._telemetry = telemetry
        self._key = key.encode()
        self._most = most
        self._log_all = log_all
        self._count_elsewhere = under_way
        self._under_way = 0
        # What request ids are made of, without a system call for each.
        self._mine, self._numbers = secrets.token_hex(8), itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401 or 503."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        given, key = b"", b""
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                given = value
            elif name == b"x-api-key":
                key = value
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                key = value[7:]
        request_id = given.decode() if SANE_ID.fullmatch(given) else f"{self._mine}{next(self._numbers):016x}"
        scope["request_id"] = request_id
        header = (b"x-request-id", request_id.encode())
        status = 500  # what the server answers if nobody else does

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        token = REQUEST_ID.set(request_id)
        counted = scope["method"] == "POST"
        self._under_way += counted
        try:
            scope["trusted"] = not self._key or hmac.compare_digest(key, self._key)
            if not scope["trusted"] and scope["path"] not in OPEN:
                await _refuse(answer, 401, "the API key is missing or wrong", (b"www-authenticate", b"Bearer"))
            elif counted and (self._count_elsewhere() or self._under_way) > self._most:
                self._telemetry.refused += 1
                await _refuse(answer, 503, "too many requests are under way; try again", (b"retry-after", b"1"))
            else:
                await self._app(scope, receive, answer)
        finally:
            self._under_way -= counted
            seconds = perf_counter() - started
            route = route_of(scope)
            self._telemetry.observe(route, status, seconds)
            if self._log_all or status >= 400:
                log.info(
                    "%s %s", scope["method"], status,
                    extra={"route": route, "status": status, "seconds": round(seconds, 6)},
                )  # fmt: skip
            REQUEST_ID.reset(token)


def route_of(scope: Scope) -> str:
    """Return the name under which a request is counted: of our own paths alone, so that there are few."""
    path: str = scope["path"]
    if path in KNOWN:
        return path
    route: Any = scope.get("route")
    return getattr(route, "path", None) or "other"


async def _refuse(send: Send, status: int, detail: str, header: tuple[bytes, bytes]) -> None:
    body = orjson.dumps({"detail": detail})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), header]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
