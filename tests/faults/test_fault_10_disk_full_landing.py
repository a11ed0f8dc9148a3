"""Fault 10, landing: where the disk takes no more, landing fails in one clear line, and nothing is torn or lost."""

import subprocess
import sys
from pathlib import Path

import pytest
from ingest_parts import Place, clean_day, write

from flows import ledger

# A limit on the size of any file that the process writes stands for the full disk: the kernel refuses the write.
CHILD = """
import resource, signal, sys
sys.path[:0] = sys.argv[5:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
from ingest_parts import Place
from flows.errors import UnavailableError
from flows.steps import judging, landing
place = Place(Path(sys.argv[1]))
stage, limit = sys.argv[3], int(sys.argv[4])
def full():
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
if stage == "land":
    full()
else:
    before = judging.judge
    def judge(bench, partition):
        full()
        return before(bench, partition)
    judging.judge = judge
try:
    place.ingest(sys.argv[2])
except UnavailableError as error:
    print("UNAVAILABLE", error)
    raise SystemExit(1)
"""


@pytest.mark.parametrize("stage", ["land", "judge"])
def test_landing_on_a_full_disk_fails_cleanly_and_is_finished_later(tmp_path, stage):
    here = Place(tmp_path / "home")
    days = [write(clean_day(trips=20_000), tmp_path / "day.parquet")]
    size = days[0].stat().st_size
    root = Path(__file__).resolve().parents[2]
    options = [str(tmp_path / "home"), str(days[0]), stage, str(size // 3), str(root), str(root / "tests")]
    command = [sys.executable, "-c", CHILD, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("UNAVAILABLE")
    assert "free some" in done.stdout
    assert done.stdout.count("\n") == 1
    partitions = ledger.list_partitions(here.engine, "taxi")
    assert [partition.status for partition in partitions] == ([] if stage == "land" else ["landed"])
    left = [path.name for path in here.settings.lake("taxi").rglob("*") if path.is_file()]
    assert len(left) == len(partitions)  # the raw file of what has landed, and nothing half
    (partition,) = here.ingest(days[0])
    assert (partition.status, partition.revision) == ("accepted", 1)
