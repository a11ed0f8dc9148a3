"""Files: the same rows are the same Arrow file, however they lie in memory; who may read a new file."""

import os
import stat
import time

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather

from flows.steps.files import (
    ARROW_ROWS,
    LEFT_SECONDS,
    is_whole_parquet,
    replacing,
    scratch,
    scratch_folder,
    sha256_of,
    write_arrow,
    write_parquet,
    write_text,
)  # fmt: skip


def column(beneath: float) -> pa.Array:
    """Return numbers of which every third is null, with something beneath the nulls."""
    rows = 2 * ARROW_ROWS + 7
    null = np.arange(rows) % 3 == 0
    bits = np.packbits(~null, bitorder="little").tobytes()
    values = np.where(null, beneath, np.arange(rows, dtype=float))
    return pa.Array.from_buffers(pa.float64(), rows, [pa.py_buffer(bits), pa.py_buffer(values.tobytes())])


def test_neither_chunks_nor_what_lies_beneath_nulls_changes_the_bytes(tmp_path):
    names = pa.array([None if row % 5 == 0 else str(row % 11) for row in range(len(column(0)))])
    whole = pa.table({"number": column(0.0), "name": names})
    cut = pa.concat_tables([one := pa.table({"number": column(9.9), "name": names}).slice(0, 1001), whole.slice(1001)])
    assert one.num_rows == 1001
    digests = {sha256_of(write_arrow(table, tmp_path / "file.arrow")) for table in (whole, cut)}
    assert len(digests) == 1
    assert feather.read_table(tmp_path / "file.arrow").equals(whole.combine_chunks())


def test_a_file_may_be_read_by_whom_the_process_lets_read_its_files(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "group.txt", "x")
        os.umask(0o077)
        write_text(tmp_path / "mine.txt", "x")
    finally:
        os.umask(before)
    assert [oct((tmp_path / name).stat().st_mode & 0o777) for name in ("group.txt", "mine.txt")] == ["0o640", "0o600"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["group.txt", "mine.txt"]


def test_a_file_is_synced_before_it_has_its_name_and_its_folder_after(tmp_path, monkeypatch):
    synced = []

    def sync(handle):
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        synced.append((is_folder, (tmp_path / "file.txt").exists()))

    monkeypatch.setattr(os, "fsync", sync)
    write_text(tmp_path / "file.txt", "text")
    assert synced == [(False, False), (True, True)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_write_that_breaks_off_leaves_the_former_file_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "folder" / "file.txt"

    def break_off():
        with replacing(path) as temporary:
            temporary.write_text("half of it")
            raise error

    for former in (None, "former"):
        with pytest.raises(error):
            break_off()
        assert [one.name for one in path.parent.iterdir()] == ([] if former is None else ["file.txt"])
        write_text(path, "former")
    assert path.read_text() == "former"


def test_a_parquet_file_that_was_cut_off_at_either_end_is_not_whole(tmp_path):
    path = write_parquet(pa.table({"x": [1]}), tmp_path / "x.parquet")
    whole = path.read_bytes()
    assert is_whole_parquet(path)
    for cut in (whole[:-1], whole[1:], whole[:-4], b"", b"PAR1", b"PAR1PAR1", b"PAR" + whole, whole + b"1"):
        path.write_bytes(cut)
        assert not is_whole_parquet(path), cut[:8]
    path.write_bytes(b"PAR1\0\0\0\0PAR1")
    assert is_whole_parquet(path)


def test_only_what_nobody_has_written_to_for_a_day_is_cleared_from_scratch(tmp_path):
    place = scratch_folder(tmp_path)
    long_ago, lately = time.time() - LEFT_SECONDS - 60, time.time() - LEFT_SECONDS + 60
    for name, folder, file in (("old", long_ago, long_ago), ("used", long_ago, lately), ("young", lately, long_ago)):
        (place / name / "deep").mkdir(parents=True)
        (place / name / "deep" / "rows").write_text("x")
        os.utime(place / name / "deep" / "rows", (file, file))
        os.utime(place / name / "deep", (long_ago, long_ago))
        os.utime(place / name, (folder, folder))
    with scratch(tmp_path, "work") as own:
        assert own.parent == place
        assert sorted(one.name for one in place.iterdir()) == sorted(["used", "young", own.name])
        (own / "rows").write_text("x")
    assert sorted(one.name for one in place.iterdir()) == ["used", "young"]
