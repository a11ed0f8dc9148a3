"""Score: predict a whole file of requests with the champion."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import database
from flows.lookup import load_model
from flows.runs import recorded, run_name, stage
from flows.settings import load
from flows.steps import scoring
from flows.steps.bundle import load_bundle
from flows.steps.champion import reigning
from flows.steps.feature_store import open_store
from flows.steps.spark_scoring import asked
from flows.steps.storage import folder

score_file = stage(scoring.score_file)


@flow(name="score", flow_run_name=run_name)
def score(source: str, target: str, model: str = "taxi") -> dict[str, Any]:
    """Write the rows of ``source`` with the champion's predictions to ``target``; parquet or CSV, by their endings.

    Raises RefusedError without a champion, UsageError for input that does not fit; then nothing is written.

    Args:
        source: Parquet or CSV file of requests.
        target: Parquet or CSV file to write.
        model: Name of the model.
    """
    settings = load()
    spec = load_model(model, settings)
    engine = database.connect(settings)
    with recorded(engine, model, "score") as run:
        champion = reigning(engine, spec, "score with")
        with folder(settings, champion.model_uri) as files:
            bundle = load_bundle(files, champion.digest, settings.trusted_types)
            question = asked(settings, spec, files, champion.digest, champion.version) if settings.compute_url else None
            store = open_store(settings)
            scored = score_file(settings, spec, store, bundle, champion.version, source, target, question)
        run.summary = {"model": model, **scored.model_dump()}
    return run.summary
