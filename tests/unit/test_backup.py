"""A backup holds what was there when it began, though files take each other's place while it is written."""

import sqlite3
from contextlib import closing

from flows.settings import Settings
from flows.steps import backup


def test_a_journal_that_is_folded_meanwhile_is_in_the_backup_as_parquet(tmp_path, monkeypatch):
    home, there = Settings(home=tmp_path / "home"), Settings(home=tmp_path / "there")
    journal = home.predictions("taxi") / "journal" / "2024-01-01T00.1.0.jsonl"
    folded = home.predictions("taxi") / "hours" / "2024-01-01" / "00" / "2024-01-01T00.1.0.parquet"
    first = home.home / "artifacts" / "model.skops"
    for path in (journal, folded, first):
        path.parent.mkdir(parents=True)
    first.touch()
    journal.write_text("an answer")
    with closing(sqlite3.connect(home.home / "ledger.db")) as ledger:
        ledger.execute("CREATE TABLE rows (n)")
    add = backup._add

    def folds(archive, path, name):
        if path == first:
            journal.rename(folded)
        return add(archive, path, name)

    monkeypatch.setattr(backup, "_add", folds)
    backup.backup(home, tmp_path / "backup.tar")
    backup.restore(there, tmp_path / "backup.tar")
    assert (there.home / folded.relative_to(home.home)).read_text() == "an answer"
