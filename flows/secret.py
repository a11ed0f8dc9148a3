"""What is secret: the files that may hold it, and addresses without it."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from flows.errors import UsageError

# What the servers and stores of a team ask for; read from files of these names as well, see ``secrets_folder``.
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_AUTH_STRING",
)  # fmt: skip


def secrets_folder() -> Path | None:
    """Return the folder of ``EVERGREEN_SECRETS_DIR``, in which a file may stand for each secret variable, if it is set.

    Raises UsageError if it is not there: without its secrets, a service would be open.
    """
    folder = os.environ.get("EVERGREEN_SECRETS_DIR")
    if folder and not Path(folder).is_dir():
        raise UsageError(f"EVERGREEN_SECRETS_DIR names {folder}, which is no folder; mount it, or correct its name")
    return Path(folder) if folder else None


def credentials() -> dict[str, str]:
    """Return the credentials that files hold and the environment does not."""
    folder = secrets_folder()
    files = {name: folder / name for name in CREDENTIALS if name not in os.environ} if folder else {}
    return {name: file.read_text(encoding="utf-8").strip() for name, file in files.items() if file.is_file()}


def shown(source: str) -> str:
    """Return a URL or a path as it may be shown: of a URL without user, password and query, which may be secret."""
    if "://" not in source:
        return source
    parts = urlsplit(source)
    host, path = parts.netloc.rpartition("@")[2], parts.path
    if parts.scheme.lower() in {"file", "s3"}:  # a ? is part of their names, a glob perhaps
        path = source.partition("://")[2].removeprefix(parts.netloc)
    return f"{parts.scheme}://{host}{path}"
