"""Delivery of a pipeline version to an installation: its own commands in order; what was there before comes back if one fails.

A version is a source tree (a checkout) or a train image; the ledger's runs of the flow ``deliver`` are its history.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy.engine import Engine

from flows import database, ledger, run_records
from flows.errors import ConflictError, EvergreenError, RefusedError, UsageError
from flows.ledger import Promotion
from flows.run_records import Run
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import left_over, processes, promotion
from flows.steps.left_over import CHAMPION_BEFORE
from flows.steps.left_over import DELIVER as FLOW

ROOT = Path(__file__).resolve().parents[1]
STEP_SECONDS = 1800.0
PASSED_ON = ("EVERGREEN_", "PREFECT_", "MLFLOW_", "AWS_")  # what of the environment a version in an image is told
APPLY = (["featurize"], ["deploy"])  # going back does this alone: it may take away what was added
PUT_BACK, CHAMPION = "takes_back", "new_champion"  # in a run's summary: it took one back; what its trial has promoted


def live(engine: Engine, model: str) -> Run | None:
    """Return the delivery in force: the newest that went through."""
    return run_records.last_completed(engine, model, FLOW)


def deliver(
    settings: Settings,
    spec: ModelSpec,
    source: str,
    version: str,
    why: str,
    *,
    trial: bool = True,
    passed_in: tuple[str, Engine] | None = None,
    smoke: Sequence[str] = (),
    allow_destructive: bool = False,
) -> dict[str, Any]:
    """Deliver a version and return what came of it; with ``trial`` it also trains and serves there, as staging does.

    ``passed_in`` names the place in which this very version must be the one in force. Raises RefusedError if it is not,
    or if a step fails: deployments, features and champion are then again those of the version before.
    """
    if passed_in is not None:
        place, theirs = passed_in
        there = live(theirs, spec.name)
        if there is None or there.summary.get("version") != version:
            found = there.summary.get("version") if there else "nothing"
            raise RefusedError(f"version {version} is not what passed in {place} ({found} is); deliver it there first")
    plan = ["plan", *(["--allow-destructive"] if allow_destructive else [])]
    trials = (["train", "--reason", f"trial of {version}"], ["smoke", *smoke]) if trial else ()
    with _alone(settings):
        return _change(settings, spec, source, version, why, (plan, *APPLY, *trials))


def standing(engine: Engine, model: str) -> list[list[Run]]:
    """Return the deliveries that stand, oldest first: of each version those that followed each other, none that was put back."""
    found: list[list[Run]] = []
    for run in reversed(run_records.newest(engine, model, None, FLOW)):
        if run.state != "completed":
            continue
        if run.summary.get(PUT_BACK):
            del found[-1:]
        elif found and _named(found[-1][0]) == _named(run):
            found[-1].append(run)
        else:
            found.append([run])
    return found


def back(settings: Settings, spec: ModelSpec, why: str) -> dict[str, Any]:
    """Put back the version that was in force before the one that is, and the champion that its trial has replaced.

    Two of them go back two versions. Raises RefusedError if there was none before.
    """
    engine = database.connect(settings)
    with _alone(settings):
        found = standing(engine, spec.name)
        if len(found) < 2:
            raise RefusedError(
                f"{settings.home}: no pipeline version was in force before this one; deliver one by its name"
            )
        before, now = found[-2:]
        version, source = _named(before[0])
        told = f"made by the trial of {_named(now[0])[0]}, which was put back: {why}"
        rollback = ["rollback", "--why", told]
        steps = (*APPLY, *[rollback] * _made_by(engine, spec, {run.summary.get(CHAMPION) for run in now}))
        return _change(settings, spec, source, version, why, steps, put_back=True)


def _made_by(engine: Engine, spec: ModelSpec, versions: set[int | None]) -> int:
    """Return how many promotions in a row, from the champion's on, made one of these versions and can be taken back."""
    return sum(1 for _ in takewhile(lambda one: one.version in versions, reversed(_standing(engine, spec)[1:])))


def _standing(engine: Engine, spec: ModelSpec) -> list[Promotion]:
    return promotion.standing(ledger.list_promotions(engine, spec.name))


def _named(run: Run) -> tuple[str, str]:
    return run.summary["version"], run.summary["source"]


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Keep other deliveries from a home's place, after those that are under way; raises ConflictError if one takes too long."""
    try:
        with FileLock(settings.home / "delivery.lock", timeout=STEP_SECONDS):
            yield
    except Timeout as error:
        raise ConflictError(
            f"{settings.home}: another delivery has been under way for {STEP_SECONDS / 60:.0f} minutes; wait for its end"
        ) from error


def _change(
    settings: Settings, spec: ModelSpec, source: str, version: str, why: str, steps: Sequence[Sequence[str]], *,
    put_back: bool = False,
) -> dict[str, Any]:  # fmt: skip
    engine = database.connect(settings)
    before, kept = live(engine, spec.name), _standing(engine, spec)
    killed = left_over.killed_delivery(engine, spec.name)
    run = uuid.uuid4().hex
    from flows.runs import executor

    run_records.start(engine, run_id=run, model=spec.name, flow=FLOW, reason=why, executor=executor())
    summary: dict[str, Any] = {
        "version": version, "source": source, "previous": before.summary["version"] if before else None, "steps": [],
        CHAMPION_BEFORE: kept[-1].version if kept else None,
    }  # fmt: skip
    if put_back:
        summary[PUT_BACK] = True
    run_records.note(engine, run, summary)  # it stands where this is killed
    left = f"{killed.told}; {killed.back}" if killed and killed.back else ""
    if left:
        summary["left_over"] = left
    try:
        for step in steps:
            _step(settings, spec, source, step)
            summary["steps"].append(step[0])
    except BaseException as error:
        summary["error"] = str(error) or type(error).__name__
        summary["put_back"] = (
            "nothing was changed" if step[0] == "plan" else _put_back(settings, spec, engine, before, kept, version)
        )
        run_records.end(engine, run, "failed", summary)
        if isinstance(error, EvergreenError):
            said = "; ".join(filter(None, (summary["put_back"], left)))
            raise RefusedError(f"{version} was not delivered: {error}; {said}") from error
        raise
    made = _standing(engine, spec)
    if not put_back and made and (not kept or made[-1].version != kept[-1].version):
        summary[CHAMPION] = made[-1].version
    run_records.end(engine, run, "completed", summary)
    return {"model": spec.name, "home": str(settings.home), **summary}


def _put_back(
    settings: Settings, spec: ModelSpec, engine: Engine, before: Run | None, kept: list[Promotion], version: str
) -> str:
    """Bring back the version before and, if it was changed, the champion of the promotions that stood; tell what is in force."""
    told = "no version was in force before, so nothing could be put back"
    if before is not None:
        name, source = before.summary["version"], before.summary["source"]
        try:
            for step in APPLY:
                _step(settings, spec, source, step)
            told = f"version {name} is in force again"
        except EvergreenError as error:
            told = f"version {name} could NOT be put back ({error}): `evergreen deliver {source}`"
    now = _standing(engine, spec)
    if kept and now[-1].version != kept[-1].version:
        champion = kept[-1].version
        steps = [["rollback", "--why", f"made by the trial of {version}, which was not delivered"]] * (
            len(now) - len(kept)
        )
        if now[: len(kept)] != kept:
            # It was taken back, by a delivery of the version before that did not come to its end.
            steps = [["promote", str(champion), "--why", f"{version} was not delivered"]]
        try:
            for step in steps:
                _step(settings, spec, before.summary["source"] if before else str(ROOT), step)
            told += f", and so is model version {champion}"
        except EvergreenError as error:
            told += f"; model version {champion} could NOT be put back ({error}): `evergreen {steps[0][0]}`"
    return told


def _step(settings: Settings, spec: ModelSpec, source: str, words: Sequence[str]) -> None:
    """Run one command of a version on a home; raises RefusedError with its last words if it fails."""
    if words[0] != "deploy":
        words = [*words, "--model", spec.name]
    container = f"evergreen-{uuid.uuid4().hex[:12]}"
    command, environment = _runner(settings, source, container)
    try:
        process = subprocess.Popen(
            [*command, *words], env=environment, cwd=settings.home, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            out, wrong = process.communicate(timeout=STEP_SECONDS)
        except BaseException:  # what went on would promote what is not delivered
            processes.end(process.pid)
            process.wait()
            if command[0] != sys.executable:  # a container outlives its client
                subprocess.run([command[0], "rm", "--force", container], capture_output=True, timeout=60, check=False)
            raise
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RefusedError(f"`evergreen {shlex.join(words)}` did not end ({type(error).__name__})") from error
    if process.returncode:
        said = (wrong.strip() or out.strip() or f"exit status {process.returncode}").splitlines()
        told = [
            line for line in said if line and "docker run --help" not in line
        ] or said  # Docker's last word is a hint
        raise RefusedError(f"`evergreen {shlex.join(words)}` failed: {told[-1].removeprefix('evergreen: ')}")


def _runner(settings: Settings, source: str, container: str) -> tuple[list[str], dict[str, str]]:
    """Return what runs the command line of a version, in a container of that name if it is an image, and its environment.

    Raises UsageError for a folder that is no source tree.
    """
    environment = os.environ | settings.environment()
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "flows" / "cli.py").exists():
            raise UsageError(f"{folder} is no source tree of Evergreen: flows/cli.py is not in it")
        path = os.pathsep.join(filter(None, [str(folder.resolve()), environment.get("PYTHONPATH")]))
        return [sys.executable, "-c", "from flows.cli import main; main()"], environment | {"PYTHONPATH": path}
    told = [name for name in sorted(environment) if name.startswith(PASSED_ON) and name != "EVERGREEN_HOME"]
    options = [part for name in told for part in ("--env", name)]  # by name: the values stay out of the process list
    # Its files are to belong to whoever delivers, as those of a source tree do.
    options += ["--user", f"{os.getuid()}:{os.getgid()}", "--env", "LOGNAME=evergreen"]
    return [
        os.environ.get("EVERGREEN_DOCKER", "docker"), "run", "--rm", "--name", container,
        "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL",  # noqa: S108 (the container's own)
        "--security-opt", "no-new-privileges", "--network", "host", "--volume", f"{settings.home}:{settings.home}",
        *options, "--env", f"EVERGREEN_HOME={settings.home}", source, "evergreen",
    ], environment  # fmt: skip
