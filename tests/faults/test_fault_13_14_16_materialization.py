"""Faults 13, 14 and 16: the online store is filled in the wrong order, into the future, or by a process that is killed.

What must come out is the same each time: the store as one undisturbed materialization leaves it.
"""

import random
import signal
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
from training_parts import copy_home, featurized, opened, python

from flows import database, ledger
from flows.errors import RefusedError
from flows.models.taxi.spec import spec
from flows.steps import feature_store
from flows.steps.feature_tables import next_tick, ticks_between

KILLED = """
import os, signal
from feature_repo.online_store import NewestSqliteOnlineStore as Store
from flows.settings import load
from flows.models.taxi.spec import spec
from flows.steps import feature_store
from datetime import datetime
whole, calls = Store.write_columns, []
def write(self, config, table, batch):
    calls.append(table.name)
    if len(calls) == 2:  # one view is written, of the next one a half
        half = len(batch.keys) // 2
        cut = [part[:half] if not isinstance(part, dict) else {{name: part[name][:half] for name in part}} for part in batch]
        whole(self, config, table, type(batch)(*cut))
        os.kill(os.getpid(), signal.SIGKILL)
    whole(self, config, table, batch)
Store.write_columns = write
feature_store.materialize(load(), spec, datetime.fromisoformat("{start}"), datetime.fromisoformat("{end}"))
"""


@pytest.fixture
def home(tmp_path, tmp_path_factory, simulated_days, prefect_api):
    source = featurized(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)
    with opened(tmp_path / "home", prefect_api) as settings:
        copy_home(source, settings)
        yield settings


def ticks(home) -> list[datetime]:
    """Return the ticks of the home's feature tables."""
    known = ledger.list_partitions(database.connect(home), "taxi", "accepted")
    first, last = min(one.first_event for one in known), max(one.last_event for one in known)
    return ticks_between(spec, first, next_tick(spec, last))


def online(home) -> dict[str, list[tuple]]:
    """Return all rows of the online store by table, in an order of their own; without when they were written."""
    with sqlite3.connect(home.home / "feast" / "online.db") as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(connection.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr) for name in names}


def empty(home) -> None:
    """Empty the online store."""
    with sqlite3.connect(home.home / "feast" / "online.db") as connection:
        for name in online(home):
            connection.execute(f'DELETE FROM "{name}"')


def test_13_windows_in_any_order_and_again_leave_the_newest_values(home):
    expected, known = online(home), ticks(home)
    assert sum(map(len, expected.values())) > 100
    feature_store.materialize(home, spec, known[0], known[2])
    assert online(home) == expected
    empty(home)
    windows = [(tick - timedelta(hours=1), tick) for tick in known] * 2
    random.Random(0).shuffle(windows)
    for start, end in windows:
        feature_store.materialize(home, spec, start, end)
    assert online(home) == expected


def test_14_a_time_in_the_future_is_refused_and_forgotten(home):
    def intervals():
        store = feature_store.open_store(home)
        return {name: store.get_feature_view(name).materialization_intervals for name in spec.entities}

    expected, before = online(home), intervals()
    with pytest.raises(RefusedError, match="in the future; use an earlier end"):
        feature_store.materialize(home, spec, ticks(home)[0], datetime.now(UTC) + timedelta(days=1))
    assert (online(home), intervals()) == (expected, before)


def test_16_killed_in_its_middle_and_run_twice_more_the_store_is_the_same(home):
    expected, known = online(home), ticks(home)
    empty(home)
    killed = python(KILLED.format(start=known[0].isoformat(), end=known[-1].isoformat()))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert online(home) != expected
    for _ in range(2):
        feature_store.materialize(home, spec, known[0], known[-1])
        assert online(home) == expected
