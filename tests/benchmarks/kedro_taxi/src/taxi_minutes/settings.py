"""Project settings: hooks."""

from taxi_minutes.hooks import MlflowHooks

HOOKS = (MlflowHooks(),)
