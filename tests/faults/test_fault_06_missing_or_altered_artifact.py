"""Fault 6: somebody promotes a version whose files are missing or altered, or that nobody has judged.

MLflow registers all of them: it neither looks at the source nor at who made it.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from training_parts import copy_home, log_again, opened, state, trained

from flows.errors import RefusedError
from flows.steps import registry
from flows.steps.files import sha256_of

EVERGREEN = Path(sys.executable).parent / "evergreen"


@pytest.fixture(scope="module")
def home(tmp_path_factory, simulated_days, prefect_api):
    source = trained(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)
    with opened(tmp_path_factory.mktemp("refused") / "home", prefect_api) as settings:
        copy_home(source, settings)
        yield settings


def register_by_hand(home, folder, tags=None, run_id=None) -> int:
    """Register a copy of version 1's bundle as anybody can, and return the version's number."""
    first = registry.get_version(home, "taxi", 1)
    if folder.parent.exists():
        shutil.copytree(first.folder, folder)
    client = registry.open_client(home)
    made = client.create_model_version(
        "taxi", source=str(folder), run_id=first.run_id if run_id is None else run_id,
        tags={
            registry.DIGEST: first.digest, registry.REASON: "by hand", registry.EVIDENCE_DIGEST: first.evidence_digest,
        } if tags is None else tags,
    )  # fmt: skip
    return int(made.version)


def alter_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_evidence(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def gate_failed(path: Path) -> None:
    gates = json.loads(path.read_text())["gates"]
    change_evidence(path, gates=[gates[0] | {"passed": False}, *gates[1:]])


ALTERED = {
    "a byte of the model": ("model.skops", alter_a_byte, r"model\.skops is not the recorded file"),
    "a byte of the manifest": ("serving.json", alter_a_byte, r"serving\.json is not the recorded file"),
    "no model": ("model.skops", Path.unlink, r"model\.skops is missing"),
    "no manifest": ("serving.json", Path.unlink, r"serving\.json is missing"),
    "no evidence": ("evidence.json", Path.unlink, r"evidence\.json in .* cannot be read"),
    "other evidence": ("evidence.json", lambda path: change_evidence(path, error=1.0), "is not what was registered"),
    "evidence with a space more": ("evidence.json", lambda path: path.write_text(path.read_text() + " "), "not what was"),
}  # fmt: skip
SPEAKS_AGAINST = {
    "failure": (lambda path: change_evidence(path, failed=["champion", "slices"]), "failed its gates: champion, slices"),
    "it contradicts itself": (gate_failed, "failed its gates: baseline"),
    "no gates": (lambda path: path.write_text('{"failed": []}'), "no record of its gates"),
    "something else": (lambda path: path.write_text("[]"), "cannot be read"),
}  # fmt: skip


def refuse(home, version: int, reason: str) -> None:
    """Promote a version and see that it is refused with the reason, and that nothing has changed."""
    from flows.promote import promote

    before = state(home)
    with pytest.raises(RefusedError, match=reason) as refusal:
        promote(version=version)
    assert f"taxi version {version}" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert state(home) == before


@pytest.mark.parametrize("case", ALTERED)
def test_a_version_with_altered_or_missing_files_is_refused_with_the_reason(home, tmp_path, case):
    name, alter, reason = ALTERED[case]
    version = register_by_hand(home, tmp_path / "bundle")
    alter(tmp_path / "bundle" / name)
    refuse(home, version, reason)


@pytest.mark.parametrize("case", SPEAKS_AGAINST)
def test_a_version_whose_registered_evidence_does_not_speak_for_it_is_refused(home, tmp_path, case):
    alter, reason = SPEAKS_AGAINST[case]
    version = register_by_hand(home, tmp_path / "bundle")
    alter(tmp_path / "bundle" / "evidence.json")
    digest = sha256_of(tmp_path / "bundle" / "evidence.json")
    registry.open_client(home).set_model_version_tag("taxi", str(version), registry.EVIDENCE_DIGEST, digest)
    refuse(home, version, reason)


def test_a_version_whose_source_does_not_exist_is_refused(home, tmp_path):
    refuse(home, register_by_hand(home, tmp_path / "nowhere" / "bundle"), "cannot be read")


def test_a_version_that_evergreen_did_not_register_is_refused(home, tmp_path):
    refuse(home, register_by_hand(home, tmp_path / "bundle", tags={}), "not made by `evergreen train`")


def test_a_version_of_a_run_that_never_finished_or_does_not_exist_is_refused(home, tmp_path):
    client = registry.open_client(home)
    running = client.create_run(client.get_experiment_by_name("taxi").experiment_id).info.run_id
    refuse(home, register_by_hand(home, tmp_path / "running", run_id=running), "run is running, not finished")
    client.set_terminated(running, "FAILED")
    refuse(home, register_by_hand(home, tmp_path / "failed", run_id=running), "run is failed, not finished")
    refuse(home, register_by_hand(home, tmp_path / "gone", run_id="0" * 32), "run is gone, not finished")


def test_the_newest_challenger_is_checked_like_a_version_that_was_named(home, tmp_path):
    from flows.promote import promote

    newest = log_again(home, tmp_path)
    alter_a_byte(Path(newest.folder) / "model.skops")
    before = state(home)
    with pytest.raises(RefusedError, match=rf"taxi version {newest.version} cannot be promoted: .*model\.skops"):
        promote()
    assert state(home) == before


def test_the_command_says_so_in_one_line_and_ends_with_1(home, tmp_path):
    version = register_by_hand(home, tmp_path / "bundle")
    alter_a_byte(tmp_path / "bundle" / "model.skops")
    before = state(home)
    done = subprocess.run(
        [EVERGREEN, "promote", str(version)], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"evergreen: taxi version {version} cannot be promoted: ")
    assert done.stdout == ""
    assert state(home) == before
