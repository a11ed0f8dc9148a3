"""MLflow's scoring protocol, version 2: ``/invocations``, ``/ping``, ``/health`` and ``/version``.

The rows are the model's own input, ready features by the names of its signature, so that what ``mlflow models serve``
answers for the registered model is answered here as well.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI, Request, Response

from deployments.service.bodies import RequestError, answered, json_response, load_json
from deployments.service.ready import ReadyPredictor

FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
MISSING = frozenset({"", "NA", "N/A", "#N/A", "n/a", "<NA>", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None"})
CODES = {400: "BAD_REQUEST", 408: "BAD_REQUEST", 413: "BAD_REQUEST", 415: "BAD_REQUEST", 503: "TEMPORARILY_UNAVAILABLE"}
FIELD_LIMIT = 2**16  # characters of a CSV cell


def add_invocations(app: FastAPI, predictor: ReadyPredictor) -> None:
    """Add MLflow's routes to an application."""

    @app.post("/invocations", openapi_extra=_described(), responses=_RESPONSES, summary="MLflow's scoring protocol")
    async def invocations(request: Request) -> Response:
        def work(body: bytes, request_id: str) -> Response:
            columns = parse(body, request.headers.get("content-type"))
            snapshot, answers = predictor.answer(columns, request_id)
            headers = {"X-Model-Version": str(snapshot.promotion.version)}
            return json_response({"predictions": [answer.prediction for answer in answers]}, headers=headers)

        return await answered(request, predictor.answer_seconds, work, predictor.count, _problem)

    @app.get("/ping", summary="A model is loaded, in MLflow's words")
    @app.get("/health", summary="A model is loaded, in MLflow's words")
    async def ping() -> Response:
        return Response("\n", 200 if predictor.snapshot else 404, media_type="application/json")

    @app.get("/version", summary="The version of MLflow whose protocol this is")
    async def mlflow_version() -> Response:
        return Response(_mlflow_version(), media_type="application/json")


def parse(body: bytes, content_type: str | None) -> dict[str, Sequence[Any]]:
    """Return the columns of a request in any of MLflow's forms; raises RequestError 400 or 415."""
    kind, _, parameters = (content_type or "application/json").partition(";")
    if parameters.strip() and parameters.strip().lower().replace('"', "") != "charset=utf-8":
        raise RequestError(
            415, f"the content type parameters {parameters.strip()[:80]!r} are not supported; send UTF-8"
        )
    if kind.strip().lower() == "text/csv":
        return _from_csv(body)
    if kind.strip().lower() == "application/json":
        return _from_json(body)
    raise RequestError(415, f"content type {kind[:80]!r} is not supported; send application/json or text/csv")


def _from_json(body: bytes) -> dict[str, Sequence[Any]]:
    content = load_json(body)
    found = [name for name in FORMATS if name in content] if isinstance(content, dict) else []
    if len(found) != 1:
        raise RequestError(400, f"the body must be a JSON object with exactly one of {', '.join(FORMATS)}")
    form, data = found[0], content[found[0]]
    if form == "dataframe_split":
        return _from_split(data)
    if form == "inputs" and isinstance(data, Mapping):
        return _from_columns(data)
    if form == "instances" and isinstance(data, Mapping):
        data = [data]
    return _from_records(form, data)


def _from_split(data: Any) -> dict[str, Sequence[Any]]:
    if not isinstance(data, dict) or "data" not in data or data.keys() - {"columns", "index", "data"}:
        raise RequestError(400, "dataframe_split must be an object with data, columns and perhaps index")
    columns, rows = data.get("columns"), data["data"]
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise RequestError(400, "dataframe_split: columns must be the list of the columns' names")
    if len({*columns}) != len(columns):
        raise RequestError(400, "dataframe_split: a column is named twice")
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(columns) for row in rows):
        raise RequestError(400, f"dataframe_split: data must be a list of rows, each a list of {len(columns)} values")
    return {name: [row[place] for row in rows] for place, name in enumerate(columns)}


def _from_records(form: str, data: Any) -> dict[str, Sequence[Any]]:
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise RequestError(400, f"{form} must be a list of objects, one a row: the model's columns have names")
    names = dict.fromkeys(name for row in data for name in row)
    return {name: [row.get(name) for row in data] for name in names}


def _from_columns(data: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    scalars = [name for name, values in data.items() if not isinstance(values, list)]
    if len(scalars) == len(data):
        return {name: [value] for name, value in data.items()}
    if scalars:
        raise RequestError(400, "inputs: all columns must be lists of values, or all single values")
    return dict(data)


def _from_csv(body: bytes) -> dict[str, Sequence[Any]]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(400, f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    csv.field_size_limit(FIELD_LIMIT)
    try:
        names, *rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except csv.Error as error:
        raise RequestError(400, f"the body is no CSV: {error}") from None
    except ValueError:
        raise RequestError(400, "the body has no header line") from None
    if len({*names}) != len(names):
        raise RequestError(400, "a column is named twice")
    if any(len(row) != len(names) for row in rows):
        raise RequestError(400, f"each line must have {len(names)} values, as the header has")
    return {
        name: [None if row[place].strip() in MISSING else row[place] for row in rows]
        for place, name in enumerate(names)
    }


def _problem(status: int, message: str) -> Response:
    return json_response({"error_code": CODES.get(status, "INTERNAL_ERROR"), "message": message}, status)


def _mlflow_version() -> str:
    for name in ("mlflow", "mlflow-skinny"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "2.0.0"  # the protocol is that of MLflow 2 and later


def _described() -> dict[str, Any]:
    row = {"type": "object", "additionalProperties": {"type": ["number", "string", "null"]}}
    split = {
        "type": "object", "required": ["columns", "data"],
        "properties": {
            "columns": {"type": "array", "items": {"type": "string"}},
            "index": {"type": "array"},
            "data": {"type": "array", "items": {"type": "array"}},
        },
    }  # fmt: skip
    rows = {"type": "array", "items": row}
    columns = {"type": "object", "additionalProperties": {"type": ["array", "number", "string", "null"]}}
    forms = {
        "dataframe_split": split, "dataframe_records": rows, "instances": {"anyOf": [rows, row]},
        "inputs": {"anyOf": [columns, rows]},
    }  # fmt: skip
    schema = {
        "oneOf": [{"type": "object", "required": [name], "properties": {name: form}} for name, form in forms.items()]
    }
    content = {"application/json": {"schema": schema}, "text/csv": {"schema": {"type": "string"}}}
    return {"requestBody": {"required": True, "content": content}}


_ERROR = {
    "application/json": {
        "schema": {
            "type": "object", "required": ["error_code", "message"],
            "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
        }
    }
}  # fmt: skip
_PREDICTIONS = {
    "application/json": {
        "schema": {"type": "object", "required": ["predictions"], "properties": {"predictions": {"type": "array"}}}
    }
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "Answered, and logged", "content": _PREDICTIONS},
    400: {"description": "The input does not fit the model's signature", "content": _ERROR},
    408: {"description": "The body did not arrive in time", "content": _ERROR},
    413: {"description": "The body is too large", "content": _ERROR},
    415: {"description": "Neither JSON nor CSV in UTF-8", "content": _ERROR},
    500: {"description": "The model failed", "content": _ERROR},
    503: {"description": "No model is loaded, or the log is out of reach", "content": _ERROR},
}
