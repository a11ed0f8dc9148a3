"""What the stages of a run have finished, kept until the run is through: one that was killed goes on where it stopped.

A run's work lies in ``stages/<model>/<key>`` of the home. The key is the digest of all that decides what comes out (data,
code, parameters), so whoever sees the home and runs the same goes on with it. Beside the files of a stage lies its
record, written last: its result in JSON, the digests of its files, and who made it when. Names are relative to the home.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from flows.locks import locked
from flows.settings import Settings
from flows.spec import Frozen
from flows.steps.files import sha256_of, write_text
from flows.steps.lineage import Stage

PATIENCE_SECONDS = 3600
MOST_KEPT = 3  # works of a model that broke off, beside the one that is opened
KEPT_SECONDS = 7 * 86400


class Finished(Frozen):
    """The record of a finished stage: its result as JSON and the sha256 of each of its files."""

    stage: Stage
    result: Any
    files: dict[str, str]


@dataclass
class Work:
    """The stages that a run has behind it. Once one is not found finished, all that come after it are done anew."""

    settings: Settings
    folder: Path
    key: str
    behind: list[str] = field(default_factory=list)

    @property
    def bundle(self) -> Path:
        """Folder of the bundle that a training makes."""
        return self.folder / "bundle"

    def find(self, name: str) -> Finished | None:
        """Return the record of a stage that was finished before, its files being as they were then."""
        try:
            found = Finished.model_validate_json(self._record(name).read_text(encoding="utf-8"))
            whole = all(sha256_of(self.settings.home / file) == digest for file, digest in found.files.items())
        except (OSError, ValidationError):
            return None
        return found if whole else None

    def start_anew(self) -> None:
        """Forget the stages that were finished after those that are behind: what they were made from is made again."""
        for path in self.folder.glob("*.json"):
            if path.stem not in self.behind:
                path.unlink(missing_ok=True)

    def finish(self, stage: Stage, result: Any, files: Mapping[Path, str | None]) -> None:
        """Record that a stage is finished; of files without a digest it is computed."""
        hashed = {
            path.relative_to(self.settings.home).as_posix(): digest or sha256_of(path) for path, digest in files.items()
        }
        record = Finished(stage=stage, result=result, files=hashed)
        write_text(self._record(stage.name), json.dumps(record.model_dump(mode="json"), indent=1) + "\n")

    def remove(self) -> None:
        """Remove all: the run is through."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _record(self, name: str) -> Path:
        return self.folder / f"{name}.json"


Saved = tuple[Any, Mapping[Path, str | None]]  # JSON, and files with their digests where known


class Keep(Protocol):
    """How the result of a stage is kept. Both methods get the work and, by name, what the stage was called with."""

    def save(self, result: Any, work: Work, arguments: Mapping[str, Any]) -> Saved | None:
        """Return a result as JSON and files, or None if it cannot be kept: the stage is then done again."""

    def load(self, saved: Any, work: Work, arguments: Mapping[str, Any]) -> Any:
        """Make a result from its JSON and files again, to the bit; raises an EvergreenError if it cannot be made here."""


class Plain:
    """Keep a result that JSON can hold, of a type that pydantic knows, with the files of some patterns in the work."""

    def __init__(self, kind: Any, *files: str) -> None:
        self.kind, self.files = kind, files

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.kind)

    def save(self, result: Any, work: Work, arguments: Mapping[str, Any]) -> Saved | None:
        saved = json.loads(json.dumps(self._adapter.dump_python(result, mode="json")))
        if self._adapter.validate_python(saved) != result:  # a tuple among parameters would come back as a list
            return None
        return saved, {path: None for pattern in self.files for path in sorted(work.folder.glob(pattern))}

    def load(self, saved: Any, work: Work, arguments: Mapping[str, Any]) -> Any:
        return self._adapter.validate_python(saved)


def key_of(*parts: Any) -> str:
    """Return the key of a work from all that decides what comes out of it."""
    return sha256(json.dumps(parts, default=str).encode()).hexdigest()


def open_work(settings: Settings, name: str, key: str) -> Work:
    """Open the work of a key, with the stages that an earlier run of the same may have finished, and clean up old ones.

    The caller holds the lock of ``one_at_a_time``.
    """
    folder = settings.stages(name) / key[:32]
    folder.mkdir(parents=True, exist_ok=True)
    others = sorted(
        (path for path in folder.parent.iterdir() if path.is_dir() and path != folder),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    for number, path in enumerate(others):
        if number >= MOST_KEPT or path.stat().st_mtime < time.time() - KEPT_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
    return Work(settings, folder, key)


@contextmanager
def one_at_a_time(settings: Settings, name: str, patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Let one run of a kind work at a time; a killed one holds nobody up.

    Raises UnavailableError if another one is still at work after an hour.
    """
    with locked(settings, f"stages/{name}", patience):
        yield
