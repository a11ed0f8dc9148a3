"""How the results that JSON cannot hold are kept from one stage to the next: a training set, an estimator, predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flows.steps.bundle import MAX_MODEL_BYTES, MODEL, load_estimator
from flows.steps.evaluation import PARTS, Predicted, part
from flows.steps.files import replacing
from flows.steps.model_file import write_estimator
from flows.steps.stages import Saved, Work
from flows.steps.training_set import TrainingSet
from flows.steps.trusted import read_bytes


class KeptTrainingSet:
    """A training set is kept by its record; its rows are in its file already."""

    def save(self, result: TrainingSet, work: Work, arguments: Mapping[str, Any]) -> Saved:
        path = Path(result.uri)
        return result.model_dump(mode="json") | {"uri": path.name}, {path: result.digest}

    def load(self, saved: Any, work: Work, arguments: Mapping[str, Any]) -> TrainingSet:
        return TrainingSet.model_validate(saved | {"uri": str(work.folder / saved["uri"])})


class KeptEstimator:
    """A fitted estimator is kept as the ``model.skops`` of its bundle.

    It is loaded as the service would load it: one that holds a type that nobody trusts is fitted again.
    """

    def save(self, result: Any, work: Work, arguments: Mapping[str, Any]) -> Saved:
        name = arguments["estimator_path"] or arguments["spec"].estimator
        return None, {write_estimator(result, work.bundle / MODEL, name): None}

    def load(self, saved: Any, work: Work, arguments: Mapping[str, Any]) -> Any:
        path = work.bundle / MODEL
        return load_estimator(read_bytes(path, MAX_MODEL_BYTES), path, work.settings.trusted_types)


class KeptPredictions:
    """Of predictions the scores are kept; the rows are those of the training set."""

    def save(self, result: tuple[Predicted, Predicted], work: Work, arguments: Mapping[str, Any]) -> Saved:
        for path, predicted in zip(self._files(work), result, strict=True):
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, predicted.scores, allow_pickle=False)
        return None, dict.fromkeys(self._files(work))

    def load(self, saved: Any, work: Work, arguments: Mapping[str, Any]) -> tuple[Predicted, ...]:
        return tuple(
            part(arguments["data"], name, np.load(path, allow_pickle=False))
            for name, path in zip(PARTS, self._files(work), strict=True)
        )

    def _files(self, work: Work) -> list[Path]:
        return [work.folder / f"scores-{name}.npy" for name in PARTS]


class KeptTables:
    """Feature tables that were added to are kept by the files that were written last."""

    def save(self, result: dict[str, int], work: Work, arguments: Mapping[str, Any]) -> Saved:
        folder = work.settings.features(arguments["spec"].name)
        return result, {file: None for view in result for file in _written_last(folder / view)}

    def load(self, saved: Any, work: Work, arguments: Mapping[str, Any]) -> dict[str, int]:
        return dict(saved)


def _written_last(folder: Path) -> list[Path]:
    """Return the files of the newest computation, whose names begin with its time; it may have made several."""
    files = sorted(folder.glob("*.parquet"))
    newest = files[-1].name.partition("-")[0]
    return [file for file in files if file.name.partition("-")[0] == newest]


class KeptFile:
    """A file is kept by its path, relative to the home."""

    def save(self, result: Path, work: Work, arguments: Mapping[str, Any]) -> Saved:
        return result.relative_to(work.settings.home).as_posix(), {result: None}

    def load(self, saved: Any, work: Work, arguments: Mapping[str, Any]) -> Path:
        return work.settings.home / str(saved)
