"""The Spark side of the point-in-time benchmark: a standalone cluster on loopback, and two offline stores that join on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
OURS_ON_SPARK, FEAST_ON_SPARK = "our store on Spark", "Feast's Spark store"
ALL = (OURS_ON_SPARK, FEAST_ON_SPARK)
URL = "cluster.txt"  # in the folder of the data: where the cluster is


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, ...]]:
    """Run the tests' cluster, a master and two workers of one core, and yield the names of the stores that use it.

    Without the extra ``spark``, or Java, there are none.
    """
    sys.path.insert(0, str(TESTS))
    import spark_parts

    if find_spec("pyspark") is None or not spark_parts.has_java():
        print("without Spark: the extra `spark` or Java is missing", flush=True)
        yield ()
        return
    place = folder / "spark"
    place.mkdir()
    with spark_parts.cluster(place) as found:
        # Feast's Spark store has all rows pass through the driver, which in the tests' 512 MB never ends.
        (place / "spark-defaults.conf").write_text(spark_parts.SMALL + "spark.driver.memory 4g\n")
        (folder / URL).write_text(found.url)
        yield ALL


def offline_store(name: str, folder: Path) -> dict[str, Any]:
    """Return the settings of an offline store on the cluster, whose session this process opens once for both."""
    from flows.settings import Settings
    from flows.steps import spark

    url = (folder / URL).read_text()
    session = spark.session(Settings(home=folder, compute_url=url))
    session.conf.set("spark.sql.execution.arrow.pyspark.enabled", "true")  # as Feast's documentation has it
    if name == FEAST_ON_SPARK:
        return {"type": "spark"}
    kind = "feature_repo.spark_store.SparkAsofOfflineStore"
    return {"type": kind, "root": str(folder), "compute_url": url}


def source(path: Path, times: dict[str, str]) -> Any:
    """Return the source that Feast's Spark store reads."""
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

    return SparkSource(name="past", path=f"file://{path}", file_format="parquet", **times)


def leave() -> None:
    """End the session of this process, if it has one: Python's end alone may wait for Java."""
    if os.environ.get("SPARK_CONF_DIR") and "pyspark" in sys.modules:
        from pyspark import SparkContext

        context = SparkContext._active_spark_context
        if context is not None:
            context.stop()
