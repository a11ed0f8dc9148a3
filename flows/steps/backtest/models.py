"""The models of a replay: each window is trained, judged and probed once, by whichever policy asks, and kept on disk."""

from __future__ import annotations

import hashlib
import shutil
import time
from dataclasses import dataclass
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from pydantic import ConfigDict, ValidationError

from flows.settings import Settings
from flows.spec import Frozen, ModelSpec
from flows.steps import bundle, evaluation, fitting, metrics, probe, reference, training_set
from flows.steps.backtest.timeline import History, micros
from flows.steps.evaluation import Evaluation, Losses, Predicted
from flows.steps.files import replacing, sha256_of, write_text
from flows.steps.lineage import LIBRARIES, sources_hash
from flows.steps.training_set import Window

if TYPE_CHECKING:
    from flows.steps.metrics import Floats

KEPT = timedelta(days=60)
RECORD, JUDGED = "record.json", "judged.npy"
# What changes nothing of a model that is trained.
ASIDE = {
    "triggers",
    "costs",
    "rollout",
    "promotion",
    "gates",
    "slices",
    "description",
    "owner",
    "history_data",
    "request",
}


class Trained(Frozen):
    """The record of a trained window, written last: what the real parts say of it; ``seconds`` of work it took."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    key: str
    window: Window
    digest: str
    judged_sha256: str
    seconds: float
    evaluation: Evaluation
    probe: probe.Probe
    reference: reference.Reference
    classes: tuple[Any, ...] | None


@dataclass(frozen=True)
class Model:
    """A trained window in the replay: its losses on the judging rows, and what it says of all rows from ``first`` on."""

    trained: Trained
    losses: Losses
    judge_rows: Any
    first: int
    scores: Floats
    row_losses: Floats

    def losses_at(self, rows: Any) -> Floats:
        """Return the losses at row numbers, or at a slice of them."""
        if isinstance(rows, slice):
            return self.row_losses[rows.start - self.first : rows.stop - self.first]
        return np.asarray(self.row_losses[np.asarray(rows) - self.first])

    def answers(self, rows: slice) -> Any:
        """Return what it answers to the rows: numbers, or the most probable classes."""
        scores = self.scores[rows.start - self.first : rows.stop - self.first]
        return scores if self.trained.classes is None else np.asarray(self.trained.classes)[scores.argmax(axis=1)]


def train_window(
    settings: Settings, history: History, step: int, judge: timedelta | None = None, factory: str | None = None
) -> Model:
    """Return the model that a training at the start of a period makes: found on disk, or made and kept there.

    Its key is the digest of its training set and of the code, parameters and libraries that make a model of it.
    """
    spec = history.spec
    window = history.window(step, judge)
    rows = training_set.parted(spec, history.known_by(step), window)
    place = settings.backtests(spec.name) / "models"
    place.mkdir(parents=True, exist_ok=True)
    draft = place / f"draft-{step}"
    data = training_set.write_training_set(rows, list(history.features), window, draft)
    key = _key(spec, data.digest, factory or spec.estimator)
    folder = place / key[:32]
    with FileLock(place / f"{key[:32]}.lock"):
        trained = _find(folder, key)
        if trained is None:
            trained = _make(settings, spec, data, key, folder, factory)
    shutil.rmtree(draft, ignore_errors=True)
    judged = np.load(folder / JUDGED, allow_pickle=False)
    first, last = history.place(window.split), history.place(window.end)
    chosen = first + np.flatnonzero(history.known[first:last] <= micros(history.steps[step].start))
    scores = _scores(settings, history, trained, folder, first)
    losses = metrics.row_losses(spec.metric, history.labels[first:], scores, trained.classes)
    return Model(trained, Losses(judged[0], judged[1]), chosen, first, scores, losses)


def kept(settings: Settings, spec: ModelSpec) -> set[str]:
    """Return the names of the windows of a model that are kept."""
    return {path.parent.name for path in (settings.backtests(spec.name) / "models").glob(f"*/{RECORD}")}


def prune(settings: Settings, spec: ModelSpec) -> None:
    """Remove what no backtest has used for ``KEPT``."""
    place = settings.backtests(spec.name) / "models"
    for name in kept(settings, spec):
        if (place / name / RECORD).stat().st_mtime < time.time() - KEPT.total_seconds():
            shutil.rmtree(place / name, ignore_errors=True)
            (place / f"{name}.lock").unlink(missing_ok=True)


def _key(spec: ModelSpec, data: str, factory: str) -> str:
    named = spec.model_dump_json(exclude=ASIDE)
    libraries = {name: metadata.version(name) for name in LIBRARIES}
    return hashlib.sha256(repr([named, data, factory, sources_hash(spec, factory), libraries]).encode()).hexdigest()


def _find(folder: Path, key: str) -> Trained | None:
    """Return the record of a window that was trained before and whose files are whole."""
    try:
        found = Trained.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))
        whole = sha256_of(folder / JUDGED) == found.judged_sha256 and (folder / bundle.SERVING).exists()
    except (OSError, ValidationError):
        return None
    if not whole or found.key != key:
        return None
    (folder / RECORD).touch()  # it is of use still
    return found


def _make(
    settings: Settings, spec: ModelSpec, data: training_set.TrainingSet, key: str, folder: Path, factory: str | None
) -> Trained:
    """Fit, judge and probe a window as a training does, and keep what came of it; the record is written last."""
    begun = time.perf_counter()
    estimator = fitting.fit(spec, data, dict(spec.params), factory)
    train, judge = evaluation.predict(spec, estimator, data)
    digest = bundle.save_bundle(spec, estimator, data, folder)
    classes = getattr(estimator, "classes_", None) if spec.task != "regression" else None
    losses = evaluation.judging_losses(spec, classes, train, judge)
    found = evaluation.measure(spec, classes, train, judge, losses)
    known = reference.build(spec, data, estimator, train, judge)
    opened = probe.probe_bundle(folder, digest, settings)
    with replacing(folder / JUDGED) as temporary, temporary.open("wb") as file:
        np.save(file, np.stack([losses.ours, losses.baseline]), allow_pickle=False)
    trained = Trained(
        key=key, window=data.window, digest=digest, judged_sha256=sha256_of(folder / JUDGED),
        seconds=time.perf_counter() - begun, evaluation=found, probe=opened, reference=known,
        classes=None if classes is None else tuple(np.asarray(classes).tolist()),
    )  # fmt: skip
    write_text(folder / RECORD, trained.model_dump_json(indent=1) + "\n")
    return trained


def _scores(settings: Settings, history: History, trained: Trained, folder: Path, first: int) -> Floats:
    """Return what a model says of all rows from ``first`` on; kept beside it for the rows of this history."""
    path = folder / f"scores-{history.digest[:24]}-{first}.npy"
    if path.exists():
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
    opened = bundle.open_bundle(folder, trained.digest, settings.trusted_types)
    scores = opened.scores(history.inputs.iloc[first:])
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, scores, allow_pickle=False)
    return scores


def judged_part(history: History, model: Model) -> Predicted:
    """Return the judging rows of a window with their inputs, labels and scores."""
    chosen = model.judge_rows
    return Predicted(
        history.rows.take(chosen), history.inputs.iloc[chosen], history.labels[chosen],
        model.scores[chosen - model.first],
    )  # fmt: skip
