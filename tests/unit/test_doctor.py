"""What the doctor says of files that are not where the ledger names them."""

import pytest

from flows import database, ledger
from flows.lookup import load_model
from flows.settings import Settings
from flows.steps.doctor import examine


@pytest.mark.parametrize(("moved", "word"), [(True, "moved?"), (False, "ingest their source again")])
def test_files_that_are_gone_and_a_home_that_was_moved_are_told_apart(tmp_path, moved, word):
    first = Settings(home=tmp_path / "home")
    first.home.mkdir()
    engine = database.connect(first)
    landed = ledger.add_partition(
        engine, model="taxi", key="2024-01-01", digest="d", source="s", uri=str(first.home / "lake" / "gone.parquet"), rows=1
    )  # fmt: skip
    ledger.decide_partition(engine, landed.id, "accepted", accepted_uri=None, accepted_rows=1, rejected_rows=0)
    engine.dispose()
    settings = Settings(home=first.home.rename(tmp_path / "moved")) if moved else first
    (found,) = (one for one in examine(settings, load_model("taxi", settings)) if one.part == "lake")
    assert str(first.home / "lake") in found.found
    assert word in found.mend
