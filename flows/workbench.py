"""The workbench: research from a notebook on the ground that training stands on; ``from flows import workbench as evergreen``.

Nothing here registers, promotes or serves, and no Prefect server is needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from flows import database
from flows.errors import UsageError
from flows.lookup import load_model
from flows.settings import Settings
from flows.steps.files import scratch
from flows.steps.research import adopting, feature_list, logged, rows
from flows.steps.research import experiment as experiments
from flows.steps.research.adopting import Adoption
from flows.steps.research.experiment import Experiment

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Home = str | Path | None
Moment = str | date | datetime | None


@overload
def training_set(
    model: str = "taxi",
    start: Moment = None,
    end: Moment = None,
    *,
    judge_days: int | None = None,
    kind: Literal["pandas"] = "pandas",
    home: Home = None,
) -> pd.DataFrame: ...


@overload
def training_set(
    model: str = "taxi",
    start: Moment = None,
    end: Moment = None,
    *,
    judge_days: int | None = None,
    kind: Literal["arrow"],
    home: Home = None,
) -> pa.Table: ...


def training_set(
    model: str = "taxi",
    start: Moment = None,
    end: Moment = None,
    *,
    judge_days: int | None = None,
    kind: Literal["pandas", "arrow"] = "pandas",
    home: Home = None,
) -> pd.DataFrame | pa.Table:
    """Return the training set that training would build: accepted rows, their features as they were known, their part.

    It is the newest window, or the rows of [start, end): days or times, ISO texts too, local to the model's source unless
    they have a zone. The newest days, as many as the spec says or ``judge_days``, have ``part`` "judge". Of a data frame
    ``attrs["features"]`` names the columns that an estimator is given. Raises RefusedError as training does.
    """
    settings = _home(home)
    spec, engine = load_model(model, settings), database.connect(settings)
    since, until = rows.moment(spec, start), rows.moment(spec, end)
    with scratch(settings.home, "training-set") as folder:
        data = rows.build(settings, spec, engine, folder, _days(judge_days), since, until)
        found = rows.read(data)
    return found if kind == "arrow" else rows.frame(found, data)


def features(
    model: str | None = None,
    *,
    search: str | None = None,
    tag: str | None = None,
    owner: str | None = None,
    home: Home = None,
) -> pd.DataFrame:
    """Return the registered features of a model, or of all, one a row: what each is, who uses it, what its table holds.

    ``search`` is part of a name, a description or a key; ``tag`` is NAME or NAME=VALUE; ``owner`` is part of one.
    """
    settings = _home(home)
    return feature_list.listed(settings, load_model(model, settings) if model else None, search, tag, owner)


def experiment(
    model: str,
    estimator: Any,
    *,
    params: Mapping[str, Any] | None = None,
    judge_days: int | None = None,
    note: str = "",
    home: Home = None,
) -> Experiment:
    """Train an estimator on the newest window and judge it by every gate beside the champion; log it as an experiment.

    ``estimator`` is an unfitted estimator, a function ``build(params)`` or the dotted path of one; ``params`` of a
    function are the spec's unless given. The run is in the MLflow experiment ``MODEL-research``, with its code.
    """
    settings = _home(home)
    spec, engine = load_model(model, settings), database.connect(settings)
    return experiments.run(settings, spec, engine, estimator, params, _days(judge_days), note)


def adopt(run_id: str, *, model: str | None = None, branch: str | None = None, home: Home = None) -> Adoption:
    """Open the change that makes an experiment's code the model's: a commit on a new git branch, or a patch file.

    Work tree and index stay as they are, and nothing is merged. Raises RefusedError for what cannot be adopted, and for a
    run of another model than ``model``, if that is given.
    """
    settings = _home(home)
    found = logged.read(settings, run_id, model)
    return adopting.adopt(settings, load_model(found.model, settings), run_id, found, branch)


def _home(home: Home) -> Settings:
    """Return the settings of a home that is there: research makes none."""
    settings = Settings() if home is None else Settings(home=Path(home))
    if not settings.home.is_dir():
        raise UsageError(f"{settings.home} is no folder; set EVERGREEN_HOME, or home=, to the one that was trained in")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # of no use in a notebook
    return settings.activate()


def _days(number: int | None) -> timedelta | None:
    if number is not None and number < 1:
        raise UsageError(f"judge_days={number}: at least one day judges")
    return timedelta(days=number) if number else None
