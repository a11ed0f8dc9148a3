"""OpenTelemetry: one span a request, in the caller's trace. Needs the extra ``otel``; off unless asked for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.service.guard import route_of
from flows.errors import UsageError

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from deployments.service.app import Service


def trace_requests(app: Service, model: str, provider: TracerProvider) -> None:
    """Make an application report its requests to a provider."""
    app.put_before(partial(Tracing, model=model, tracer=provider.get_tracer("evergreen.service")))


def exporting_provider(model: str) -> TracerProvider:
    """Return a provider that sends spans in batches to where OpenTelemetry's own variables say.

    Raises UsageError without the extra.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider as Provider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise UsageError(
            "EVERGREEN_SERVICE_TRACING needs OpenTelemetry; install `evergreen[otel]` or switch it off"
        ) from error
    provider = Provider(resource=Resource.create({"service.name": f"evergreen-{model}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Tracing:
    """Opens a span for each request and names route, status and request id in it."""

    def __init__(self, app: ASGIApp, *, model: str, tracer: Any) -> None:
        self._app = app
        self._model = model
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, in a span."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, Status, StatusCode

        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method = scope["method"]
        with self._tracer.start_as_current_span(
            method, context=extract(carrier), kind=SpanKind.SERVER, attributes={"http.request.method": method}
        ) as span:

            async def answer(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                await send(message)

            await self._app(scope, receive, answer)
            route = route_of(scope)
            span.update_name(f"{method} {route}")
            span.set_attributes(
                {"http.route": route, "evergreen.request_id": scope["request_id"], "evergreen.model": self._model}
            )
