"""Bodies read within bounds of size and time, and failures told in the words of the protocol that was spoken."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio
import orjson
from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from deployments.service.request import MAX_BODY_BYTES
from flows.errors import ContractError, UnavailableError

BODY_SECONDS = 10.0  # a client that sends its body slower is let go
RETRY_AFTER = {"Retry-After": "1"}
Answer = TypeVar("Answer")
log = logging.getLogger("evergreen.service")


class RequestError(Exception):
    """A request that is not answered, with the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def read_body(request: Request) -> bytes:
    """Read a body of at most 1 MiB; raises RequestError 413 or 408 without reading on."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise RequestError(413, f"the body is larger than {MAX_BODY_BYTES} bytes; send fewer rows at once")
                parts.append(part)
    except TimeoutError:
        raise RequestError(408, f"the body did not arrive within {BODY_SECONDS:.0f} s") from None
    return b"".join(parts)


async def in_time(seconds: float, work: Callable[[bytes, str], Answer], body: bytes, request_id: str) -> Answer:
    """Let ``work`` answer in a thread; raises UnavailableError when that takes too long.

    A thread cannot be ended: it goes on, and what it answers is heard by nobody.
    """
    with anyio.move_on_after(seconds):
        return await anyio.to_thread.run_sync(work, body, request_id, abandon_on_cancel=True)
    raise UnavailableError(f"no answer within {seconds:g} s; send fewer rows at once, or try again later")


async def answered(
    request: Request,
    seconds: float,
    work: Callable[[bytes, str], Response],
    count: Callable[[str], None],
    tell: Callable[[int, str], Response],
) -> Response:
    """Read a body, let ``work`` answer it in a thread, and tell what goes wrong: the client's fault 4xx, ours 5xx.

    An answer that takes more than ``seconds`` is given up. ``work`` gets body and request id; ``count`` counts "bad" and
    "failed"; ``tell`` words a status and a message.
    """
    request_id = request.scope.get("request_id", "")
    try:
        body = await read_body(request)
        return await in_time(seconds, work, body, request_id)
    except RequestError as problem:
        count("bad")
        return tell(problem.status, str(problem))
    except UnavailableError as error:
        count("failed")
        response = tell(503, str(error))
        response.headers.update(RETRY_AFTER)
        return response
    except ClientDisconnect:
        return Response(status_code=400)
    except Exception as error:
        count("failed")
        log.exception("a request failed")
        told = str(error) if isinstance(error, ContractError) else f"the model failed ({type(error).__name__})"
        return tell(500, told)


def load_json(body: bytes) -> Any:
    """Return what a body of JSON says, NaN and Infinity understood; raises RequestError 400."""
    try:
        return orjson.loads(body)
    except ValueError:
        pass
    try:  # clients write NaN for a missing value, which is no JSON, but Python's own reader understands it
        return json.loads(body.decode())  # given bytes it would guess an encoding
    except RecursionError:
        raise RequestError(400, "the body is nested too deep") from None
    except ValueError as error:
        raise RequestError(400, f"the body is no JSON: {str(error)[:200]}") from None


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response of JSON."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers=headers, media_type="application/json")
