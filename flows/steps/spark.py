"""The Spark cluster of ``EVERGREEN_COMPUTE_URL``: one session a process, and files that pass between it and DuckDB.

Workers and driver must see the home under one path, and have this environment's Python and packages under one path.
Spark's own options, such as the memory of executors, are read from ``$SPARK_CONF_DIR/spark-defaults.conf``.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import errors
from flows.errors import ContractError, EvergreenError, UnavailableError
from flows.settings import NO_TELEMETRY, POLITE, Settings
from flows.steps.files import scratch
from flows.steps.sql import literal

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CONNECT_SECONDS = 5.0
WORKERS_SECONDS = 120.0  # for a cluster that has no worker to give
LOOK_SECONDS = 2.0
ARROW_ROWS = 100_000  # that a worker's Python takes at once
OPTIONS = {
    "spark.app.name": "evergreen",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # not Spark's INT96, which nobody else writes
    "spark.sql.execution.arrow.maxRecordsPerBatch": str(ARROW_ROWS),
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
}
# What Python on the workers needs of this process's environment; nothing of it is secret.
PASSED_ON = ("PYTHONPATH", *NO_TELEMETRY, *POLITE)
ENVIRONMENT = "spark.executorEnv."
MADE_WITH = "spark.evergreen.passed"  # the option that says what a session has passed on
_ONE = threading.Lock()


def session(settings: Settings) -> SparkSession:
    """Return this process's session on the cluster, made at the first call; what Spark says goes to ``tmp/spark.log``.

    Raises UnavailableError if pyspark or Java is missing, no master answers, or no worker takes work.
    """
    if find_spec("pyspark") is None:
        raise UnavailableError(
            "EVERGREEN_COMPUTE_URL needs pyspark; install the extra with `uv sync --extra spark`, or take the setting away"
        )
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    with _ONE:
        context = SparkContext._active_spark_context
        if context is not None and not _serves(context, settings):
            context.stop()
            context = None
        if context is None:
            _connect(settings)
        return SparkSession.builder.getOrCreate()


def _serves(context: Any, settings: Settings) -> bool:
    """Say whether a context is of these settings, and its workers have this process's environment of now."""
    alive = context.master == settings.compute_url and not context._jsc.sc().isStopped()
    return alive and context.getConf().get(MADE_WITH) == json.dumps(_passed())


def _connect(settings: Settings) -> None:
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway

    java = Path(os.environ["JAVA_HOME"]) / "bin" / "java" if "JAVA_HOME" in os.environ else shutil.which("java")
    if java is None or not Path(java).exists():
        raise UnavailableError(
            "EVERGREEN_COMPUTE_URL needs Java 17 or 21; install it or set JAVA_HOME, or take the setting away"
        )
    conf = SparkConf().setMaster(settings.compute_url).setAll(list(_options(answering(settings)).items()))
    passed = _passed()
    log = settings.home / "tmp" / "spark.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    os.environ["PYSPARK_PYTHON"] = sys.executable
    try:
        with log.open("ab") as output:
            gateway: Any = SparkContext._gateway or launch_gateway(conf, {"stderr": output, "stdout": output})
        # Java would give what it is started with to each later session as well, when it is in this environment no more.
        conf.setAll([*passed.items(), (MADE_WITH, json.dumps(passed))])
        context = SparkContext(conf=conf, gateway=gateway)
    except Exception as error:  # of Java, Py4J or pyspark: whatever it is, there is no session
        raise UnavailableError(f"no session on {settings.compute_url} ({_first(error)}); {log} says more") from error
    deadline = time.monotonic() + WORKERS_SECONDS
    while not _workers(context):
        if time.monotonic() > deadline:
            context.stop()
            raise UnavailableError(
                f"no worker of {settings.compute_url} takes work; start some, with cores and memory free for an executor"
            )
        time.sleep(0.2)


def _workers(context: Any) -> int:
    """Return how many executors the cluster gives to a context."""
    return int(context._jsc.sc().getExecutorMemoryStatus().size()) - 1  # the driver counts as one


def _options(host: str) -> dict[str, str]:
    loopback = {"spark.driver.host": host, "spark.driver.bindAddress": host} if host == "127.0.0.1" else {}
    return OPTIONS | loopback


def _passed() -> dict[str, str]:
    """Return the options that give the workers what they need of this process's environment."""
    return {f"{ENVIRONMENT}{name}": os.environ[name] for name in PASSED_ON if os.environ.get(name)}


def answering(settings: Settings) -> str:
    """Return the host of the first master that takes a connection; Spark itself would try for a minute."""
    said = ""
    for place in settings.compute_url.removeprefix("spark://").split(","):
        host, _, port = place.rpartition(":")
        try:
            with closing(socket.create_connection((host, int(port)), CONNECT_SECONDS)) as connection:
                return str(connection.getpeername()[0])
        except OSError as error:
            said = str(error)
    raise UnavailableError(
        f"no Spark master answers at {settings.compute_url} ({said}); start it, or take EVERGREEN_COMPUTE_URL away"
    )


def look(settings: Settings) -> str:
    """Have the workers write into the home, and return what is to be said of the cluster; raises as ``session``."""
    own = session(settings)
    cores = own.sparkContext.defaultParallelism
    with scratch(settings.home, "spark") as folder, told(settings, "a look at the cluster"):
        written(own.range(0, 4 * cores, numPartitions=4 * cores), folder / "probe")
    return f"{cores} cores at {settings.compute_url} see the home"


@contextmanager
def told(settings: Settings, what: str) -> Iterator[None]:
    """Turn what the cluster raises into one line about ``what``: a query that it cannot run, or work that it did not end.

    An error of ours that a worker raised is raised here as it was there.
    """
    from py4j.protocol import Py4JError
    from pyspark import SparkContext
    from pyspark.errors import AnalysisException, ParseException, PySparkException

    done = threading.Event()
    watch = threading.Thread(
        target=_cancel_without_workers, args=(SparkContext._active_spark_context, done), daemon=True
    )
    watch.start()
    try:
        yield
    except (AnalysisException, ParseException) as error:
        raise ContractError(f"{what} cannot be computed on Spark ({_first(error)}); correct it") from error
    except (PySparkException, Py4JError) as error:
        ours = re.search(r"^flows\.errors\.(\w+): (.+)$", str(error), re.MULTILINE)
        if ours:
            raise refusal(ours[1], ours[2]) from error
        raise UnavailableError(
            f"{what} broke off on {settings.compute_url} ({_first(error)}); look at the workers, and whether they see "
            f"{settings.home}, then run again"
        ) from error
    finally:
        done.set()


def _cancel_without_workers(context: Any, done: threading.Event) -> None:
    """End the jobs of a context that has had no worker for long; Spark would wait for good."""
    alone = 0.0
    while not done.wait(LOOK_SECONDS):
        alone = 0.0 if _workers(context) else alone + LOOK_SECONDS
        if alone >= WORKERS_SECONDS:  # again at each look: a job may begin after the first
            context.cancelAllJobs()


def refusal(kind: str, message: str) -> EvergreenError:
    """Return the error of ours, by the name of its kind, that a worker refused with."""
    found = vars(errors).get(kind)
    if isinstance(found, type) and issubclass(found, EvergreenError):
        return found(message)
    return EvergreenError(f"{kind}: {message}")


def place(path: Path | str) -> str:
    """Return how Spark is to call a file or folder that it reads: it takes a path for a pattern."""
    return "file://" + re.sub(r"([\[\]{}*?\\])", r"\\\1", str(path))


def written(frame: DataFrame, folder: Path) -> str:
    """Have the workers write a frame into a folder, which must not exist, and return SQL of its rows for DuckDB.

    Raises UnavailableError if not all rows that they wrote are there: they do not see the home that this process sees.
    """
    import pyarrow.parquet as pq
    from pyspark.sql import Observation
    from pyspark.sql import functions as F  # noqa: N812 (as everybody calls it)

    seen = Observation()
    frame.observe(seen, F.count(F.lit(1)).alias("rows")).write.parquet(f"file://{folder}")
    wrote, found = seen.get["rows"], sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet"))
    if wrote != found:
        raise UnavailableError(
            f"of {wrote} rows that the workers wrote, {found} are in {folder}; each must see this very folder, then run again"
        )
    return f"SELECT * FROM read_parquet({literal(f'{glob.escape(str(folder))}/*.parquet')})"


def _first(error: BaseException) -> str:
    """Return the first line of an error, and of what lies below it the first that names one: Java's and Python's are long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    cause = next((line for line in lines[1:] if re.match(r"(Caused by: )?[\w.]+(Error|Exception): ", line)), "")
    return f"{lines[0]} {cause}"[:300].strip()
