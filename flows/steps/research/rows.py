"""The rows that a training would take, as a researcher asks for them: made by training's own code."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from sqlalchemy.engine import Engine

from flows import ledger
from flows.errors import UsageError
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import feature_store, training_set
from flows.steps.training_set import TrainingSet

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def build(
    settings: Settings,
    spec: ModelSpec,
    engine: Engine,
    folder: Path,
    judge: timedelta | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> TrainingSet:
    """Write the training set of the newest window, or of another span, into a folder. Raises as training would."""
    accepted = ledger.list_partitions(engine, spec.name, "accepted")
    window = training_set.choose_window(spec, accepted, judge, since, until)
    store = feature_store.open_store(settings)
    feature_store.check_names(store, spec)
    partitions = [one for one in accepted if one.id in window.partition_ids]
    return training_set.build(settings, store, spec, partitions, window, folder)


def read(data: TrainingSet) -> pa.Table:
    """Read all rows of a training set into memory; its files may go then."""
    import pyarrow.feather as feather

    return feather.read_table(data.uri, memory_map=False)


def frame(rows: pa.Table, data: TrainingSet) -> pd.DataFrame:
    """Return rows as a data frame whose feature columns are what an estimator is given: float64 with NaN, or texts.

    ``attrs`` of the frame has the features' names, the window's times and the digest of the training set.
    """
    found: pd.DataFrame = rows.to_pandas()
    found[list(data.features)] = training_set.matrix(rows, data.features)
    window = data.window.model_dump(mode="json", exclude={"partition_ids"})
    found.attrs |= {"features": list(data.features), "digest": data.digest, **window}
    return found


def moment(spec: ModelSpec, value: str | date | datetime | None) -> datetime | None:
    """Return a time in UTC; one without a zone, or a day, is local to the model's source. Raises UsageError for no time."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise UsageError(f"{value!r} is no time; write it as 2024-01-31, or 2024-01-31T08:00") from error
    if value is None:
        return None
    full = value if isinstance(value, datetime) else datetime.combine(value, time())
    return full.replace(tzinfo=full.tzinfo or ZoneInfo(spec.source.time_zone)).astimezone(UTC)
