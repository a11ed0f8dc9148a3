"""What our online stores refuse, and what they leave undone, to keep their promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from feast import RepoConfig
from feast.protos.feast.types.Value_pb2 import Value
from online_cases import NOT_FOUND, REDIS, SQLITE, apply_views, hour, key_of, open_online, read
from pydantic import ValidationError


def test_a_write_that_breaks_off_leaves_nothing_of_its_batch(tmp_path: Path) -> None:
    """On SQLite, where a batch is one transaction."""
    store = open_online(tmp_path, SQLITE, {"path": str(tmp_path / "online.db")})
    apply_views(store)
    good = (
        key_of(7),
        {"trips": Value(int64_val=1)},
        hour(1),
        None,
    )
    broken = (good[0], {"trips": "no value"}, hour(2), None)
    with pytest.raises(AttributeError):
        store._get_provider().online_write_batch(
            store.config, store.get_feature_view("past"), [good, broken], None
        )  # fmt: skip
    assert read(store, [7]) == [(None, None, 0, NOT_FOUND)]


@pytest.mark.parametrize(
    ("kind", "option"),
    [(SQLITE, "vector_enabled"), (SQLITE, "enable_openai_compatible_store"), (REDIS, "skip_dedup")],
)
def test_options_that_the_guard_cannot_keep_are_refused(tmp_path: Path, kind: str, option: str) -> None:
    with pytest.raises(ValidationError, match=option):
        RepoConfig(
            project="contract", provider="local", registry=str(tmp_path / "registry.db"),
            online_store={"type": kind, option: True}, entity_key_serialization_version=3,
        )  # fmt: skip


def test_the_sqlite_store_needs_no_redis() -> None:
    code = "import sys; sys.modules['redis'] = None; import feature_repo.online_store as o; o.NewestSqliteOnlineStore"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2], timeout=60)
