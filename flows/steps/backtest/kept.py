"""A replay as it lies on disk: joined once, and opened by whoever trains a window of it, on this machine or another."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pyarrow as pa
from pydantic import ValidationError

from flows.errors import UnavailableError
from flows.ledger import Partition
from flows.lookup import load_model
from flows.settings import Settings
from flows.spec import Frozen
from flows.steps import storage
from flows.steps.backtest.timeline import History, Step
from flows.steps.files import sha256_of, write_arrow, write_text

STEM = "replay"


class Place(Frozen):
    """Where a replay lies: the address of its record, and the digest of its rows."""

    record: str
    digest: str


class Record(Frozen):
    """What is known of a replay beside its rows, which lie at ``rows``."""

    model: str
    rows: str
    digest: str
    steps: tuple[Step, ...]
    partitions: tuple[Partition, ...]
    features: tuple[str, ...]


def keep(settings: Settings, history: History) -> Place:
    """Write a replay where all machines find it, rows first, in the place of the one before, and return where that is."""
    name, folder = history.spec.name, settings.backtests(history.spec.name)
    stem = storage.unique(settings, STEM)
    with storage.writing(settings, folder / f"{stem}.arrow") as temporary:
        digest = sha256_of(write_arrow(history.rows, temporary))
    record = Record(
        model=name, rows=storage.address(settings, folder / f"{stem}.arrow"), digest=digest, steps=tuple(history.steps),
        partitions=tuple(history.partitions), features=history.features,
    )  # fmt: skip
    with storage.writing(settings, folder / f"{stem}.json") as temporary:
        write_text(temporary, record.model_dump_json())
    _alone(folder, stem)
    return Place(record=storage.address(settings, folder / f"{stem}.json"), digest=digest)


@lru_cache(maxsize=1)
def opened(settings: Settings, place: Place) -> History:
    """Return a replay; it is read once by each process.

    Raises UnavailableError if it is not there, or was replaced by another.
    """
    gone = UnavailableError(f"the replay at {place.record} is not there any more; run the backtest again")
    try:
        path = Path(storage.local(settings, place.record))
        record = Record.model_validate_json(path.read_text(encoding="utf-8"))
        rows = Path(storage.local(settings, record.rows))
        if place.digest != record.digest or sha256_of(rows) != record.digest:
            raise gone
        with pa.memory_map(str(rows)) as source:
            table = pa.ipc.open_file(source).read_all().combine_chunks()
    except (OSError, ValidationError) as error:
        raise gone from error
    _alone(path.parent, path.stem)
    spec = load_model(record.model, settings)
    return History(spec, list(record.steps), list(record.partitions), table, record.features, record.digest)


def _alone(folder: Path, stem: str) -> None:
    """Remove the replays of a home but one: of a model, one is under way at a time."""
    for path in folder.glob(f"{STEM}*"):
        if path.stem != stem:
            path.unlink(missing_ok=True)
