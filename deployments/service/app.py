"""The routes of the prediction service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from deployments.service.follower import Following
from deployments.service.predictor import Predictor
from deployments.service.request import MAX_BODY_BYTES, BadRequestError, RequestParser
from deployments.service.responses import ANSWERS
from flows.errors import ContractError, UnavailableError

BODY_SECONDS = 10.0  # a client that sends its body slower is let go
log = logging.getLogger("evergreen.service")


class TooLargeError(Exception):
    """A body of more than 1 MiB."""


def create_app(
    predictor: Predictor,
    following: Callable[[], Following],
    start: Callable[[], None] = lambda: None,
    stop: Callable[[], None] = lambda: None,
) -> FastAPI:
    """Return the service's application; ``start`` and ``stop`` are called when it begins and ends to run."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        start()
        yield
        stop()

    spec = predictor.spec
    parser = RequestParser(spec)
    # No pages that load scripts from the web: the description alone.
    app = FastAPI(
        title=f"{spec.name}: predictions",
        description=spec.description,
        version="1",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
    )

    @app.post("/predict", openapi_extra=parser.openapi(), responses=ANSWERS, summary="Predict one row or several")
    async def predict(request: Request) -> Response:
        try:
            body = await _read_body(request)
            # Parsing and predicting are plain computing, so they leave the event loop to the other routes.
            return _json(await run_in_threadpool(lambda: predictor.predict(parser.parse(body))))
        except TooLargeError:
            predictor.count("bad")
            return _json({"detail": f"the body is larger than {MAX_BODY_BYTES} bytes; send fewer rows at once"}, 413)
        except TimeoutError:
            predictor.count("bad")
            return _json({"detail": f"the body did not arrive within {BODY_SECONDS:.0f} s"}, 408)
        except BadRequestError as error:
            predictor.count("bad")
            return _json({"detail": error.details}, 422)
        except UnavailableError as error:
            predictor.count("failed")
            return _json({"detail": str(error)}, 503)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            predictor.count("failed")
            log.exception("a request failed")
            told = str(error) if isinstance(error, ContractError) else f"the model failed ({type(error).__name__})"
            return _json({"detail": told}, 500)

    @app.get("/model", summary="The version that answers, and why it does")
    async def model() -> Response:
        snapshot = predictor.snapshot
        if snapshot is None:
            return _json({"detail": f"no version of {spec.name} is loaded yet; see /readyz"}, 503)
        promotion, manifest = snapshot.promotion, snapshot.bundle.manifest
        return _json(
            {
                "model": spec.name, "version": promotion.version, "since": promotion.at, "kind": promotion.kind,
                "previous_version": promotion.previous_version, "run_id": promotion.run_id,
                "digest": promotion.digest, "who": promotion.who, "why": promotion.why,
                "evidence": promotion.evidence, "task": manifest.task, "label": manifest.label,
                "unit": manifest.label_unit, "estimator": manifest.estimator, "classes": manifest.classes,
                "feature_service": manifest.feature_service, "features": manifest.feature_names,
                "versions": manifest.versions,
            }
        )  # fmt: skip

    @app.get("/healthz", summary="The process is up")
    async def healthz() -> Response:
        return _json({"status": "up"})

    @app.get("/readyz", summary="A model is loaded; whether it is the ledger's champion")
    async def readyz() -> Response:
        snapshot, state = predictor.snapshot, following()
        content = {
            "ready": snapshot is not None,
            "model": spec.name,
            "version": snapshot.promotion.version if snapshot else None,
            "following": state.is_up_to_date(datetime.now(UTC)),
            "ledger_answers": state.ledger_answers,
            "looked_at": state.looked_at,
            "error": state.error,
            "requests": predictor.counts,
        }
        return _json(content, 200 if snapshot else 503)

    return app


async def _read_body(request: Request) -> bytes:
    """Read a body of at most 1 MiB; raises TooLargeError or TimeoutError without reading on."""
    parts: list[bytes] = []
    size = 0
    async with asyncio.timeout(BODY_SECONDS):
        async for part in request.stream():
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise TooLargeError
            parts.append(part)
    return b"".join(parts)


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), status, media_type="application/json")
