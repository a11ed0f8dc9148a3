"""The Open Inference Protocol, version 2 over HTTP: live, ready, metadata, and ``infer`` with typed tensors.

One input tensor a feature, of shape [rows] or [rows, 1]; its values in JSON or, as the binary extension has it, behind
the JSON. The outputs are ``prediction`` and, for classifiers, ``probabilities``, in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response

from deployments.service.bodies import RequestError, answered, json_response, load_json
from deployments.service.predictor import Snapshot
from deployments.service.ready import ReadyPredictor
from deployments.service.tensors import read_tensor
from flows.steps.manifest import Manifest
from flows.steps.prediction_log import Answer

PREDICTION, PROBABILITIES = "prediction", "probabilities"
HEADER_LENGTH = "inference-header-content-length"
MAX_ID = 128


def add_open_inference(app: FastAPI, predictor: ReadyPredictor) -> None:
    """Add the protocol's routes to an application."""

    @app.get("/v2", summary="Open Inference: the server")
    async def server() -> Response:
        return json_response({"name": "evergreen", "version": "1", "extensions": ["binary_tensor_data"]})

    @app.get("/v2/health/live", summary="Open Inference: the process is up")
    async def live() -> Response:
        return json_response({"live": True})

    @app.get("/v2/health/ready", summary="Open Inference: a model is loaded", responses=_STATES)
    async def server_ready() -> Response:
        return _ready(predictor.snapshot is not None)

    @app.get("/v2/models/{name}", summary="Open Inference: inputs and outputs", responses=_LOOKUPS)
    async def metadata(name: str) -> Response:
        return _look(predictor, name, None, _metadata)

    @app.get("/v2/models/{name}/ready", summary="Open Inference: the model is loaded", responses=_LOOKUPS)
    async def ready(name: str) -> Response:
        return _look(predictor, name, None, lambda _: _ready(True))

    @app.get("/v2/models/{name}/versions/{version}", summary="Open Inference: one version", responses=_LOOKUPS)
    async def version_metadata(name: str, version: str) -> Response:
        return _look(predictor, name, version, _metadata)

    @app.get("/v2/models/{name}/versions/{version}/ready", summary="Open Inference: one version", responses=_LOOKUPS)
    async def version_ready(name: str, version: str) -> Response:
        return _look(predictor, name, version, lambda _: _ready(True))

    @app.post("/v2/models/{name}/infer", openapi_extra=_BODY, responses=_ANSWERS, summary="Open Inference: predict")
    async def infer(name: str, request: Request) -> Response:
        return await _infer(predictor, name, None, request)

    @app.post(
        "/v2/models/{name}/versions/{version}/infer",
        openapi_extra=_BODY, responses=_ANSWERS, summary="Open Inference: predict with this version or not at all",
    )  # fmt: skip
    async def version_infer(name: str, version: str, request: Request) -> Response:
        return await _infer(predictor, name, version, request)


async def _infer(predictor: ReadyPredictor, name: str, version: str | None, request: Request) -> Response:
    def work(body: bytes, request_id: str) -> Response:
        only = _serving(predictor, name, version)
        content, binary = _split(body, request.headers.get(HEADER_LENGTH))
        columns = _columns(content, binary)
        wanted = _wanted(content, only.bundle.manifest)
        snapshot, answers = predictor.answer(columns, request_id, only if version is not None else None)
        outputs = [_output(one, snapshot.bundle.manifest, answers) for one in wanted]
        return json_response(
            {
                "model_name": name,
                "model_version": str(snapshot.promotion.version),
                "id": content.get("id") or request_id,
                "outputs": outputs,
            }
        )

    return await answered(request, predictor.answer_seconds, work, predictor.count, _problem)


def _serving(predictor: ReadyPredictor, name: str, version: str | None) -> Snapshot:
    """Return the champion if it is the model and version asked for; raises RequestError 404, or UnavailableError."""
    if name != predictor.name:
        raise RequestError(404, f"no model {name[:80]!r} is served here; {predictor.name} is")
    snapshot = predictor.serving()
    if version is not None and version != str(snapshot.promotion.version):
        raise RequestError(404, f"version {version[:80]!r} is not served; version {snapshot.promotion.version} is")
    return snapshot


def _look(predictor: ReadyPredictor, name: str, version: str | None, tell: Any) -> Response:
    if name == predictor.name and predictor.snapshot is None:
        return _ready(False)
    try:
        response: Response = tell(_serving(predictor, name, version))
    except RequestError as problem:
        return _problem(problem.status, str(problem))
    return response


def _split(body: bytes, length: str | None) -> tuple[dict[str, Any], memoryview]:
    """Return the JSON part of a body and the bytes behind it; raises RequestError 400."""
    end = len(body)
    if length is not None:
        if not (length.isascii() and length.isdigit()) or len(length) > 9 or int(length) > len(body):
            raise RequestError(400, "Inference-Header-Content-Length must be the length of the JSON part of the body")
        end = int(length)
    content = load_json(body[:end])
    if not isinstance(content, dict) or not isinstance(content.get("inputs"), list):
        raise RequestError(400, "the body must be a JSON object with a list of inputs")
    if not isinstance(content.get("id") or "", str) or len(content.get("id") or "") > MAX_ID:
        raise RequestError(400, f"id must be a text of at most {MAX_ID} characters")
    return content, memoryview(body)[end:]


def _columns(content: Mapping[str, Any], binary: memoryview) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for tensor in content["inputs"]:
        name, values, binary = read_tensor(tensor, binary)
        if name in columns:
            raise RequestError(400, f"input {name[:80]!r} is there twice")
        columns[name] = values
    if len(binary):
        raise RequestError(400, f"{len(binary)} bytes behind the last tensor")
    return columns


def _wanted(content: Mapping[str, Any], manifest: Manifest) -> list[str]:
    """Return the names of the outputs that are asked for, all if none is named; raises RequestError 400."""
    known = [one["name"] for one in _outputs(manifest)]
    asked = content.get("outputs") or []
    if not isinstance(asked, list) or not all(isinstance(one, dict) and one.get("name") in known for one in asked):
        raise RequestError(400, f"outputs must be a list of objects with a name; there are {', '.join(known)}")
    return [one["name"] for one in asked] or known


def _outputs(manifest: Manifest) -> list[dict[str, Any]]:
    kinds = {bool: "BOOL", int: "INT64", float: "FP64"}
    classes = manifest.classes
    kind = "FP64" if classes is None else kinds.get(type(classes[0]), "BYTES")
    outputs: list[dict[str, Any]] = [{"name": PREDICTION, "datatype": kind, "shape": [-1]}]
    if classes is not None:
        labels = {"parameters": {"labels": [str(name) for name in classes]}}
        outputs.append({"name": PROBABILITIES, "datatype": "FP64", "shape": [-1, len(classes)], **labels})
    return outputs


def _output(name: str, manifest: Manifest, answers: list[Answer]) -> dict[str, Any]:
    described = next(one for one in _outputs(manifest) if one["name"] == name)
    shape = [len(answers), *described["shape"][1:]]
    if name == PREDICTION:
        data: list[Any] = [answer.prediction for answer in answers]
    else:
        data = [share for answer in answers for share in (answer.probabilities or {}).values()]
    return {**described, "shape": shape, "data": data}


def _metadata(snapshot: Snapshot) -> Response:
    manifest = snapshot.bundle.manifest
    kinds = {"float": "FP64", "string": "BYTES"}
    return json_response(
        {
            "name": manifest.model,
            "versions": [str(snapshot.promotion.version)],
            "platform": "evergreen",
            "inputs": [
                {"name": name, "datatype": kinds[kind], "shape": [-1]}
                for name, kind in zip(manifest.feature_names, manifest.feature_types, strict=True)
            ],
            "outputs": _outputs(manifest),
        }
    )


def _ready(is_ready: bool) -> Response:
    return json_response({"ready": is_ready}, 200 if is_ready else 503)


def _problem(status: int, message: str) -> Response:
    return json_response({"error": message}, status)


_ERROR = {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}
_STATES: dict[int | str, dict[str, Any]] = {503: {"description": "No model is loaded yet"}}
_LOOKUPS: dict[int | str, dict[str, Any]] = {
    **_STATES, 404: {"description": "Not the model or version that is served", "content": _ERROR}
}  # fmt: skip
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Answered, and logged"},
    400: {"description": "The tensors do not fit the model's signature", "content": _ERROR},
    404: {"description": "Not the model or version that is served", "content": _ERROR},
    408: {"description": "The body did not arrive in time", "content": _ERROR},
    413: {"description": "The body is too large", "content": _ERROR},
    500: {"description": "The model failed", "content": _ERROR},
    503: {"description": "No model is loaded, or the log is out of reach", "content": _ERROR},
}
_TENSOR = {
    "type": "object", "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"}, "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string"}, "data": {"type": "array"}, "parameters": {"type": "object"},
    },
}  # fmt: skip
_SCHEMA = {
    "type": "object", "required": ["inputs"],
    "properties": {
        "id": {"type": "string"}, "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    },
}  # fmt: skip
_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}}
