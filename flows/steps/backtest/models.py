"""The models of a replay: each window is trained, judged and probed once, by whichever policy asks, and kept on disk."""

from __future__ import annotations

import hashlib
import shutil
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ConfigDict, ValidationError

from flows.errors import UnavailableError
from flows.locks import locked
from flows.settings import Settings, load
from flows.spec import Frozen, ModelSpec
from flows.steps import (
    bundle,
    bundling,
    evaluation,
    fitting,
    metrics,
    probe,
    reference,
    same_code,
    storage,
    training_set,
)
from flows.steps.answered import with_answers
from flows.steps.backtest.kept import Place, opened
from flows.steps.backtest.timeline import History, micros
from flows.steps.evaluation import Evaluation, Losses, Predicted
from flows.steps.files import replacing, scratch, sha256_of, write_text
from flows.steps.manifest import SERVING
from flows.steps.same_code import code_of
from flows.steps.training_set import Window

if TYPE_CHECKING:
    import pyarrow as pa

    from flows.steps.metrics import Floats

KEPT = timedelta(days=60)
LONGEST_SECONDS = 86400  # that one window is trained, by whoever has its lock
RECORD, JUDGED, SCORES = "record.json", "judged.npy", "scores-"


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


class Made(Frozen):
    """Where the model of a window lies, below the home's models of backtests; ``made`` unless it was found."""

    folder: str
    window: Window
    made: bool


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

    def answered(self, history: History, rows: slice) -> pa.Table:
        """Return rows of the history with what it answers to them."""
        scores = self.scores[rows.start - self.first : rows.stop - self.first]
        return with_answers(history.rows.slice(rows.start, rows.stop - rows.start), scores, self.trained.classes)


def train_window(place: Place, step: int, judge: timedelta | None, code: str, settings: Settings | None = None) -> Made:
    """Make the model of a window of the replay that lies at ``place``; by this machine's own settings if none are given.

    Raises ContractError if the machine has other code than whoever asks, which is of the digest ``code``.
    """
    settings = settings or load()
    history = opened(settings, place)
    same_code.require(code, history.spec)
    return make_window(settings, history, step, judge)


def make_window(settings: Settings, history: History, step: int, judge: timedelta | None) -> Made:
    """Make the model of a training at the start of a period, or find it: on disk, in the bucket, or once another made it.

    Its key is the digest of its training set and of the code, parameters and libraries that make a model of it.
    """
    spec = history.spec
    window = history.window(step, judge)
    rows = training_set.as_trained(training_set.parted(spec, history.known_by(step), window), history.features)
    with scratch(settings.home, "window") as draft:
        data = training_set.write_training_set(rows, list(history.features), window, draft)
        key = hashlib.sha256(repr([data.digest, code_of(spec)]).encode()).hexdigest()
        folder = windows(settings, spec.name) / key[:32]
        with locked(settings, f"backtests/{spec.name}/models/{key[:32]}", LONGEST_SECONDS):
            trained = _find(settings, folder, key)
            made = trained is None
            if trained is None:
                trained = _make(settings, spec, data, key, folder)
    _scores(settings, history, trained, folder, history.place(window.split))
    return Made(folder=folder.name, window=window, made=made)


def open_window(settings: Settings, history: History, step: int, made: Made) -> Model:
    """Return the model that was made of a window, with its losses on the rows of the replay."""
    spec, folder = history.spec, windows(settings, history.spec.name) / made.folder
    trained = _find(settings, folder)
    if trained is None:
        raise UnavailableError(f"{folder} is not whole; run the backtest again, which makes what is missing")
    judged = np.load(folder / JUDGED, allow_pickle=False)
    first, last = history.place(made.window.split), history.place(made.window.end)
    chosen = first + np.flatnonzero(history.known[first:last] <= micros(history.steps[step].start))
    scores = _scores(settings, history, trained, folder, first)
    losses = metrics.row_losses(spec.metric, history.labels[first:], scores, trained.classes)
    return Model(trained, Losses(judged[0], judged[1]), chosen, first, scores, losses)


def prune(settings: Settings, spec: ModelSpec) -> None:
    """Remove what no backtest has used for ``KEPT`` from the home."""
    place = windows(settings, spec.name)
    for record in place.glob(f"*/{RECORD}"):
        if record.stat().st_mtime < time.time() - KEPT.total_seconds():
            shutil.rmtree(record.parent, ignore_errors=True)
            (place / f"{record.parent.name}.lock").unlink(missing_ok=True)


def windows(settings: Settings, model: str) -> Path:
    """Return where a home keeps the trained windows of a model, a folder each."""
    return settings.backtests(model) / "models"


def _find(settings: Settings, folder: Path, key: str = "") -> Trained | None:
    """Return the record of a window that was trained before, here or elsewhere, and whose files are whole."""
    if not (folder / RECORD).exists():
        storage.pull(settings, folder)
    try:
        found = Trained.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))
        whole = sha256_of(folder / JUDGED) == found.judged_sha256 and (folder / SERVING).exists()
    except (OSError, ValidationError):
        return None
    if not whole or (key and found.key != key):
        return None
    (folder / RECORD).touch()  # it is of use still
    return found


def _make(settings: Settings, spec: ModelSpec, data: training_set.TrainingSet, key: str, folder: Path) -> Trained:
    """Fit, judge and probe a window as a training does, and keep what came of it; the record is written last."""
    begun = time.perf_counter()
    estimator = fitting.fit(spec, data, dict(spec.params))
    train, judge = evaluation.predict(spec, estimator, data)
    digest = bundling.save_bundle(spec, estimator, data, folder)
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
    _publish_parts(settings, folder)
    with storage.writing(settings, folder / RECORD) as temporary:
        write_text(temporary, trained.model_dump_json(indent=1) + "\n")
    return trained


def publish(settings: Settings, folder: Path) -> None:
    """Bring a window that was trained in the home alone into the bucket, if there is one and it has not got it."""
    if storage.missing([storage.address(settings, folder / RECORD)]):
        _publish_parts(settings, folder)
        storage.publish(settings, folder / RECORD)


def _publish_parts(settings: Settings, folder: Path) -> None:
    """Bring all of a window but its record into the bucket; the record comes last."""
    for path in sorted(one for one in folder.iterdir() if one.name != RECORD):
        storage.publish(settings, path)


def _scores(settings: Settings, history: History, trained: Trained, folder: Path, first: int) -> Floats:
    """Return what a model says of all rows from ``first`` on; kept beside it for the rows of this history."""
    path = folder / f"{SCORES}{history.digest[:24]}-{first}.npy"
    if not path.exists():
        storage.pull(settings, folder, path.name.__eq__)
    if path.exists():
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
    opened = bundle.open_bundle(folder, trained.digest, settings.trusted_types)
    scores = opened.scores(history.inputs.iloc[first:])
    with storage.writing(settings, path) as temporary, temporary.open("wb") as file:
        np.save(file, scores, allow_pickle=False)
    return scores


def judged_part(history: History, model: Model) -> Predicted:
    """Return the judging rows of a window with their inputs, labels and scores."""
    chosen = model.judge_rows
    return Predicted(
        history.rows.take(chosen), history.inputs.iloc[chosen], history.labels[chosen],
        model.scores[chosen - model.first],
    )  # fmt: skip
