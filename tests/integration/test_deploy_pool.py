"""`evergreen deploy` on a server whose work pool is there already."""

import pytest
from training_parts import opened

from deployments import declared
from deployments.deploy import deploy
from flows.errors import UsageError


def test_a_work_pool_of_another_type_is_told_and_left(tmp_path, prefect_api, monkeypatch):
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    monkeypatch.setattr(declared, "POOL", "of-another-type")
    with opened(tmp_path / "home", prefect_api) as settings, get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="of-another-type", type="docker"))
        with pytest.raises(UsageError, match="is one of type docker, not process: set EVERGREEN_WORK_POOL_TYPE=docker"):
            deploy(settings)
        assert client.read_work_pool("of-another-type").type == "docker"
