"""The predictor: one request against one snapshot of the champion, its features read, its answer logged, then given."""

from __future__ import annotations

import math
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.service.request import ready_columns, ready_row
from deployments.service.trial import Canary, Shadow, Work
from flows.errors import ContractError, UnavailableError
from flows.ledger import Promotion
from flows.spec import ModelSpec
from flows.steps.bundle import Bundle
from flows.steps.compiled import Compiled
from flows.steps.feature_store import OnlineRows
from flows.steps.prediction_log import Answer, PredictionLog

Floats = NDArray[np.float64]
Rows = Sequence[Mapping[str, Any]]
FeatureReader = Callable[[Sequence[str], Rows], OnlineRows]


@dataclass(frozen=True)
class Snapshot:
    """What one request sees: a promotion and the bundle that it names."""

    promotion: Promotion
    bundle: Bundle


class Predictor:
    """Answers requests with the champion of the moment, and with the challenger that is on ``trial``, if there is one.

    ``read_features`` returns the named features of some rows; ``log`` keeps each answer before it is given. What takes
    longer than ``answer_seconds`` is not waited for.
    """

    def __init__(
        self, spec: ModelSpec, read_features: FeatureReader, log: PredictionLog, answer_seconds: float = 30.0
    ) -> None:
        self.answer_seconds = answer_seconds
        self.spec = spec
        self._read_features = read_features
        self._log = log
        self._snapshot: Snapshot | None = None
        self.trial: Canary | Shadow | None = None
        self._sticky = spec.rollout.sticky or spec.key
        self._counts: Counter[str] = Counter()
        self._counting = threading.Lock()

    @property
    def snapshot(self) -> Snapshot | None:
        """The champion that answers now, None before the first was loaded."""
        return self._snapshot

    @property
    def counts(self) -> dict[str, int]:
        """How many requests were answered, were bad, or failed, and how many rows were answered."""
        return {name: self._counts[name] for name in ("answered", "rows", "bad", "failed")}

    @property
    def unknown_rows(self) -> int:
        """How many of the rows that were answered had a key of which no features are stored."""
        return self._counts["unknown"]

    def count(self, name: str, rows: int = 0, unknown: int = 0) -> None:
        """Count a request, the rows that were answered, and those of them with an unknown key."""
        with self._counting:
            self._counts[name] += 1
            self._counts["rows"] += rows
            self._counts["unknown"] += unknown

    def swap(self, snapshot: Snapshot) -> None:
        """Put another champion in place; requests under way end with the one that they began with."""
        self._snapshot = snapshot

    def predict(self, rows: Rows, request_id: str = "") -> dict[str, Any]:
        """Return the answer to a request's rows, after it was logged under the request's id, or one of its own.

        Raises UnavailableError if no model is loaded or the features cannot be read or the log cannot be written,
        ContractError if model and features do not fit together.
        """

        def key() -> bytes:
            return repr([rows[0].get(name) for name in self._sticky]).encode()

        return self._told(self.run(lambda snapshot: self.answer(snapshot, rows), key, rows, request_id))

    def predict_ready(self, features: Sequence[Mapping[str, Any]], request_id: str = "") -> dict[str, Any]:
        """Return the answer to rows of ready features as ``predict`` does.

        Raises as that, and BadRequestError if the features are not those of the model.
        """

        def work(snapshot: Snapshot) -> list[Answer]:
            manifest, compiled = snapshot.bundle.manifest, snapshot.bundle.compiled
            values = ready_row(manifest, features[0]) if compiled is not None and len(features) == 1 else None
            if compiled is None or values is None:
                return self.answer_features(snapshot, ready_columns(manifest, features), [[] for _ in features])
            # The row as it came is what the model saw, and what is logged.
            return self._answer_one(snapshot, compiled, values, features[0], [])

        return self._told(self.run(work, lambda: row_key(features[0]), None, request_id))

    @property
    def is_quick(self) -> bool:
        """Whether a row is answered in some ten microseconds: by a compiled form, not through Feast, not by a canary."""
        snapshot, trial = self._snapshot, self.trial
        quick = snapshot is not None and snapshot.bundle.compiled is not None and (trial is None or trial.is_quick)
        return quick and getattr(self._read_features, "is_quick", True)

    def run(
        self, work: Work, key: Callable[[], bytes], rows: Rows | None, request_id: str, only: Snapshot | None = None
    ) -> tuple[Snapshot, str, list[Answer]]:
        """Return who answered a request, its id and the answers, after they were logged.

        ``work`` answers it with one version, ``key`` decides whether a canary does; ``rows`` are None if it brought ready
        features. With ``only`` that version answers. Raises UnavailableError as ``predict``, and what ``work`` does.
        """
        snapshot, trial = (self._snapshot, self.trial) if only is None else (only, None)
        if snapshot is None:
            raise UnavailableError(f"no version of {self.spec.name} is loaded yet; see /readyz")
        if trial is None:
            answers = work(snapshot)
        else:
            snapshot, answers = trial.answer(snapshot, key, work)
        request_id = request_id or uuid.uuid4().hex
        at, logged = datetime.now(UTC), rows if rows is not None else [None] * len(answers)
        self._log.append(request_id, at, snapshot.promotion.version, logged, answers)
        self.count("answered", len(answers), sum(bool(answer.unknown) for answer in answers))
        if trial is not None:
            trial.copy(request_id, at, logged, work)
        return snapshot, request_id, answers

    def _told(self, found: tuple[Snapshot, str, list[Answer]]) -> dict[str, Any]:
        """Return what is told of the answers to a request."""
        snapshot, request_id, answers = found
        return {
            "model": self.spec.name,
            "version": snapshot.promotion.version,
            "request_id": request_id,
            "predictions": [
                {
                    "prediction": answer.prediction,
                    **({"probabilities": answer.probabilities} if answer.probabilities else {}),
                    "unknown": answer.unknown,
                }
                for answer in answers
            ],
        }

    def answer(self, snapshot: Snapshot, rows: Rows) -> list[Answer]:
        """Return what a champion says of some rows, not logged. Raises as ``predict``."""
        manifest = snapshot.bundle.manifest
        online = self._read_features(manifest.feature_names, rows)
        missing = [name for name in manifest.feature_names if name not in online.columns]
        if missing:
            raise ContractError(
                f"{self.spec.name}: version {snapshot.promotion.version} needs {', '.join(missing)}, which "
                f"{self.spec.feature_service} does not serve; run `evergreen featurize`"
            )
        columns = [online.columns[name] for name in manifest.feature_names]
        compiled = snapshot.bundle.compiled
        if len(rows) == 1 and compiled is not None:
            values = [column[0] for column in columns]
            features = dict(zip(manifest.feature_names, values, strict=True))
            return self._answer_one(snapshot, compiled, values, features, online.unknown[0])
        return self.answer_features(snapshot, columns, online.unknown)

    def answer_features(
        self, snapshot: Snapshot, columns: Sequence[Sequence[Any]], unknown: Sequence[list[str]]
    ) -> list[Answer]:
        """Return what a version says of rows of ready features, one sequence of values a feature, not logged.

        Raises ContractError if an answer is not finite, or not one for each row.
        """
        manifest = snapshot.bundle.manifest
        scores = self._checked(snapshot, snapshot.bundle.answers(columns))
        features = [dict(zip(manifest.feature_names, values, strict=True)) for values in zip(*columns, strict=True)]
        if len(scores) != len(features):
            version = snapshot.promotion.version
            raise ContractError(
                f"{self.spec.name}: version {version} gave {len(scores)} answers to {len(features)} rows"
            )
        return [
            Answer(prediction=prediction, probabilities=shares, features=features[index], unknown=unknown[index])
            for index, (prediction, shares) in enumerate(_readable(scores, manifest.classes))
        ]

    def _answer_one(
        self,
        snapshot: Snapshot,
        compiled: Compiled,
        values: Sequence[Any],
        features: Mapping[str, Any],
        unknown: list[str],
    ) -> list[Answer]:
        """Return what a compiled form says of one row, its values in the order of the model. Raises ContractError."""
        scores = self._checked(snapshot, compiled.predict([values]))
        ((prediction, shares),) = _readable(scores, snapshot.bundle.manifest.classes)
        return [Answer(prediction, shares, features, unknown)]

    def _checked(self, snapshot: Snapshot, scores: Floats) -> Floats:
        """Return scores; raises ContractError if one is not finite."""
        if not (math.isfinite(scores[0]) if scores.shape == (1,) else np.isfinite(scores).all()):
            raise ContractError(
                f"{self.spec.name}: version {snapshot.promotion.version} answered with a value that is not finite; "
                "roll back with `evergreen rollback`"
            )
        return scores


def row_key(features: Mapping[str, Any]) -> bytes:
    """Return what stands for the key of a row that brought its features alone: all of them."""
    return repr(sorted(features.items())).encode()


def _readable(scores: Any, classes: tuple[Any, ...] | None) -> list[tuple[Any, dict[str, float] | None]]:
    """Return value and None for each row of a regression, the likeliest class and all probabilities otherwise."""
    if classes is None:
        return [(value, None) for value in scores.tolist()]
    names = [str(name) for name in classes]
    best = scores.argmax(axis=1)
    return [
        (classes[index], dict(zip(names, shares, strict=True)))
        for index, shares in zip(best, scores.tolist(), strict=True)
    ]
