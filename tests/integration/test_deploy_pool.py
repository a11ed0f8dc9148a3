"""`evergreen deploy` on a server that has a work pool, or deployments, already."""

import os
import signal
import subprocess
import sys
import time

import pytest
from training_parts import opened

from deployments import declared
from deployments.deploy import deploy
from deployments.triggers import listing
from flows import database, show, terminal
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


def test_what_a_person_has_paused_stays_so(tmp_path, prefect_api):
    from prefect import get_client

    silent = "evergreen: silent runs have crashed"
    with opened(tmp_path / "home", prefect_api) as settings, get_client(sync_client=True) as client:
        assert deploy(settings)["paused"] == []
        client.pause_deployment(client.read_deployment_by_name("ingest/taxi").id)
        for name in ("taxi: staleness", silent):
            client.pause_automation(client.read_automations_by_name(name)[0].id)
        assert deploy(settings)["paused"] == ["ingest/taxi", "taxi: staleness"]
        assert client.read_deployment_by_name("ingest/taxi").paused
        monitor = client.read_deployment_by_name("monitor/taxi")
        client.update_deployment_schedule(monitor.id, monitor.schedules[0].id, active=False)
        listed = listing(database.connect(settings), "taxi", declared.read(), prefect_api)
        # Automations start a paused deployment all the same: the arrival of files is none of them.
        assert {one.name for one in listed if one.paused} == {
            "taxi: ingest hourly",
            "taxi: monitor daily",
            "taxi: staleness",
        }
        away = listing(database.connect(settings), "taxi", declared.read(), None)
        assert {one.paused for one in away} == {None}
        with terminal.console.capture() as captured:
            show.show_triggers([one.model_dump(mode="json") for one in listed])
        assert captured.get().count("paused") == 3
        for name, runs in (("taxi: staleness", False), (silent, False), ("taxi: performance", True)):
            (found,) = client.read_automations_by_name(name)
            assert found.enabled is runs, name


def test_what_a_person_has_paused_stays_so_when_deploying_is_ended(tmp_path, prefect_api, monkeypatch):
    from prefect import get_client

    from deployments import deploy as module

    real = module.subprocess.run

    def ended(*words, **options):
        real(*words, **options)
        raise KeyboardInterrupt

    with opened(tmp_path / "home", prefect_api) as settings, get_client(sync_client=True) as client:
        deploy(settings)
        (trigger,) = client.read_automations_by_name("taxi: performance")
        client.pause_automation(trigger.id)
        monkeypatch.setattr(module.subprocess, "run", ended)
        with pytest.raises(KeyboardInterrupt):
            deploy(settings)
        (found,) = client.read_automations_by_name("taxi: performance")
        assert not found.enabled
        client.resume_automation(found.id)


def test_what_a_person_has_paused_stays_so_when_the_stack_that_deploys_is_ended(tmp_path, prefect_api):
    """What `evergreen up` and `deliver` end gets SIGTERM, no Ctrl-C."""
    from prefect import get_client

    with opened(tmp_path / "home", prefect_api) as settings, get_client(sync_client=True) as client:
        deploy(settings)
        (trigger,) = client.read_automations_by_name("taxi: performance")
        client.pause_automation(trigger.id)
        words = [sys.executable, "-c", "from flows.cli import main; main()", "deploy"]
        environment = os.environ | settings.environment() | {"PREFECT_API_URL": prefect_api}
        process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
        while process.poll() is None:  # until Prefect's command has made it anew
            if any(one.enabled for one in client.read_automations_by_name("taxi: performance")):
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.02)
        assert process.wait(timeout=60) == 130
        (found,) = client.read_automations_by_name("taxi: performance")
        assert not found.enabled
        client.resume_automation(found.id)
