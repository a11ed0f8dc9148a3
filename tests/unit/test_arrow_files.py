"""Files: the same rows are the same Arrow file, however they lie in memory; who may read a new file."""

import os
import stat

import numpy as np
import pyarrow as pa
from pyarrow import feather

from flows.steps.files import ARROW_ROWS, sha256_of, write_arrow, write_text


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
