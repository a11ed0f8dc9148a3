"""Parts of the tests of ingest: a home to land in by the plain steps, and days of trips to land."""

from datetime import date
from pathlib import Path

import pandas as pd
from sqlalchemy.engine import Engine

from flows import database, ledger
from flows.ledger import Partition
from flows.models.taxi.simulator import simulate_day
from flows.models.taxi.spec import spec as taxi
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import docs, judging, landing
from flows.steps.in_memory import connect

DAY = date(2024, 1, 10)


class Place:
    """A home with its ledger, in which sources are ingested without Prefect."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.settings = Settings(home=home)
        self.engine: Engine = database.connect(self.settings)

    def land(self, source: object, spec: ModelSpec = taxi, kind: str = "day") -> list[Partition]:
        """Land a source, and leave it undecided."""
        with connect(self.settings.home) as connection:
            return landing.land(str(source), spec, self.settings, self.engine, kind, connection).partitions

    def ingest(self, source: object, spec: ModelSpec = taxi, kind: str = "day", again: bool = False) -> list[Partition]:
        """Land a source and decide on what is open."""
        with connect(self.settings.home) as connection:
            landed = landing.land(str(source), spec, self.settings, self.engine, kind, connection, again)
            bench = judging.Bench(connection, spec, self.settings, self.engine, landed)
            decided = [
                judging.decide(bench, partition) if judging.is_open(partition, bench) else partition
                for partition in landed.partitions
            ]
        docs.write_index(self.settings, spec, ledger.list_partitions(self.engine, spec.name))
        return decided


def clean_day(day: date = DAY, trips: int = 500) -> pd.DataFrame:
    """Return a simulated day without dirt: no rule of the suite is broken by any of its rows."""
    frame = simulate_day(day, trips=trips)
    minutes = (frame.lpep_dropoff_datetime - frame.lpep_pickup_datetime).dt.total_seconds() / 60
    good = (frame.lpep_pickup_datetime.dt.date == day) & (minutes > 0) & (minutes < 180)
    keys = ["lpep_pickup_datetime", "PULocationID", "DOLocationID", "trip_distance"]
    return frame[good].drop_duplicates(keys).reset_index(drop=True)


def write(frame: pd.DataFrame, path: Path) -> Path:
    """Write a frame as parquet or CSV, by the name of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False)
    return path
