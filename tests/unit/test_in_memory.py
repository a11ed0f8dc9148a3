"""DuckDB in memory: what does not fit lies in a folder of its own, and what killed processes left goes."""

import os
import time
from pathlib import Path

from flows.steps import files
from flows.steps.files import scratch
from flows.steps.in_memory import connect

ROWS = 400_000
FILL = f"CREATE TABLE filled AS SELECT i, md5((i + $seed)::VARCHAR) AS text FROM range({ROWS}) t(i)"
CHECK = "SELECT count(*) FROM filled WHERE text = md5((i + $seed)::VARCHAR)"


def test_two_that_do_not_fit_into_memory_leave_each_other_alone(tmp_path):
    connections = [connect(tmp_path) for _ in range(2)]
    for seed, connection in enumerate(connections):
        connection.execute("SET memory_limit = '16MB'; SET threads = 1; SET preserve_insertion_order = false")
        connection.execute(FILL, {"seed": seed})
    assert len(list((tmp_path / "tmp").glob("*/duckdb_temp_*"))) > 1
    found = [one.execute(CHECK, {"seed": seed}).fetchone() for seed, one in enumerate(connections)]
    assert found == [(ROWS,), (ROWS,)]
    for one in connections:
        one.close()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_without_a_home_named_it_is_that_of_the_process_and_is_not_made(home, tmp_path, monkeypatch):
    def place():
        with connect() as connection:
            return connection.execute("SELECT current_setting('temp_directory')").fetchone()[0]

    assert place().startswith(f"{home.home}/tmp/duckdb-")
    assert place() != place()
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "none"))
    assert Path(place()).is_absolute()
    assert not (tmp_path / "none").exists()


def test_what_a_killed_process_left_is_removed_a_day_later(tmp_path):
    left, fresh, log = (tmp_path / "tmp" / name for name in ("source-left", "source-fresh", "spark.log"))
    for folder in (left, fresh):
        folder.mkdir(parents=True)
        (folder / "000000.csv").write_text("1")
    log.write_text("1")
    long_ago = time.time() - files.LEFT_SECONDS - 60
    for path in (left / "000000.csv", left, fresh, log):  # in the fresh one a file is still written
        os.utime(path, (long_ago, long_ago))
    with scratch(tmp_path, "source"):
        assert not left.exists()
        assert fresh.exists()
        assert log.exists()
