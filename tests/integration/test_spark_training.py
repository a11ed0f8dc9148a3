"""The profile spark through the flows: the gates say the same, and a worker that is killed changes nothing."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from serving_parts import eventually
from spark_parts import Cluster
from training_parts import copy_home, opened, trained

from flows import database, ledger
from flows.errors import UnavailableError
from flows.lookup import load_model
from flows.settings import Settings
from flows.steps import doctor, registry, spark
from flows.steps.processes import free_port, stop

pytestmark = pytest.mark.long

MEASURED = ("latency",)  # gates whose numbers are of the clock


def evidence(settings: Settings) -> dict[str, Any]:
    """Return what the newest version was judged by, without what the clock measured."""
    found = registry.read_evidence(registry.versions(settings, "taxi")[0])
    gates = {
        one["gate"]: (one["passed"], one["threshold"], 0 if one["gate"] in MEASURED else one["number"])
        for one in found["gates"]
    }
    return {"gates": gates, "failed": found["failed"], "metrics": found["metrics"]}


@pytest.fixture(scope="module")
def on_duckdb(tmp_path_factory: pytest.TempPathFactory, simulated_days: Path, prefect_api: str) -> Path:
    """The folder of a home that was ingested, featurized and trained on DuckDB."""
    return trained(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)


def test_a_training_on_the_cluster_gets_the_same_verdicts_and_scores_the_same(
    tmp_path: Path,
    on_duckdb: Path,
    simulated_days: Path,
    prefect_api: str,
    spark_cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flows.featurize import featurize
    from flows.ingest import ingest
    from flows.score import score
    from flows.train import train

    with opened(tmp_path / "here", prefect_api) as settings:
        copy_home(on_duckdb, settings)
        here = evidence(settings)
        accepted = [one.accepted_uri for one in ledger.list_partitions(database.connect(settings), "taxi", "accepted")]
        rows = pa.concat_tables(pq.read_table(uri) for uri in accepted[-2:])
        requests = rows.select([field.name for field in load_model("taxi", settings).request])
        pq.write_table(requests, tmp_path / "in.parquet")
        score(source=str(tmp_path / "in.parquet"), target=str(tmp_path / "here.parquet"))
    with opened(tmp_path / "there", prefect_api):
        monkeypatch.setenv("EVERGREEN_COMPUTE_URL", spark_cluster.url)
        settings = Settings(home=tmp_path / "there").activate()
        assert settings.compute_url
        ingest(str(simulated_days))
        featurize()
        result = train()
        assert result["promoted"]
        there = evidence(settings)
        assert there["failed"] == here["failed"] == []
        assert there["gates"].keys() == here["gates"].keys()
        for gate, verdict in here["gates"].items():
            assert there["gates"][gate] == pytest.approx(verdict, rel=1e-6), gate
        assert there["metrics"] == pytest.approx(here["metrics"], rel=1e-6)
        score(source=str(tmp_path / "in.parquet"), target=str(tmp_path / "there.parquet"))
        (health,) = (one for one in doctor.examine(settings, load_model("taxi", settings)) if one.part == "Spark")
        assert health.state == "good", health
    one, other = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("here", "there"))
    assert other.schema == one.schema
    assert other.drop_columns(["prediction"]).equals(one.drop_columns(["prediction"]))
    assert other["prediction"].to_pylist() == pytest.approx(one["prediction"].to_pylist(), rel=1e-6)


def test_a_worker_killed_in_mid_job_changes_nothing(
    tmp_path: Path, on_duckdb: Path, prefect_api: str, spark_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.steps import scoring
    from flows.steps.bundle import load_bundle
    from flows.steps.champion import reigning
    from flows.steps.feature_store import open_store
    from flows.steps.spark_scoring import asked

    monkeypatch.setattr(spark, "ARROW_ROWS", 200)  # many small pieces of work
    with opened(tmp_path / "home", prefect_api) as settings:
        copy_home(on_duckdb, settings)
        spec = load_model("taxi", settings)
        champion = reigning(database.connect(settings), spec, "score with")
        bundle = load_bundle(Path(champion.model_uri), champion.digest)
        accepted = [one.accepted_uri for one in ledger.list_partitions(database.connect(settings), "taxi", "accepted")]
        rows = pa.concat_tables(pq.read_table(uri) for uri in accepted)
        pq.write_table(rows.select([field.name for field in spec.request]), tmp_path / "in.parquet")
        on_spark = settings.model_copy(update={"compute_url": spark_cluster.url})
        context = spark.session(on_spark).sparkContext
        tracker = context.statusTracker()

        def work(name: str, place: Settings) -> None:
            question = asked(place, spec, Path(champion.model_uri), champion.digest, 1) if place.compute_url else None
            scoring.score_file(
                place, spec, open_store(place), bundle, 1, str(tmp_path / "in.parquet"), str(tmp_path / f"{name}.parquet"),
                question,
            )  # fmt: skip

        work("here", settings)
        thread = threading.Thread(target=work, args=("there", on_spark))
        thread.start()

        def busy() -> int:
            stages = [tracker.getStageInfo(number) for number in tracker.getActiveStageIds()]
            return sum(one.numActiveTasks for one in stages if one and one.numCompletedTasks >= 2)

        eventually(lambda: busy() >= 2 or not thread.is_alive(), 300)
        assert thread.is_alive()
        spark_cluster.kill()
        assert thread.is_alive()
        thread.join(timeout=300)
        assert not thread.is_alive()
        spark_cluster.add_worker()
    one, other = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("here", "there"))
    assert one.num_rows > 10_000
    assert other.equals(one)


def test_a_master_that_does_not_answer_is_told_at_once_and_by_name(tmp_path: Path) -> None:
    away = Settings(home=tmp_path, compute_url=f"spark://127.0.0.1:{free_port()}")
    with pytest.raises(UnavailableError, match="no Spark master answers at spark://127"):
        spark.answering(away)


def test_without_java_the_mend_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark_cluster: Any) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    away = Settings(home=tmp_path, compute_url=f"spark://127.0.0.1:{free_port()}")
    with pytest.raises(UnavailableError, match="needs Java 17"):
        spark.session(away)


def test_a_cluster_without_workers_is_not_waited_for_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark_cluster: Any
) -> None:
    monkeypatch.setattr(spark, "WORKERS_SECONDS", 3.0)
    empty = Cluster(tmp_path)
    try:
        empty.start(workers=0)
        with pytest.raises(UnavailableError, match="no worker of spark://127"):
            spark.session(empty.settings(tmp_path / "home"))
        monkeypatch.setattr(spark, "WORKERS_SECONDS", 120.0)
        empty.add_worker()
        settings = empty.settings(tmp_path / "home")

        def sleeping(batches: Any) -> Any:
            time.sleep(600)
            yield from batches

        frame = spark.session(settings).range(10).mapInArrow(sleeping, "id bigint")
        monkeypatch.setattr(spark, "WORKERS_SECONDS", 4.0)
        last = threading.Timer(5, stop, args=(empty.workers[0],))
        last.start()
        with (
            pytest.raises(UnavailableError, match="a long job broke off on spark://127"),
            spark.told(settings, "a long job"),
        ):
            frame.count()
        last.join()
    finally:
        empty.stop()
