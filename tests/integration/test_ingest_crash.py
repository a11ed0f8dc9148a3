"""A crash at any point of ingest leaves a partition landed or not at all, and the next run finishes it."""

import subprocess
import sys
from pathlib import Path

import pytest
from ingest_parts import Place, clean_day, write

from flows import ledger

CHILD = """
import os, sys
sys.path[:0] = sys.argv[5:]
from pathlib import Path
from ingest_parts import Place
import importlib
place = Place(Path(sys.argv[1]))
module, name = importlib.import_module(sys.argv[3]), sys.argv[4]
def die(*arguments, **keywords):
    os._exit(9)  # as SIGKILL: nothing is cleaned up
setattr(module, name, die)
place.ingest(sys.argv[2])
"""


@pytest.mark.parametrize(
    ("module", "name", "landed"),
    [
        ("os", "fsync", False),  # a file is written, but has not its name yet
        ("flows.ledger", "add_partition", False),  # the raw rows have their name, the ledger does not know
        ("flows.steps.judging", "judge", True),  # landed, not judged
        ("flows.steps.judged_rows", "write_accepted", True),  # the rejected rows are written, the accepted are not
        ("flows.steps.docs", "write_page", True),  # both are
        ("flows.ledger", "decide_partition", True),  # all is there but the decision
    ],
)
def test_a_crash_is_made_good_by_the_next_run(tmp_path, module, name, landed):
    here = Place(tmp_path / "home")
    path = write(clean_day(), tmp_path / "day.parquet")
    root = Path(__file__).resolve().parents[2]
    command = [
        sys.executable,
        "-c",
        CHILD,
        str(tmp_path / "home"),
        str(path),
        module,
        name,
        str(root),
        str(root / "tests"),
    ]
    assert subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == 9
    statuses = [partition.status for partition in ledger.list_partitions(here.engine, "taxi")]
    assert statuses == (["landed"] if landed else [])
    (partition,) = here.ingest(path)
    assert (partition.status, partition.revision, partition.accepted_rows) == ("accepted", 1, partition.rows)
    assert ledger.list_partitions(here.engine, "taxi") == [partition]
    whole = [file for file in here.settings.lake("taxi").rglob("*.parquet") if not file.name.startswith(".")]
    assert {str(file) for file in whole} == {partition.uri, partition.accepted_uri}
