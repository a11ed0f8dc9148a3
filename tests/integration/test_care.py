"""Backup, restore, doctor and the copying of a version between two homes, on a home that the real flows have made."""

import json
import os
import sqlite3
import tarfile
from pathlib import Path

import pytest
from training_parts import champion, copy_home, history, numbers, opened, trained

from flows import database
from flows.errors import RefusedError, TamperedError, UsageError
from flows.lookup import load_model
from flows.settings import Settings
from flows.steps import feature_store, home_health, promotion, registry, status, transfer
from flows.steps.backup import backup, restore
from flows.steps.doctor import examine
from flows.steps.files import sha256_of
from flows.steps.finding import Finding


@pytest.fixture(scope="module")
def original(tmp_path_factory, simulated_days, prefect_api):
    """Return the folder of the home with version 1, which nobody changes."""
    return trained(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)


@pytest.fixture
def copied(original, tmp_path, prefect_api):
    """Return a home like it, opened, whose stores may be changed."""
    with opened(tmp_path / "home", prefect_api) as settings:
        copy_home(original, settings)
        yield settings


@pytest.fixture
def elsewhere(original, tmp_path, prefect_api):
    """Return the original, opened, and a home made of its backup at another place."""
    with opened(original, prefect_api) as settings:
        backup(settings, tmp_path / "backup.tar")
        there = Settings(home=tmp_path / "restored")
        restore(there, tmp_path / "backup.tar")
        yield settings, there


def bad(findings: list[Finding]) -> dict[str, Finding]:
    return {one.part: one for one in findings if one.state != "good"}


def spec_of(settings):
    return load_model("taxi", settings)


def test_a_restored_home_holds_all_and_names_nothing_of_the_old_one(elsewhere):
    old, new = elsewhere
    assert history(new) == history(old)
    assert numbers(new) == numbers(old)
    assert {"accepted"} == {one["status"] for one in _rows(new, "partitions")}
    for name in ("ledger.db", "mlflow.db"):
        with sqlite3.connect(new.home / name) as connection:
            assert not [row for row in connection.iterdump() if f"{old.home}/" in row]
    version = registry.get_version(new, "taxi", 1)
    assert Path(version.folder).is_relative_to(new.home)
    assert promotion.check(new, version)["failed"] == []
    assert bad(examine(new, spec_of(new))) == {}


def test_a_restored_home_is_open_to_whom_the_user_lets_read(tmp_path, restored_environment):
    home = Settings(home=tmp_path / "home").activate()
    database.connect(home).dispose()
    backup(home, tmp_path / "backup.tar")
    before = os.umask(0o077)
    try:
        for mask in (0o077, 0o027):
            os.umask(mask)
            there = Settings(home=tmp_path / f"restored-{mask:o}")
            restore(there, tmp_path / "backup.tar")
            assert there.home.stat().st_mode & 0o777 == 0o777 & ~mask
    finally:
        os.umask(before)


def _rows(settings, table):
    with database.connect(settings).connect() as connection:
        return connection.exec_driver_sql(f"SELECT * FROM {table}").mappings().all()


def test_a_backup_is_whole_while_others_write(copied, tmp_path):
    with sqlite3.connect(copied.home / "ledger.db", isolation_level=None) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM promotions")
        backup(copied, tmp_path / "backup.tar.gz")
        writer.execute("ROLLBACK")
    there = Settings(home=tmp_path / "there")
    restore(there, tmp_path / "backup.tar.gz")
    assert champion(there) == 1


def test_a_damaged_backup_leaves_no_home(copied, tmp_path):
    backup(copied, tmp_path / "good.tar")
    with tarfile.open(tmp_path / "good.tar") as good, tarfile.open(tmp_path / "bad.tar", "w") as other:
        for member in good.getmembers():
            content = good.extractfile(member).read()
            if member.name == "ledger.db":
                content = content[:-1] + bytes([content[-1] ^ 1])
            (tmp_path / "member").write_bytes(content)
            other.add(tmp_path / "member", member.name)
    there = Settings(home=tmp_path / "there")
    with pytest.raises(TamperedError, match=r"ledger\.db is not what was backed up"):
        restore(there, tmp_path / "bad.tar")
    (tmp_path / "half.tar").write_bytes((tmp_path / "good.tar").read_bytes()[:5000])
    with pytest.raises(UsageError, match="not a whole backup"):
        restore(there, tmp_path / "half.tar")
    assert not there.home.exists()


def test_a_home_in_use_is_never_overwritten(copied, tmp_path):
    backup(copied, tmp_path / "backup.tar")
    with pytest.raises(RefusedError, match="not empty"):
        restore(copied, tmp_path / "backup.tar")
    assert champion(copied) == 1


def test_a_backup_cannot_write_outside_the_home(copied, tmp_path):
    backup(copied, tmp_path / "backup.tar")
    (tmp_path / "bad").write_text("bad")
    with tarfile.open(tmp_path / "backup.tar", "a") as archive:
        archive.add(tmp_path / "bad", "../../escaped")
    with pytest.raises(UsageError, match="not a whole backup"):
        restore(Settings(home=tmp_path / "a" / "b" / "there"), tmp_path / "backup.tar")
    assert not list(tmp_path.rglob("escaped"))


def test_the_doctor_finds_a_champion_that_was_deleted_in_mlflow(copied):
    registry.open_client(copied).delete_model_version("taxi", "1")
    found = bad(examine(copied, spec_of(copied)))
    assert "deleted in MLflow" in found["champion"].found
    assert "promote" in found["champion"].mend


def test_the_doctor_finds_files_that_are_gone_or_changed_and_offers_an_intact_copy(elsewhere):
    _, home = elsewhere
    version = registry.get_version(home, "taxi", 1)
    model = Path(version.folder) / "model.skops"
    copy = home.cache / "taxi" / version.digest
    copy.mkdir(parents=True)
    for file in Path(version.folder).glob("*"):
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    content = bytearray(model.read_bytes())
    content[100] ^= 1
    model.write_bytes(content)
    found = bad(examine(home, spec_of(home)))
    assert "is not the recorded file" in found["champion"].found
    assert str(copy) in found["champion"].mend


def test_the_doctor_finds_an_alias_and_a_lake_that_do_not_fit_the_ledger(copied):
    registry.open_client(copied).delete_registered_model_alias("taxi", "champion")
    with sqlite3.connect(copied.home / "ledger.db") as connection:
        connection.execute("UPDATE partitions SET uri = uri || '.gone' WHERE id = 1")
    found = bad(examine(copied, spec_of(copied)))
    assert "evergreen status" in found["MLflow alias"].mend
    assert "1 of" in found["lake"].found
    assert registry.aliases(copied, "taxi") == {}  # it only looked


def test_a_ledger_that_was_deleted_is_told_by_doctor_and_status(copied):
    for file in copied.home.glob("ledger.db*"):
        file.unlink()
    engine = database.connect(copied)
    assert "names version 1" in status.status(copied, spec_of(copied), engine)["alias"]
    found = bad(examine(copied, spec_of(copied)))
    assert "evergreen promote 1" in found["champion"].mend


def test_the_doctor_finds_a_part_that_does_not_answer(copied):
    away = Settings(home=copied.home, mlflow_tracking_uri="http://127.0.0.1:1", service_host="0.0.0.0")
    found = bad(examine(away, spec_of(away)))
    assert found["MLflow"].state == "bad"
    assert "EVERGREEN_SERVICE_API_KEY" in found["service"].mend


def test_a_home_that_cannot_be_written_to_is_never_called_writable(tmp_path, monkeypatch, restored_environment):
    settings = Settings(home=tmp_path)
    monkeypatch.setattr(home_health, "_write_problem", lambda _folder: "Read-only file system")
    found = [one for one in examine(settings, spec_of(settings)) if one.part == "home"]
    assert [one.state for one in found] == ["bad"]
    assert "Read-only file system" in found[0].found


def test_a_feature_store_in_which_nothing_is_registered_yet_is_no_fault(tmp_path, restored_environment):
    settings = Settings(home=tmp_path)
    feature_store.open_store(settings)
    found = {one.part: one for one in examine(settings, spec_of(settings))}
    assert found["feature store"].state == "warning"
    assert "evergreen featurize" in found["feature store"].mend


def test_the_doctor_makes_nothing(tmp_path, restored_environment):
    settings = Settings(home=tmp_path / "none")
    found = examine(settings, spec_of(settings))
    assert {one.state for one in found} <= {"good", "warning"}
    assert not settings.home.exists()


def test_a_version_is_copied_with_its_lineage_and_the_same_bytes(elsewhere, tmp_path):
    source, _ = elsewhere
    target = Settings(home=tmp_path / "prod")
    made = transfer.copy_version(source, target, spec_of(source), 1)
    sent = registry.get_version(source, "taxi", 1)
    assert (made.digest, made.fingerprint, made.evidence_digest) == (
        sent.digest,
        sent.fingerprint,
        sent.evidence_digest,
    )
    assert made.run_id != sent.run_id
    assert sha256_of(Path(made.folder) / "model.skops") == sha256_of(Path(sent.folder) / "model.skops")
    records = [
        registry.open_client(one).download_artifacts(v.run_id, "lineage.json")
        for one, v in ((source, sent), (target, made))
    ]
    assert json.loads(Path(records[0]).read_text()) == json.loads(Path(records[1]).read_text())
    assert champion(target) is None
    again = transfer.copy_version(source, target, spec_of(source), 1)
    assert (again.version, again.run_id) == (made.version, made.run_id)
    assert not list(target.home.glob("transfer-*"))


def test_an_altered_version_is_not_copied(elsewhere, tmp_path):
    _, source = elsewhere
    model = Path(registry.get_version(source, "taxi", 1).folder) / "model.skops"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    target = Settings(home=tmp_path / "prod")
    with pytest.raises(RefusedError, match="not the recorded file"):
        transfer.copy_version(source, target, spec_of(source), 1)
    assert not (target.home / "mlflow.db").exists()


def test_a_champion_that_the_source_never_saw_is_not_replaced_unasked(elsewhere, tmp_path):
    source, other = elsewhere
    with sqlite3.connect(other.home / "ledger.db") as connection:
        connection.execute("UPDATE promotions SET digest = ?", ("0" * 64,))
    engines = database.connect(source), database.connect(other)
    with pytest.raises(RefusedError, match="never served in the source"):
        transfer.refuse_incomparable(*engines, "taxi")
    transfer.refuse_incomparable(engines[1], engines[1], "taxi")


def test_a_reviewer_reads_of_a_candidate_beside_its_champion(copied, tmp_path):
    from flows.steps.candidate import write_report

    version = registry.get_version(copied, "taxi", 1)
    page = write_report(
        copied, spec_of(copied), database.connect(copied), version.run_id, tmp_path / "report"
    ).read_text()
    gates = promotion.check(copied, version)["gates"]
    assert "passes every gate" in page
    assert page.count("| passed |") == len(gates)
    assert "xychart-beta" in page
    assert len(list((tmp_path / "report" / "candidate").glob("*.png"))) >= 2
    evidence = registry.read_evidence(version) | {"failed": ["champion"], "champion_error": 4.0}
    from flows.steps.candidate import comment

    assert "refused by champion" in comment(spec_of(copied), evidence)


def test_code_that_is_older_than_the_ledger_goes_on_with_it(copied):
    with sqlite3.connect(copied.home / "ledger.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert champion(copied) == 1
    assert "deliver the newer" in bad(examine(copied, spec_of(copied)))["ledger"].mend
