"""The typed request, built from the fields that a model's spec names: what does not fit is told by field."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    create_model,
)

from flows.spec import ModelSpec, RequestField
from flows.steps.manifest import Manifest

MAX_ROWS = 1000
MAX_BODY_BYTES = 2**20
MAX_TEXT = 1000  # characters of a string field
MAX_TOLD = 20  # problems listed in one answer
FEATURES = "features"
NUMBERS = frozenset({float, type(None)})
READY = re.compile(rb'\s*\{\s*"features"\s*:')
TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:?\d\d)?", re.ASCII)
DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
YEARS = (1971, 2199)  # outside of them times overflow somewhere on the way to UTC nanoseconds
INT64 = 2**63


class BadRequestError(Exception):
    """A request that does not fit; ``details`` lists place, message and kind of at most 20 problems."""

    def __init__(self, details: list[dict[str, Any]]) -> None:
        super().__init__(f"{len(details)} problems")
        self.details = details


class RequestParser:
    """Turns a request body into rows, and describes itself for OpenAPI.

    A body is ``{"rows": [{...}, ...]}`` with 1 to 1000 rows, or one row alone. Or it brings the model's own input, ready:
    ``{"features": {...}}`` or ``{"features": [{...}, ...]}``, unless a request field is called so.
    """

    def __init__(self, spec: ModelSpec) -> None:
        row: Any = _row_model(spec)
        rows: Any = (list[row], Field(min_length=1, max_length=MAX_ROWS))
        many: Any = create_model("Rows", __config__=ConfigDict(extra="forbid"), rows=rows)
        body: Any = Annotated[Annotated[many, Tag("many")] | Annotated[row, Tag("one")], Discriminator(_kind)]
        self._row: type[BaseModel] = row
        self._body: TypeAdapter[BaseModel] = TypeAdapter(body)
        self._names = [field.name for field in spec.request]
        self._takes_ready = FEATURES not in self._names
        self._example = {field.name: field.example for field in spec.request}

    def parse(self, body: bytes) -> list[dict[str, Any]]:
        """Return the rows of a body, values by field name, times local to the source and without zone.

        Raises BadRequestError for anything that does not fit.
        """
        try:
            parsed: Any = self._body.validate_json(body)
        except ValidationError as error:
            raise BadRequestError(_details(error)) from None
        rows = [parsed] if isinstance(parsed, self._row) else parsed.rows
        return [self._values(row) for row in rows]

    def parse_ready(self, body: bytes) -> list[dict[str, Any]] | None:
        """Return the rows of a body that brings ready features, None for any other body.

        Their names and values are not looked at: that takes a model (``ready_columns``). Raises BadRequestError.
        """
        if not (self._takes_ready and READY.match(body)):
            return None
        try:
            content = orjson.loads(body)
        except ValueError as error:
            raise BadRequestError([_problem((), f"Invalid JSON: {str(error)[:150]}", "json_invalid")]) from None
        rows = content[FEATURES]
        if len(content) > 1:
            raise BadRequestError([_problem((), "features come alone, without other fields", "extra_forbidden")])
        rows = [rows] if isinstance(rows, dict) else rows
        if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_ROWS or not all(type(row) is dict for row in rows):
            message = f"must be an object of features, or a list of 1 to {MAX_ROWS} of them"
            raise BadRequestError([_problem((FEATURES,), message, "type_error")])
        return rows

    def example(self) -> list[dict[str, Any]]:
        """Return the spec's example as a parsed row."""
        return [self._values(self._row.model_validate(self._example))]

    def _values(self, row: BaseModel) -> dict[str, Any]:
        # Pydantic keeps them in the order of the fields.
        return dict(zip(self._names, row.__dict__.values(), strict=True))

    def openapi(self) -> dict[str, Any]:
        """Return the request body's description for OpenAPI."""
        row = self._row.model_json_schema()
        many = {
            "title": "Rows", "type": "object", "required": ["rows"], "additionalProperties": False,
            "properties": {"rows": {"type": "array", "items": row, "minItems": 1, "maxItems": MAX_ROWS}},
        }  # fmt: skip
        value = {"type": ["number", "string", "null"]}
        one = {
            "type": "object",
            "additionalProperties": value,
            "description": "each feature of the model; null: missing",
        }
        ready = {
            "title": "Features", "type": "object", "required": [FEATURES], "additionalProperties": False,
            "description": "The model's own input, which is then not read from the feature store",
            "properties": {
                FEATURES: {"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_ROWS}]}
            },
        }  # fmt: skip
        forms = [many, row, ready] if self._takes_ready else [many, row]
        examples = {
            "rows": {"summary": "Several rows", "value": {"rows": [self._example]}},
            "row": {"summary": "One row", "value": self._example},
        }
        content = {"application/json": {"schema": {"anyOf": forms}, "examples": examples}}
        return {"requestBody": {"required": True, "content": content}}


def ready_row(manifest: Manifest, row: Mapping[str, Any]) -> list[float | None] | None:
    """Return the values of one row of ready features in the model's order, None unless all is as it should be: floats.

    What is not is looked at by ``ready_columns``.
    """
    try:
        values = [row[name] for name in manifest.feature_names]
    except KeyError:
        return None
    plain = len(row) == len(values) and NUMBERS.issuperset(map(type, values)) and "string" not in manifest.feature_types
    return values if plain else None


def ready_columns(manifest: Manifest, rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Return ready features as one list of values a feature, in the model's order; raises BadRequestError.

    Every feature must be there, null where its value is missing, and no other: a misspelt one would be taken for missing.
    """
    names, kinds = manifest.feature_names, manifest.feature_types
    columns: list[list[Any]] = [[] for _ in names]
    problems: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        place = (FEATURES,) if len(rows) == 1 else (FEATURES, number)
        if len(row) != len(names):
            problems += [
                _problem((*place, name), "no feature of the model", "extra_forbidden") for name in row.keys() - {*names}
            ]
        for name, kind, column in zip(names, kinds, columns, strict=True):
            value = row.get(name, row)
            if type(value) is float and kind == "float":
                column.append(value)
            elif value is row:
                problems.append(
                    _problem((*place, name), "the model needs this feature; null if it is missing", "missing")
                )
            elif value is None or (kind == "string" and type(value) is str):
                column.append(value)
            elif kind == "float" and type(value) is int:
                column.append(float(value))
            else:
                told = "a number" if kind == "float" else "a text"
                problems.append(_problem((*place, name), f"must be {told}, or null", f"{kind}_type"))
        if len(problems) >= MAX_TOLD:
            break
    if problems:
        raise BadRequestError(problems[:MAX_TOLD])
    return columns


def _problem(place: Sequence[str | int], message: str, kind: str) -> dict[str, Any]:
    return {"loc": ["body", *(_short(part) for part in place)], "msg": message, "type": kind}


def _kind(body: Any) -> str:
    return "many" if isinstance(body, dict) and "rows" in body else "one"


def _row_model(spec: ModelSpec) -> type[BaseModel]:
    """Return the pydantic model of a row; its own field names are neutral, so that a column can be called anything."""
    zone = ZoneInfo(spec.source.time_zone)
    fields: dict[str, Any] = {
        f"field_{number}": (_type_of(field, zone), _bounds(field)) for number, field in enumerate(spec.request)
    }
    return create_model("Row", __config__=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False), **fields)


def _type_of(field: RequestField, zone: ZoneInfo) -> Any:
    if field.type == "timestamp":
        return Annotated[str, AfterValidator(lambda text: _local(text, zone, _is_day(field)))]
    whole = Annotated[int, BeforeValidator(_flag if (field.minimum, field.maximum) == (0, 1) else _whole)]
    kind: Any = {"int": whole, "float": float, "string": str}[field.type]
    return kind if field.required else kind | None


def _whole(value: Any) -> Any:
    """Return 74.0 as 74, as landing and scoring take it: a column of whole numbers with gaps is sent so by pandas."""
    return int(value) if type(value) is float and value.is_integer() else value


def _flag(value: Any) -> Any:
    """Return true as 1 and false as 0."""
    return int(value) if type(value) is bool else _whole(value)


def _bounds(field: RequestField) -> Any:
    common: dict[str, Any] = {"alias": field.name, "title": field.name, "description": field.description}
    common["examples"] = [field.example]
    if not field.required and field.type != "timestamp":
        common["default"] = None  # left out is as good as null
    low, high = field.minimum, field.maximum
    if field.type == "int":
        low = max(-INT64, int(low)) if low is not None else -INT64
        high = min(INT64 - 1, int(high)) if high is not None else INT64 - 1
        return Field(ge=low, le=high, **common)
    if field.type == "float":
        return Field(ge=low, le=high, **common)
    if field.type == "timestamp":
        common["json_schema_extra"] = {"format": "date" if _is_day(field) else "date-time"}
    return Field(max_length=MAX_TEXT, **common)


def _is_day(field: RequestField) -> bool:
    return bool(DAY.fullmatch(str(field.example)))


def _local(text: str, zone: ZoneInfo, is_day: bool) -> datetime:
    """Return a time as the source tells it: local and without zone, with ``fold`` for the hour that comes twice."""
    if not TIME.fullmatch(text) and not (is_day and DAY.fullmatch(text)):
        day = "a day such as 2022-01-25, or " if is_day else ""
        raise ValueError(f"must be {day}a time such as 2022-01-25T08:30:00, or with a zone, 2022-01-25T08:30:00-05:00")
    moment = datetime.fromisoformat(text)
    if not YEARS[0] <= moment.year <= YEARS[1]:
        raise ValueError(f"must lie in the years {YEARS[0]} to {YEARS[1]}")
    return moment if moment.tzinfo is None else moment.astimezone(zone).replace(tzinfo=None)


def _details(error: ValidationError) -> list[dict[str, Any]]:
    """Return problems in FastAPI's own form, without echoing the input."""
    return [
        {
            "loc": ["body", *(_short(part) for part in problem["loc"][1:] if part != "[key]")],
            "msg": problem["msg"].removeprefix("Value error, ")[:200],
            "type": problem["type"],
        }
        for problem in error.errors(include_url=False, include_input=False, include_context=False)[:MAX_TOLD]
    ]


def _short(part: int | str) -> int | str:
    return part[:80] if isinstance(part, str) else part
