"""The one place where the real service is put together."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy.engine import Engine

from deployments.service.app import Service, create_app
from deployments.service.board import Board
from deployments.service.cache import BundleCache
from deployments.service.features import OnlineFeatures
from deployments.service.follower import Follower, Following
from deployments.service.guard import Guard
from deployments.service.housekeeping import LAST_FOLD_SECONDS, Housekeeping
from deployments.service.invocations import add_invocations
from deployments.service.open_inference import add_open_inference
from deployments.service.predictor import FeatureReader, Predictor
from deployments.service.ready import ReadyPredictor
from deployments.service.request import RequestParser
from deployments.service.state import add_state
from deployments.service.telemetry import Telemetry, exposition
from deployments.service.tracing import exporting_provider, trace_requests
from deployments.service.trial_follower import TrialFollower
from deployments.service.watched import WatchedFeatures
from flows import database
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps.prediction_log import PredictionLog


def build(
    settings: Settings,
    spec: ModelSpec,
    read_features: FeatureReader | None = None,
    worker: int | None = None,
    under_way: Callable[[], int | None] = lambda: None,
) -> Service:
    """Return the application on a home's ledger, feature store, cache and prediction log.

    ``read_features`` stands in for the feature store where there is none. ``worker`` is this process's number if there
    are several; ``under_way`` tells how many requests the server has under way.
    """
    prediction_log = PredictionLog(settings, spec)
    features = read_features or OnlineFeatures(settings, spec)
    reader = WatchedFeatures(features)
    predictor = Predictor(spec, reader, prediction_log, settings.service_answer_seconds)
    cache, example = BundleCache(settings, spec.name), RequestParser(spec).example()

    def connect() -> Engine:
        return database.connect(settings, patience=0)  # whoever looks twice a second has no need to wait

    follower = Follower(predictor, cache, connect, example, settings.follow_seconds)
    trials = TrialFollower(predictor, cache, connect, example, prediction_log, settings.follow_seconds)
    telemetry = Telemetry()
    name = str(worker or 0)
    board = Board(settings, spec.name, name)

    def state() -> dict[str, Any]:
        stores = {"features_up": reader.error() is None, "log_up": prediction_log.problem is None}
        rows = {"rows": predictor.counts["rows"], "unknown_rows": predictor.unknown_rows}
        return telemetry.state() | follower.state(datetime.now(UTC)) | trials.state() | stores | rows

    def tell() -> None:
        if isinstance(features, OnlineFeatures):
            features.refresh()
        if worker is not None:
            board.write(state())

    housekeeping = Housekeeping(settings, spec, prediction_log, tell)
    ready = ReadyPredictor(predictor)

    def start() -> None:
        follower.start()
        trials.start()
        housekeeping.start()

    def load_first(seconds: float) -> None:
        follower.start()
        follower.wait(seconds)

    def stop() -> None:
        follower.stop()
        trials.stop()
        housekeeping.stop()
        prediction_log.close()
        if settings.storage_url:  # a container's disk may end with it
            housekeeping.fold(LAST_FOLD_SECONDS)

    def followed() -> Following:
        return follower.seen(datetime.now(UTC))

    def log_error() -> str | None:
        return prediction_log.problem

    def exposed() -> bytes:
        return exposition(spec.name, {**(board.others() if worker is not None else {}), name: state()})

    app = create_app(
        predictor,
        start,
        stop,
        more=(
            lambda app: add_invocations(app, ready),
            lambda app: add_open_inference(app, ready),
            lambda app: add_state(app, predictor, followed, reader.error, log_error, trials.described, exposed),
        ),
    )
    guard = partial(
        Guard, telemetry=telemetry, key=settings.service_api_key.get_secret_value(), most=settings.service_queue,
        log_all=settings.service_log == "all", under_way=under_way,
    )  # fmt: skip
    app.put_before(guard)
    app.load_first = load_first
    if settings.service_tracing:
        trace_requests(app, spec.name, exporting_provider(spec.name))
    return app
