"""The shapes of the answers, for OpenAPI."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Prediction(BaseModel):
    """The answer to one row."""

    prediction: float | str | bool | int = Field(description="the value, or the likeliest class")
    probabilities: dict[str, float] | None = Field(default=None, description="of each class, for classifiers")
    unknown: list[str] = Field(
        description="feature views that know nothing of this row; the model answered without them"
    )


class PredictionAnswer(BaseModel):
    """The answers to a request, in the order of its rows."""

    model: str
    version: int
    request_id: str = Field(description="names this request in the prediction log")
    predictions: list[Prediction]


class Problem(BaseModel):
    """One thing that is wrong with a request."""

    loc: list[str | int] = Field(description="the way to the field, from the body on")
    msg: str
    type: str


class BadRequest(BaseModel):
    """All that is wrong with a request, at most 20 problems."""

    detail: list[Problem]


class Failure(BaseModel):
    """Why a request was not answered."""

    detail: str


ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": PredictionAnswer, "description": "Answered, and logged"},
    408: {"model": Failure, "description": "The body did not arrive in time"},
    413: {"model": Failure, "description": "The body is too large"},
    422: {"model": BadRequest, "description": "The request does not fit; the fields are named"},
    500: {"model": Failure, "description": "The model failed"},
    503: {"model": Failure, "description": "No model is loaded, or features or log are out of reach; try again"},
}

LOADED: dict[int | str, dict[str, Any]] = {503: {"description": "No model is loaded yet"}}
