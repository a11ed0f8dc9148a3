"""A backtest as a run of MLflow, in an experiment of its own, beside the trainings."""

from __future__ import annotations

from pathlib import Path

from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps import registry, run_log
from flows.steps.backtest.findings import Findings


def log(settings: Settings, spec: ModelSpec, findings: Findings, *files: Path) -> str:
    """Log parameters, the figures of each policy and some files; return the run's id."""
    from mlflow.entities import Metric, Param

    client = registry.open_client(settings)
    experiment = run_log.experiment_of(client, settings, f"{spec.name} backtest")
    name = f"{spec.name} {findings.periods[0]} to {findings.periods[-1]} by {findings.every}"
    begun = round(findings.at.timestamp() * 1000)
    run = client.create_run(experiment, start_time=begun, run_name=name)
    figures = {
        f"{kind}/{one.policy}": float(value)
        for one in (*findings.outcomes, findings.best)
        for kind, value in (
            ("cost", one.total), ("mean_error", one.mean_error), ("trainings", len(one.trained)), ("regret", one.regret),
        )
    }  # fmt: skip
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(key, value, begun, 0) for key, value in figures.items()],
        params=[
            Param("every", findings.every), Param("start", str(findings.start)), Param("end", str(findings.end)),
            Param("cost_train", str(findings.costs.training)), Param("cost_error", str(findings.costs.error)),
            Param("judge_days", str(findings.judge_days)), Param("cheapest", findings.verdict.policy),
            Param("performance_ratio", str(findings.advice.performance_ratio)),
            Param("drift_effect", str(findings.advice.drift_effect)),
        ],
    )  # fmt: skip
    for file in files:
        client.log_artifact(run.info.run_id, str(file))
    client.set_terminated(run.info.run_id, "FINISHED")
    return str(run.info.run_id)
