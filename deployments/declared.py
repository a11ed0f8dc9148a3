"""What deployments/prefect.yaml declares: its deployments, schedules and triggers, as plain data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from flows.events import Kind
from flows.spec import Frozen

PREFECT_YAML = Path(__file__).with_name("prefect.yaml")
POOL = "evergreen"
POOLS = Path(__file__).with_name("pools")  # base job templates, by type of the pool


class Trigger(Frozen):
    """One thing that starts a deployment: a cron schedule in its zone, events, or their absence for ``within`` seconds."""

    name: str
    deployment: str  # flow/name, as Prefect names it
    model: str
    kind: Kind
    how: Literal["cron", "event", "absence"]
    cron: str | None = None
    timezone: str | None = None
    after: tuple[str, ...] = ()
    expect: tuple[str, ...] = ()
    within: float | None = None
    parameters: dict[str, Any]


class Deployment(Frozen):
    """One deployment: the flow that it runs, as a dotted path, for a model."""

    name: str  # flow/name
    entrypoint: str
    model: str
    triggers: tuple[Trigger, ...]


def pool_template(kind: str) -> dict[str, Any]:
    """Return our base job template of a type of work pool; empty, so Prefect's own counts, where we have none."""
    path = POOLS / f"{kind}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def read(path: Path = PREFECT_YAML) -> list[Deployment]:
    """Return the deployments of the file, in its order."""
    import yaml

    content = yaml.safe_load(path.read_text())
    return [_deployment(one) for one in content["deployments"]]


def _deployment(found: dict[str, Any]) -> Deployment:
    flow = found["entrypoint"].rpartition(".")[2].replace("_", "-")  # as Prefect names a flow by its function
    parameters = found.get("parameters", {})
    name, model = f"{flow}/{found['name']}", parameters["model"]
    scheduled = [
        Trigger(
            name=f"{model}: {flow} {one['slug']}", deployment=name, model=model, kind="schedule", how="cron",
            cron=one["cron"], timezone=one["timezone"], parameters={**parameters, **one.get("parameters", {})},
        )
        for one in found.get("schedules", [])
    ]  # fmt: skip
    told = [
        Trigger(
            name=one["name"], deployment=name, model=model, kind=one["parameters"].get("trigger", "new data"),
            how="absence" if one.get("posture") == "Proactive" else "event", after=one.get("after", ()),
            expect=one["expect"], within=one.get("within"), parameters=one["parameters"],
        )
        for one in found.get("triggers", [])
    ]  # fmt: skip
    return Deployment(name=name, entrypoint=found["entrypoint"], model=model, triggers=(*scheduled, *told))
