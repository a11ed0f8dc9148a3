"""The routes about the service itself: what serves, whether it follows, its counts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, Request, Response

from deployments.service.bodies import json_response
from deployments.service.follower import Following
from deployments.service.predictor import Predictor
from deployments.service.responses import LOADED


def add_state(
    app: FastAPI,
    predictor: Predictor,
    following: Callable[[], Following],
    features_error: Callable[[], str | None],
    log_error: Callable[[], str | None],
    trial: Callable[[], dict[str, Any] | None],
    exposed: Callable[[], bytes],
) -> None:
    """Add the routes; ``exposed`` gives the counts of all workers for Prometheus."""
    name = predictor.spec.name

    @app.get("/model", summary="The version that answers, and why it does", responses=LOADED)
    async def model() -> Response:
        snapshot = predictor.snapshot
        if snapshot is None:
            return json_response({"detail": f"no version of {name} is loaded yet; see /readyz"}, 503)
        promotion, manifest = snapshot.promotion, snapshot.bundle.manifest
        return json_response(
            {
                "model": name, "version": promotion.version, "since": promotion.at, "kind": promotion.kind,
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
        return json_response({"status": "up"})

    @app.get("/readyz", summary="A model is loaded; whether it is the ledger's champion", responses=LOADED)
    async def readyz(request: Request) -> Response:
        snapshot, state = predictor.snapshot, following()
        content = {
            "ready": snapshot is not None,
            "model": name,
            "version": snapshot.promotion.version if snapshot else None,
            "following": state.is_up_to_date(datetime.now(UTC)),
        }
        if request.scope["trusted"]:  # reasons name servers and folders: where there is a key, for its holders
            content |= {
                "ledger_answers": state.ledger_answers, "looked_at": state.looked_at, "error": state.error,
                "features_error": features_error(), "log_error": log_error(), "trial": trial(),
                "requests": predictor.counts,
            }  # fmt: skip
        return json_response(content, 200 if snapshot else 503)

    @app.get("/metrics", summary="For Prometheus", openapi_extra=_TEXT)
    def metrics() -> Response:
        return Response(exposed(), media_type="text/plain; version=0.0.4; charset=utf-8")


_TEXT = {
    "responses": {"200": {"description": "Text format", "content": {"text/plain": {"schema": {"type": "string"}}}}}
}
