"""The one place where the real service is put together."""

from __future__ import annotations

from fastapi import FastAPI

from deployments.service.app import create_app
from deployments.service.cache import BundleCache
from deployments.service.features import OnlineFeatures
from deployments.service.follower import Follower
from deployments.service.predictor import FeatureReader, Predictor
from deployments.service.request import RequestParser
from flows import database
from flows.settings import Settings
from flows.spec import ModelSpec
from flows.steps.prediction_log import PredictionLog


def build(settings: Settings, spec: ModelSpec, read_features: FeatureReader | None = None) -> FastAPI:
    """Return the application on a home's ledger, feature store, cache and prediction log.

    ``read_features`` stands in for the feature store where there is none.
    """
    prediction_log = PredictionLog(settings, spec)
    predictor = Predictor(spec, read_features or OnlineFeatures(settings, spec), prediction_log)
    follower = Follower(
        predictor, BundleCache(settings, spec.name), lambda: database.connect(settings), RequestParser(spec).example(),
        settings.follow_seconds,
    )  # fmt: skip

    def stop() -> None:
        follower.stop()
        prediction_log.close()

    return create_app(predictor, lambda: follower.following, follower.start, stop)
