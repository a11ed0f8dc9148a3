"""Where everything lives and which servers are used: typed, read once, from the environment (``EVERGREEN_*``)."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource, SettingsConfigDict

from flows.secret import credentials, secrets_folder

# The one place that switches off what the libraries would send home.
NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "FEAST_USAGE": "False",
}
# Threads of OpenMP that wait by spinning starve whatever runs beside a training, the service above all.
POLITE = {"OMP_WAIT_POLICY": "PASSIVE"}
# What is waited for an answer of MLflow, and how often it is asked again; a stage is tried three times as well.
BOUNDED = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}
# Leases in memory outlive their holder when that is killed; a heart that beats every 30 s is missed within two minutes.
STEADY = {
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}
# The parts that a team's installation has on servers, by the setting that names each.
SERVERS = {
    "ledger_url": ("postgresql",),
    "mlflow_tracking_uri": ("postgresql", "http", "https"),
    "feature_registry_url": ("postgresql",),
    "online_store_url": ("redis", "rediss"),
    "storage_url": ("s3",),
}


class Settings(BaseSettings):
    """The settings of one home; every default is embedded (SQLite, DuckDB, files) and needs no server.

    ``home`` is made absolute, so that child processes started elsewhere mean the same place.
    """

    model_config = SettingsConfigDict(env_prefix="EVERGREEN_", frozen=True, extra="forbid", hide_input_in_errors=True)

    profile: Literal["local", "team"] = Field(
        default="local", description="`team` refuses to start unless every part of it is on a server"
    )
    home: Path = Field(default=Path(".evergreen"), description="folder that holds everything of one installation")
    model_packages: tuple[str, ...] = Field(
        default=("flows.models",), description="packages in which models are looked up by name, first hit wins"
    )
    trusted_types: tuple[str, ...] = Field(
        default=(), description="class paths of a team's own estimators that may be loaded from a model file"
    )
    ledger_url: str = Field(default="", repr=False, description="SQLAlchemy URL; default: SQLite in the home")
    mlflow_tracking_uri: str = Field(
        default="", repr=False, description="MLflow tracking and registry; default: SQLite in the home"
    )
    feature_registry_url: str = Field(
        default="", repr=False, description="SQLAlchemy URL of Feast's registry; default: SQLite in the home"
    )
    online_store_url: str = Field(
        default="", repr=False, description="redis[s]://[:PASSWORD@]HOST[:PORT][/DATABASE]; default: SQLite in the home"
    )
    storage_url: str = Field(
        default="",
        description="s3://BUCKET[/FOLDER] of partitions, feature tables, models, pages and prediction log; default: the home",
    )
    compute_url: str = Field(
        default="",
        description="spark://HOST:PORT for features, joins, checks, trials, backtests, scoring (extra `spark`); default: DuckDB",
    )
    dask_url: str = Field(
        default="",
        description="tcp://HOST:PORT of a Dask scheduler for backtests (extra `dask`); default: Spark, if named, or threads",
    )
    landing_folder: str = Field(
        default="", description="where files of raw rows arrive, in a folder by model; default: landing in the home"
    )
    prefect_port: int = Field(default=4200, ge=1, le=65535, description="Prefect's server and UI")
    mlflow_port: int = Field(default=5000, ge=1, le=65535, description="MLflow's UI")
    feast_port: int = Field(default=8888, ge=1, le=65535, description="Feast's UI")
    docs_port: int = Field(default=8500, ge=1, le=65535, description="Data Docs and reports")
    work_pool_type: str = Field(
        default="process",
        description="type of the work pool that `evergreen deploy` makes: process, docker or kubernetes",
    )
    worker_limit: int = Field(default=4, ge=1, description="flow runs that the worker has under way at once")
    service_host: str = "127.0.0.1"
    service_port: int = Field(default=8300, ge=0, le=65535)
    service_workers: int = Field(default=1, ge=1, le=64, description="processes of the service on its one port")
    service_queue: int = Field(
        default=256, ge=1, description="requests for predictions that a worker has under way; beyond them 503"
    )
    service_answer_seconds: float = Field(
        default=30.0, gt=0, description="how long the service works at one request before it answers 503"
    )
    service_api_key: SecretStr = Field(
        default=SecretStr(""),
        description="what clients must send as `Authorization: Bearer` or `X-API-Key`; none: open",
    )
    service_log: Literal["errors", "all"] = Field(
        default="errors", description="requests that the service's log holds; answered ones are in the prediction log"
    )
    service_tracing: bool = Field(
        default=False, description="send OpenTelemetry traces (extra `otel`) to where the OTEL_EXPORTER_* variables say"
    )
    follow_seconds: float = Field(default=0.5, gt=0, description="how often the service looks at the ledger")
    http_timeout_seconds: float = Field(
        default=60.0, gt=0, description="how long an answer is waited for where raw rows are a URL"
    )

    @field_validator("home", mode="before")
    @classmethod
    def _absolute(cls, home: Path | str) -> Path:
        if not str(home).strip():
            raise ValueError("it names no folder")
        found = Path(home).expanduser().resolve()
        if any(sign in str(found) for sign in "?%"):
            raise ValueError(
                f"{found} has a ? or % in it, which the address of a database cannot hold; name another folder"
            )
        if any(sign in str(found) for sign in "*["):  # DuckDB would read the files of every folder that it fits
            raise ValueError(f"{found} has a * or [ in it, which makes it a pattern of names; name another folder")
        return found

    @field_validator("ledger_url", "feature_registry_url")
    @classmethod
    def _database(cls, url: str) -> str:
        # Said without the value, which holds a password.
        if url and urlsplit(url).scheme.partition("+")[0] not in ("postgresql", "sqlite"):
            raise ValueError("it is not of the form postgresql+psycopg://USER:PASSWORD@HOST/DATABASE or sqlite:///FILE")
        return url

    @field_validator("storage_url")
    @classmethod
    def _bucket(cls, url: str) -> str:
        if url and (urlsplit(url).scheme != "s3" or not urlsplit(url).netloc):
            raise ValueError("it is not of the form s3://BUCKET or s3://BUCKET/FOLDER")
        return url.rstrip("/")

    @field_validator("online_store_url")
    @classmethod
    def _redis(cls, url: str) -> str:
        # Said without the value, which holds a password.
        if url and (urlsplit(url).scheme not in SERVERS["online_store_url"] or not urlsplit(url).hostname):
            raise ValueError("it is not of the form redis://[:PASSWORD@]HOST[:PORT][/DATABASE]")
        return url

    @field_validator("compute_url", "dask_url")
    @classmethod
    def _cluster(cls, url: str, info: ValidationInfo) -> str:
        kind, form = ("spark", "spark") if info.field_name == "compute_url" else ("tcp|tls", "tcp:// or tls")
        if url and not re.fullmatch(rf"({kind})://[\w.-]+:\d+(,[\w.-]+:\d+)*", url):
            raise ValueError(f"it is not of the form {form}://HOST:PORT")
        return url

    @model_validator(mode="after")
    def _whole_team(self) -> Settings:
        """Refuse a team's profile of which a part would stay on this machine, unseen by the others."""
        if self.profile == "team":
            local = [
                f"EVERGREEN_{name.upper()} ({' or '.join(kinds)}://...)"
                for name, kinds in SERVERS.items()
                if urlsplit(getattr(self, name)).scheme.partition("+")[0] not in kinds
            ]
            if local:
                raise ValueError(f"EVERGREEN_PROFILE=team needs {', '.join(local)}; set them, or take the profile away")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (pydantic's interface)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (the same)
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read what was passed, then the environment, then files named like the variables in ``secrets_folder()``."""
        folder = secrets_folder()
        files = (SecretsSettingsSource(settings_cls, secrets_dir=folder),) if folder else ()
        return (init_settings, env_settings, *files)

    @cached_property
    def ledger(self) -> str:
        """SQLAlchemy URL of the ledger."""
        return self.ledger_url or f"sqlite:///{self.home / 'ledger.db'}"

    @property
    def ledger_exists(self) -> bool:
        """Whether the ledger is there, or is a server's affair."""
        return bool(self.ledger_url) or (self.home / "ledger.db").exists()

    @cached_property
    def tracking_uri(self) -> str:
        """MLflow tracking and registry URI."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @cached_property
    def feature_registry(self) -> str:
        """SQLAlchemy URL of Feast's registry."""
        return self.feature_registry_url or f"sqlite:///{self.home / 'feast' / 'registry.db'}"

    @property
    def features_exist(self) -> bool:
        """Whether Feast's registry is there, or is a server's affair."""
        return bool(self.feature_registry_url) or (self.home / "feast" / "registry.db").exists()

    @property
    def mlflow_exists(self) -> bool:
        """Whether MLflow's database is there, or is a server's affair."""
        return bool(self.mlflow_tracking_uri) or (self.home / "mlflow.db").exists()

    @property
    def artifacts(self) -> Path:
        """Folder of MLflow's artifacts."""
        return self.home / "artifacts"

    @property
    def prefect_home(self) -> Path:
        """Prefect's own folder: database, results, logs."""
        return self.home / "prefect"

    @property
    def docs(self) -> Path:
        """Data Docs: a page per partition and an index."""
        return self.home / "docs"

    @property
    def cache(self) -> Path:
        """The service's copies of the models that it has served."""
        return self.home / "cache"

    def landing(self, model: str) -> Path:
        """The folder in which files of raw rows arrive."""
        folder = Path(self.landing_folder).expanduser().resolve() if self.landing_folder else self.home / "landing"
        return folder / model

    def lake(self, model: str) -> Path:
        """Landed partitions of a model."""
        return self.home / "lake" / model

    def features(self, model: str) -> Path:
        """Feature tables of a model: a folder of parquet files for each feature view."""
        return self.home / "features" / model

    def stages(self, model: str) -> Path:
        """What the stages of runs that are under way, or broke off, have finished."""
        return self.home / "stages" / model

    def backtests(self, model: str) -> Path:
        """What backtests of a model have trained and found."""
        return self.home / "backtests" / model

    def predictions(self, model: str) -> Path:
        """The prediction log of a model."""
        return self.home / "predictions" / model

    def environment(self) -> dict[str, str]:
        """Return what this process and its children need in their environment to work on this home, telemetry off."""
        return (
            NO_TELEMETRY
            | POLITE
            | {name: os.environ.get(name, value) for name, value in (STEADY | BOUNDED).items()}
            | credentials()
            | {
                "EVERGREEN_HOME": str(self.home),
                "PREFECT_HOME": str(self.prefect_home),
                "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(self.prefect_home / "storage"),
                "MLFLOW_TRACKING_URI": self.tracking_uri,
            }
        )

    def apart(self, home: Path) -> Settings:
        """Return the settings of another home that holds all it needs: what is made there reaches no server."""
        return Settings(
            home=home, profile="local", ledger_url="", mlflow_tracking_uri="", feature_registry_url="", online_store_url="",
            storage_url="", compute_url="", dask_url="",
        )  # fmt: skip

    def activate(self) -> Settings:
        """Make the home and put ``environment()`` into this process; call before Prefect, MLflow or Feast is imported."""
        self.home.mkdir(parents=True, exist_ok=True)
        os.environ.update(self.environment())
        return self


def load(home: Path | str | None = None) -> Settings:
    """Read the settings of ``home`` (or ``EVERGREEN_HOME``, or ``.evergreen``) and activate them."""
    return (Settings() if home is None else Settings(home=Path(home))).activate()
