"""The predictor: one request against one snapshot of the champion, its features read, its answer logged, then given."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from flows.errors import ContractError, UnavailableError
from flows.ledger import Promotion
from flows.spec import ModelSpec
from flows.steps.bundle import Bundle, frame_of
from flows.steps.feature_store import OnlineRows
from flows.steps.prediction_log import Answer, PredictionLog

Rows = Sequence[Mapping[str, Any]]
FeatureReader = Callable[[Sequence[str], Rows], OnlineRows]


@dataclass(frozen=True)
class Snapshot:
    """What one request sees: a promotion and the bundle that it names."""

    promotion: Promotion
    bundle: Bundle


class Predictor:
    """Answers requests with the champion of the moment.

    ``read_features`` returns the named features of some rows; ``log`` keeps each answer before it is given.
    """

    def __init__(self, spec: ModelSpec, read_features: FeatureReader, log: PredictionLog) -> None:
        self.spec = spec
        self._read_features = read_features
        self._log = log
        self._snapshot: Snapshot | None = None
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

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter."""
        with self._counting:
            self._counts[name] += by

    def swap(self, snapshot: Snapshot) -> None:
        """Put another champion in place; requests under way end with the one that they began with."""
        self._snapshot = snapshot

    def predict(self, rows: Rows) -> dict[str, Any]:
        """Return the answer to a request's rows, after it was logged.

        Raises UnavailableError if no model is loaded or the features cannot be read or the log cannot be written,
        ContractError if model and features do not fit together.
        """
        snapshot = self._snapshot
        if snapshot is None:
            raise UnavailableError(f"no version of {self.spec.name} is loaded yet; see /readyz")
        answers = self.answer(snapshot, rows)
        request_id = uuid.uuid4().hex
        self._log.append(request_id, datetime.now(UTC), snapshot.promotion.version, rows, answers)
        self.count("answered")
        self.count("rows", len(rows))
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
        scores = snapshot.bundle.scores(frame_of(manifest, columns))
        if not np.isfinite(scores).all():
            raise ContractError(
                f"{self.spec.name}: version {snapshot.promotion.version} answered with a value that is not finite; "
                "roll back with `evergreen rollback`"
            )
        features = [dict(zip(manifest.feature_names, values, strict=True)) for values in zip(*columns, strict=True)]
        return [
            Answer(prediction=prediction, probabilities=shares, features=features[index], unknown=online.unknown[index])
            for index, (prediction, shares) in enumerate(_readable(scores, manifest.classes))
        ]


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
