"""Point MLflow at the store that the parameters name."""

from typing import Any

import mlflow
from kedro.framework.hooks import hook_impl


class MlflowHooks:
    """Run once, when Kedro has read its configuration."""

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        """Set tracking store and experiment."""
        given = context.params["mlflow"]
        mlflow.set_tracking_uri(given["tracking_uri"])
        mlflow.set_experiment(given["experiment"])
