"""An experiment: a researcher's estimator through the parts of training, beside the champion; nothing is registered."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy.engine import Engine

from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import bundle, bundling, champion, evaluation, fitting, gates, probe
from flows.steps.evaluation import Evaluation
from flows.steps.files import scratch
from flows.steps.gates import Verdict
from flows.steps.model_file import write_estimator
from flows.steps.research import logged, rows
from flows.steps.research.source import take


class Experiment(Evaluation):
    """What an estimator came to: its evaluation, as a training's, and the verdict of every gate.

    ``adoptable`` says that its code was kept; ``why_not``, if it was not.
    """

    model: str
    run_id: str
    mlflow_experiment: str
    estimator: str
    params: dict[str, Any]
    metric: str
    gates: tuple[Verdict, ...]
    adoptable: bool
    why_not: str

    @property
    def failed(self) -> tuple[str, ...]:
        """Return the names of the gates that did not pass."""
        return tuple(gates.failed(list(self.gates)))

    @property
    def passed(self) -> bool:
        """Return whether training would register what this code makes of the same data."""
        return not self.failed

    @property
    def verdict(self) -> str:
        """Return what came of it in one line."""
        theirs = self.champion_error
        beside = "no champion yet" if theirs is None else f"version {self.champion_version} has {theirs:.4g}"
        outcome = f"refused by {', '.join(self.failed)}" if self.failed else "passes every gate"
        return f"{self.metric} {self.error:.4g}, {beside}; {outcome}"

    def __repr__(self) -> str:
        lines = [
            f"{self.estimator}: {self.verdict}",
            f"  {self.judge_rows:,} newest rows judge, {self.train_rows:,} before them train; naive {self.baseline_error:.4g}",
            *(
                f"  {'passed ' if one.passed else 'refused'}  {one.gate} {one.number:.4g}, {one.direction} "
                f"{one.threshold:.4g}: {one.reason}"
                for one in self.gates
            ),
            f"  MLflow experiment {self.mlflow_experiment}, run {self.run_id}",
        ]
        return "\n".join(lines if self.adoptable else [*lines, f"  not to be adopted: {self.why_not}"])

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from flows.steps.pages import environment

        return environment().get_template("experiment.html.j2").render(found=self)


def run(
    settings: Settings,
    spec: ModelSpec,
    engine: Engine,
    estimator: Any,
    params: Mapping[str, Any] | None = None,
    judge: timedelta | None = None,
    note: str = "",
) -> Experiment:
    """Fit an estimator on the newest window, judge it by every gate beside the champion, and log it as an experiment.

    All parts are those of training: window, split, join, fit, figures, gates. Registry, ledger and aliases are only read.
    Raises what training raises, and UsageError for what is no estimator.
    """
    given = take(spec, estimator, params)
    reigning = champion.load(settings, spec, engine)
    with scratch(settings.home, "experiment") as folder:
        data = rows.build(settings, spec, engine, folder, judge)
        fitted = fitting.fit(spec, data, given.params, given.name, given.build)
        trained, judged = evaluation.predict(spec, fitted, data)
        found = evaluation.evaluate(spec, fitted, trained, judged, reigning, folder / "pictures")
        write_estimator(fitted, folder / "bundle" / bundle.MODEL, given.name)
        digest = bundling.write_manifest(spec, fitted, judged, folder / "bundle")
        opened = probe.probe_bundle(folder / "bundle", digest, settings)
        verdicts = gates.judge_all(spec, found, opened, reigning.request_schema)
        experiment = Experiment(
            model=spec.name, run_id="", mlflow_experiment=logged.experiment_name(spec.name), estimator=given.name,
            params=given.params, metric=spec.metric.error, gates=tuple(verdicts), adoptable=given.code is not None,
            why_not=given.why, **found.model_dump(),
        )  # fmt: skip
        run_id = logged.log(
            settings, spec, given, data, note=note, evidence=gates.evidence(found, verdicts, reigning.version),
            verdict=experiment.verdict, metrics=gates.figures(found, verdicts), pictures=folder / "pictures",
        )  # fmt: skip
    return experiment.model_copy(update={"run_id": run_id})
