"""The demo's steps for any model, on its own history: its past lands first, its newest periods come while it serves."""

from __future__ import annotations

import os
import threading
from typing import Any

from flows.demo_steps import NEEDS, Stage, Step

REQUESTS = 2000


def start_server(stage: Stage) -> tuple[bool, str]:
    """Start the Prefect server; meanwhile part the history."""
    from flows.steps import history
    from flows.steps.prefect_server import prefect_server

    os.environ.pop("PREFECT_API_URL", None)  # the demo has a server of its own
    failed: list[Exception] = []

    def prepare() -> None:
        try:
            folder = stage.settings.home / "source"
            stage.known["history"] = history.part(stage.spec, stage.settings, stage.data, folder)
        except Exception as error:  # noqa: BLE001 (raised below, where it is shown)
            failed.append(error)

    meanwhile = threading.Thread(target=prepare, daemon=True)
    meanwhile.start()
    url = stage.stack.enter_context(prefect_server(stage.settings, NEEDS))
    from flows.runs import settle

    stage.stack.callback(settle)
    meanwhile.join()
    if failed:
        raise failed[0]
    parts = stage.known["history"]
    return True, (
        f"{url.removesuffix('/api')} answers; {parts.past_rows} rows before {parts.since}, {parts.newest_rows} from it on"
    )


def land(stage: Stage) -> tuple[bool, str]:
    """Land all but the newest periods."""
    from flows.ingest import ingest

    return _landed(ingest(source=str(stage.known["history"].past), model=stage.spec.name))


def _landed(found: list[dict[str, Any]]) -> tuple[bool, str]:
    accepted = [one for one in found if one["status"] == "accepted"]
    refused = [one for one in found if one["status"] == "quarantined"]
    why = "".join(f"; {one['key']} quarantined: {(one['reasons'] or ['?'])[0]}" for one in refused[:2])
    return bool(accepted), f"{len(accepted)} of {len(found)} partitions accepted{why}"


def compute_features(stage: Stage) -> tuple[bool, str]:
    """Compute, register and materialize features."""
    from flows.featurize import featurize

    found = featurize(model=stage.spec.name)
    rows = found["rows"]
    return bool(rows) and min(
        rows.values()
    ) > 0, f"{sum(rows.values())} values of {len(rows)} views at {found['ticks']} times"


def train_first(stage: Stage) -> tuple[bool, str]:
    """Train, judge and promote version 1."""
    from flows.train import train

    found = train(model=stage.spec.name, reason="first training")
    name = stage.spec.metric.error
    text = f"{name} {found['error']:.4g} on the newest {found['judge_rows']} rows, naive {found['baseline_error']:.4g}"
    refused = ""
    if found["failed"]:
        refused = (
            f"; refused by {', '.join(found['failed'])}: see what `evergreen new` warned of, improve {stage.spec.estimator} "
            "or the features, or loosen spec.gates"
        )
    made = f"version {found['version']}" if found["version"] else "no version"
    return found["version"] == 1 and found["promoted"], f"{made}: {text}{refused}"


def serve(stage: Stage) -> tuple[bool, str]:
    """Start the service and predict the newest periods over HTTP."""
    from flows.steps import history, serving
    from flows.steps.processes import stop

    stage.service = serving.start(stage.settings, stage.spec.name)
    stage.stack.callback(stop, stage.service)
    stage.url = (serving.find(stage.settings, stage.spec.name) or {})["url"]
    rows = history.requests(stage.spec, stage.known["history"].newest, REQUESTS)
    rows = rows or [{field.name: field.example for field in stage.spec.request}]
    answers = [
        one
        for start in range(0, len(rows), 500)
        for one in serving.predict(stage.url, rows[start : start + 500])["predictions"]
    ]
    unknown = sum(bool(one["unknown"]) for one in answers)
    first = answers[0]["prediction"]
    shown = f"{first:.4g}" if isinstance(first, float) else str(first)
    return len(answers) == len(
        rows
    ), f"{stage.url}: {len(answers)} rows answered, the first with {shown}; {unknown} without a past"


def follow(stage: Stage) -> tuple[bool, str]:
    """Land the newest periods, look at what became of the predictions, and train again."""
    from flows.featurize import featurize
    from flows.ingest import ingest
    from flows.monitor import monitor
    from flows.steps import serving
    from flows.train import train

    name = stage.spec.name
    ok, landed = _landed(ingest(source=str(stage.known["history"].newest), model=name))
    if not ok:
        return False, landed
    featurize(model=name)
    measured = monitor(model=name, retrain=False)["performance"]
    found = train(model=name, reason="the newest periods have landed")
    stage.known["second"] = found["promoted"]
    text = f"{landed}; {measured['labelled']} labels arrived, {measured['metric']} {measured['error']:.4g}; "
    if not found["promoted"]:  # a version that is no better is refused, and rightly
        return bool(found["failed"]), f"{text}version 2 refused by {', '.join(found['failed'])}: version 1 serves on"
    seen = serving.first_answer(stage.url, 2, 10.0)
    return (
        seen is not None,
        f"{text}version 2: error {found['error']:.4g}, version 1 {found['champion_error']:.4g}; it serves",
    )


def refuse(stage: Stage) -> tuple[bool, str]:
    """Train with an estimator that has learned nothing."""
    from flows.steps import serving
    from flows.train import train

    version = 2 if stage.known["second"] else 1
    kind = "number" if stage.spec.task == "regression" else "classes"
    found = train(model=stage.spec.name, reason="a careless change", estimator=f"flows.models.careless:{kind}")
    still = serving.first_answer(stage.url, version, 2.0)
    ok = "baseline" in found["failed"] and not found["promoted"] and still is not None
    return ok, f"refused by: {', '.join(found['failed']) or 'no gate'}; version {version} goes on serving"


def roll_back(stage: Stage) -> tuple[bool, str]:
    """Roll back to version 1; where nothing came after it, see that this is refused."""
    from flows.errors import RefusedError
    from flows.promote import rollback
    from flows.steps import serving

    if not stage.known["second"]:
        try:
            rollback(model=stage.spec.name, why="demo")
        except RefusedError as error:
            return True, f"refused, as only one version ever served: {error}"
        return False, "rolled back to a version that never served"
    made = rollback(model=stage.spec.name, why="demo")
    seen = serving.first_answer(stage.url, 1, 10.0)
    return made["version"] == 1 and seen is not None, "version 1 answers again"


STEPS: list[tuple[str, str, Step]] = [
    ("server", "a Prefect server of the demo's own, the history parted", start_server),
    ("land", "all but the newest periods land and are judged", land),
    ("features", "features computed, registered and materialized", compute_features),
    ("train", "version 1 passes every gate and is promoted", train_first),
    ("serve", "the service answers for the newest periods over HTTP", serve),
    ("follow", "the newest periods land; version 2 passes and serves, or is refused for a reason", follow),
    ("refuse", "an estimator that has learned nothing is refused by its gates", refuse),
    ("rollback", "back to version 1, or refused where there is nothing to go back to", roll_back),
]
