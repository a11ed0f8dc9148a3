"""Requests that bring the model's own input: its ready features, as columns, checked against its signature."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.service.bodies import RequestError
from deployments.service.predictor import Predictor, Snapshot, row_key
from deployments.service.request import MAX_ROWS
from flows.errors import UnavailableError
from flows.steps.manifest import Manifest
from flows.steps.prediction_log import Answer

Columns = Mapping[str, Sequence[Any]]
MAX_TOLD = 20  # columns named in one message


class ReadyPredictor:
    """Answers rows of ready features with the predictor's champion, or a canary; each answer is logged before it is given."""

    def __init__(self, predictor: Predictor) -> None:
        self.name = predictor.spec.name
        self.count = predictor.count
        self.answer_seconds = predictor.answer_seconds
        self._predictor = predictor

    @property
    def snapshot(self) -> Snapshot | None:
        """The champion that answers now, None before the first was loaded."""
        return self._predictor.snapshot

    def serving(self) -> Snapshot:
        """Return the champion of the moment; raises UnavailableError if none is loaded."""
        snapshot = self._predictor.snapshot
        if snapshot is None:
            raise UnavailableError(f"no version of {self.name} is loaded yet; see /readyz")
        return snapshot

    def answer(self, columns: Columns, request_id: str, only: Snapshot | None = None) -> tuple[Snapshot, list[Answer]]:
        """Return who answered rows of ready features, and the answers, after they were logged.

        With ``only`` nobody else answers. Columns that the model does not know are left out. Raises RequestError 400 for
        what does not fit, UnavailableError if no model is loaded or the log cannot be written, ContractError if the
        model's answer is not finite.
        """

        def work(snapshot: Snapshot) -> list[Answer]:
            typed = checked(snapshot.bundle.manifest, columns)
            return self._predictor.answer_features(snapshot, typed, [[] for _ in typed[0]])

        def key() -> bytes:
            return row_key({name: values[0] for name, values in columns.items() if values})

        snapshot, _, answers = self._predictor.run(work, key, None, request_id, only)
        return snapshot, answers


def checked(manifest: Manifest, columns: Columns) -> list[list[Any]]:
    """Return the model's columns in its order, floats or strings, None where missing; raises RequestError 400."""
    missing = [name for name in manifest.feature_names if name not in columns]
    if missing:
        raise RequestError(
            400,
            f"the input lacks {_listed(missing)}; the model needs {_listed(manifest.feature_names)}, ready features: a "
            "request's own fields go to /predict",
        )
    length = len(columns[manifest.feature_names[0]])
    if not 1 <= length <= MAX_ROWS:
        raise RequestError(400, f"the input has {length} rows; a request has 1 to {MAX_ROWS}")
    typed = []
    for name, kind in zip(manifest.feature_names, manifest.feature_types, strict=True):
        values = columns[name]
        if len(values) != length:
            raise RequestError(400, f"{name} has {len(values)} values where others have {length}")
        if kind == "float" and all(type(value) is float for value in values) and math.isfinite(sum(values)):
            typed.append(list(values))  # as JSON brings them: nothing to convert
            continue
        convert = _number if kind == "float" else _text
        typed.append([convert(name, value) for value in values])
    return typed


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        if isinstance(value, float | int | str):
            number = float(value)
            if math.isnan(number):
                return None
            if math.isfinite(number):
                return number
    except (ValueError, OverflowError):
        pass
    raise RequestError(400, f"{name} must hold finite numbers, or null")


def _text(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise RequestError(400, f"{name} must hold texts, or null")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MAX_TOLD
    return ", ".join(names[:MAX_TOLD]) + (f" and {more} more" if more > 0 else "")
