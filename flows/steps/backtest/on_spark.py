"""The windows of a backtest on the Spark cluster: each is a task of one worker, which trains it as this process would.

A worker opens the replay from the home that all see, and leaves the model there. Neither rows nor models nor secrets are
sent, and a worker reaches no server: a bucket is read and written by the process that asks.
"""

from __future__ import annotations

import platform
from datetime import timedelta
from pathlib import Path

from flows.errors import UnavailableError
from flows.settings import Settings, load
from flows.spec import Frozen
from flows.steps import spark, spark_tasks, storage
from flows.steps.backtest import kept, models
from flows.steps.backtest.kept import Place
from flows.steps.backtest.models import Made
from flows.steps.backtest.timeline import History


class Asked(Frozen):
    """What a worker has to know to train a window: where all lies, which one it is, what code must be there."""

    home: str
    model_packages: tuple[str, ...]
    trusted_types: tuple[str, ...]
    place: Place
    step: int
    judge: timedelta | None
    code: str


def keep(settings: Settings, history: History) -> Place:
    """Write a replay into the home alone, where workers find it, fetch what a bucket has of its windows, return the place."""
    storage.pull(settings, models.windows(settings, history.spec.name), lambda name: not name.startswith(models.SCORES))
    return kept.keep(settings.model_copy(update={"storage_url": ""}), history)


def hands(settings: Settings) -> int:
    """Return how many windows the cluster can train at once; raises as ``spark.session``."""
    context = spark.session(settings).sparkContext
    return max(1, int(context.defaultParallelism) // int(context.getConf().get("spark.task.cpus") or 1))


def train_window(place: Place, step: int, judge: timedelta | None, code: str) -> Made:
    """Have a worker make the model of a window, or find it; it is in the bucket then, if there is one.

    Raises what the worker refuses with, UnavailableError if the cluster does not end it.
    """
    settings = load()
    model = kept.opened(settings, place).spec.name
    asked = Asked(
        home=str(settings.home), model_packages=settings.model_packages, trusted_types=settings.trusted_types,
        place=place, step=step, judge=judge, code=code,
    )  # fmt: skip
    what = f"window {step + 1} of the backtest of {model}"
    [answer] = spark_tasks.each(settings, what, trained, [asked.model_dump_json()])
    made = Made.model_validate_json(answer)
    models.publish(settings, models.windows(settings, model) / made.folder)
    return made


def trained(text: str) -> str:
    """Make the model of a window on a worker; what is asked and what is answered is JSON."""
    asked = Asked.model_validate_json(text)
    if not Path(asked.place.record).exists():
        raise UnavailableError(
            f"{platform.node()} does not see the replay at {asked.place.record}; let all workers share the home under one "
            "path, then run the backtest again"
        )
    settings = spark_tasks.settings_there(asked.home, asked.model_packages, asked.trusted_types).activate()
    return models.train_window(asked.place, asked.step, asked.judge, asked.code, settings).model_dump_json()
