"""The work pools for Docker and Kubernetes, as far as can be without an engine or a cluster: Prefect's own workers read them."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from services_parts import missing

from deployments import declared

pytestmark = pytest.mark.long

NEWEST, OLDEST = "1.37", "1.31"  # versions of Kubernetes whose schemas are asked


@pytest.fixture(autouse=True)
def workers() -> None:
    if find_spec("prefect_kubernetes") is None or find_spec("prefect_docker") is None:
        missing("Prefect's workers are not installed (uv run --extra pools pytest -m long)")


def prepared(configuration: Any, kind: str, values: dict[str, Any]) -> Any:
    """Return what a worker would start a flow run with, by its own code."""
    from prefect.client.schemas.objects import FlowRun

    made = asyncio.run(configuration.from_template_and_values(declared.pool_template(kind), values))
    made.prepare_for_flow_run(FlowRun(id=uuid4(), name="calm-owl", flow_id=uuid4()))
    return made


def test_kubernetes_takes_the_job_of_a_flow_run(prefect_api: str) -> None:
    import kubernetes_validate
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    made = prepared(KubernetesWorkerJobConfiguration, "kubernetes", {"image": "registry.example/train:1"})
    for version in (OLDEST, NEWEST):
        kubernetes_validate.validate(made.job_manifest, version, strict=True)
    (container,) = made.job_manifest["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["python", "-m", "prefect.engine"]
    assert container["image"] == "registry.example/train:1"
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment["EVERGREEN_HOME"] == "/data"
    assert "PREFECT__FLOW_RUN_ID" in environment
    broken = made.job_manifest | {"spec": made.job_manifest["spec"] | {"backoff": 0}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, NEWEST, strict=True)


def test_docker_takes_the_container_of_a_flow_run(prefect_api: str) -> None:
    from prefect_docker.worker import DockerWorkerJobConfiguration

    made = prepared(DockerWorkerJobConfiguration, "docker", {"networks": ["inside"]})
    assert made.image == "evergreen-train:latest"
    assert made.command == "python -m prefect.engine"
    assert made.networks == ["inside"]
    assert made.env["EVERGREEN_SECRETS_DIR"] == "/run/secrets/evergreen"
    assert "evergreen-home:/data" in made.volumes
    assert not made.privileged
    assert made.container_create_kwargs["cap_drop"] == ["ALL"]
    assert made.container_create_kwargs["read_only"]


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_prefect_server_takes_the_template_and_the_deployments_variables(kind: str, prefect_api: str) -> None:
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.utilities.templating import apply_values

    template = declared.pool_template(kind)
    with get_client(sync_client=True) as client:
        name = f"pool-{kind}-{uuid4().hex[:6]}"
        client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template))
        kept = client.read_work_pool(name).base_job_template
        client.delete_work_pool(name)
    assert kept == template
    assert "{{" not in str(apply_values(kept["job_configuration"], defaults(kept)))


def defaults(template: dict[str, Any]) -> dict[str, Any]:
    """Return a value of every variable of a template."""
    return {name: one.get("default", "x") for name, one in template["variables"]["properties"].items()}


def test_the_templates_are_part_of_the_installed_package() -> None:
    assert {path.name for path in Path(declared.POOLS).iterdir()} == {"docker.json", "kubernetes.json"}
