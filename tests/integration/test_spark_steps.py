"""The profile spark: what the steps make on a standalone cluster is what they make on DuckDB."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from ingest_parts import Place, write
from offline_cases import ZONE, hour, open_store, past_view, write_past

from flows import ledger
from flows.errors import ContractError, TamperedError
from flows.lookup import resolve
from flows.models.taxi.simulator import simulate_day
from flows.models.taxi.spec import spec
from flows.steps import feature_store, feature_tables, fitting, score_requests, scoring, spark, spark_fitting
from flows.steps.bundle import load_bundle
from flows.steps.bundling import save_bundle
from flows.steps.spark_scoring import asked
from flows.steps.training_set import TrainingSet, Window, build, choose_window, matrix, read_part, write_training_set

pytestmark = pytest.mark.long

FIRST, DAYS = date(2024, 1, 1), 6


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six simulated days, dirt included, one file a day."""
    folder = tmp_path_factory.mktemp("days")
    for number in range(DAYS):
        day = FIRST + timedelta(days=number)
        write(simulate_day(day, trips=600), folder / f"{day}.parquet")
    late = simulate_day(FIRST + timedelta(days=DAYS), trips=600)
    late["lpep_dropoff_datetime"] = late["lpep_pickup_datetime"]  # each trip takes no time: the suite refuses the day
    write(late, folder / "wrong.parquet")
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, spark_cluster: Any, days: Path) -> SimpleNamespace:
    """Two homes with the same data, ingested and featurized: one on DuckDB, one on the cluster."""
    found = SimpleNamespace()
    for name in ("duckdb", "spark"):
        place = Place(tmp_path_factory.mktemp(name) / "a home für Ü")
        if name == "spark":
            place.settings = spark_cluster.settings(place.settings.home)
        place.ingest(days)
        feature_store.apply_definitions(place.settings, spec)
        planned = feature_tables.plan(spec, ledger.list_partitions(place.engine, "taxi", "accepted"))
        feature_tables.compute(place.settings, spec, planned)
        setattr(found, name, place)
    return found


def features_of(place: Place, view: str) -> pd.DataFrame:
    keys = [*spec.entities[view], "event_timestamp"]
    files = place.settings.features("taxi") / view / "*.parquet"
    frame = duckdb.sql(f"SELECT * EXCLUDE created_timestamp FROM read_parquet('{files}')").df()
    return frame.sort_values(keys, ignore_index=True)


@pytest.mark.parametrize("view", resolve(spec.feature_tables))
def test_feature_values_of_the_same_expressions_are_equal(places: SimpleNamespace, view: str) -> None:
    there, here = features_of(places.spark, view), features_of(places.duckdb, view)
    assert len(here) > 100
    pd.testing.assert_frame_equal(there, here, check_exact=False, rtol=1e-9, atol=0)
    counts = [name for name in here if "trips" in name]
    assert counts
    assert there[counts].equals(here[counts])


def rows_of(uri: str | None) -> list[dict[str, Any]]:
    return [] if uri is None else pq.read_table(uri).to_pylist()


def test_the_same_rows_are_accepted_and_quarantined_for_the_same_reasons(places: SimpleNamespace) -> None:
    here, there = (ledger.list_partitions(place.engine, "taxi") for place in (places.duckdb, places.spark))
    assert {one.status for one in here} == {"accepted", "quarantined"}
    assert sum(one.rejected_rows for one in here if one.status == "accepted") > 0
    for one, other in zip(here, there, strict=True):
        for name in (
            "key",
            "status",
            "digest",
            "accepted_rows",
            "rejected_rows",
            "reasons",
            "validation",
            "statistics",
        ):
            assert getattr(other, name) == getattr(one, name), (one.key, name)
        assert repr(rows_of(other.accepted_uri)) == repr(rows_of(one.accepted_uri))
        assert repr(rows_of(other.rejected_uri)) == repr(rows_of(one.rejected_uri))


def asked_rows(place: Place) -> pa.Table:
    """Return accepted rows as a training would join them, some asked twice, some of keys that no table knows."""
    uris = [one.accepted_uri for one in ledger.list_partitions(place.engine, "taxi", "accepted")]
    names = [field.name for field in spec.request]
    rows = duckdb.sql(f"SELECT {', '.join(names)}, event_timestamp, label FROM read_parquet({uris})").to_arrow_table()
    frame = rows.to_pandas()
    strange = frame.head(50).assign(PULocationID=9999)
    early = frame.head(50).assign(event_timestamp=frame["event_timestamp"].head(50) - pd.Timedelta(days=400))
    return pa.Table.from_pandas(
        pd.concat([frame, frame.tail(50), strange, early]).sample(frac=1, random_state=0), preserve_index=False
    ).cast(rows.schema)


def test_a_training_set_joined_on_the_cluster_is_the_same(places: SimpleNamespace) -> None:
    asked_for = asked_rows(places.duckdb)
    on_spark = places.duckdb.settings.model_copy(update={"compute_url": places.spark.settings.compute_url})
    weekly = spec.model_copy(update={"partition_by": "week", "arrival": timedelta(days=2)})
    at, times = asked_for.column_names.index("event_timestamp"), asked_for["event_timestamp"]
    later = asked_for.set_column(at, "event_timestamp", pc.add(times, pa.scalar(timedelta(days=6, hours=12))))
    missing = []
    for model, rows, past in (
        (spec, asked_for, None),
        (weekly, later, times),
    ):  # of the later ones some values have expired
        here, there = (
            feature_store.historical(feature_store.open_store(settings), model, rows, past)
            for settings in (places.duckdb.settings, on_spark)
        )
        assert there.schema == here.schema
        pd.testing.assert_frame_equal(there.to_pandas(), here.to_pandas(), check_exact=True)
        missing.append(here["pickup_minutes_mean_28d"].null_count)
    assert 0 < missing[0] < asked_for.num_rows / 2
    assert missing[0] < missing[1] < asked_for.num_rows


@pytest.mark.parametrize("known_at_the_time", [False, True])
def test_ties_late_corrections_and_unknown_creation_count_as_on_duckdb(
    tmp_path: Path, spark_cluster: Any, known_at_the_time: bool
) -> None:
    random = np.random.default_rng(0)

    def rows(number: int) -> list[tuple[Any, ...]]:
        return [
            (
                None if random.random() < 0.05 else int(random.integers(0, 9)), (moment := hour(int(random.integers(0, 12)))),
                None if random.random() < 0.1 else moment + timedelta(hours=int(random.choice([0, 0, 1, 5]))),
                int(random.integers(0, 99)), None if random.random() < 0.2 else float(random.random()),
            )
            for _ in range(number)
        ]  # fmt: skip

    for part in range(3):
        write_past(tmp_path / "short" / f"{part}.parquet", rows(200))
    write_past(tmp_path / "ever.parquet", rows(200))
    write_past(tmp_path / "plain.parquet", rows(200))
    views = [
        past_view("short", tmp_path / "short"),
        past_view("ever", tmp_path / "ever.parquet", ttl=timedelta(0)),
        past_view("plain", tmp_path / "plain.parquet", created=""),
    ]
    entities = pd.DataFrame(
        {
            "zone": pd.array([None if n % 20 == 0 else n % 11 for n in range(500)], dtype="Int64"),
            "event_timestamp": [None if n % 25 == 3 else hour(n % 13 + (n % 7) / 7) for n in range(500)],
            "fare": range(500),
        }
    )
    stores = [
        open_store(tmp_path / "here", root=str(tmp_path)),
        open_store(
            tmp_path / "there", "feature_repo.spark_store.SparkAsofOfflineStore", root=str(tmp_path),
            compute_url=spark_cluster.url,
        ),
    ]  # fmt: skip
    found = []
    for store in stores:
        store.apply([ZONE, *views])
        job = store.get_historical_features(
            entity_df=entities, features=[f"{view.name}:{name}" for view in views for name in ("trips", "speed")],
            full_feature_names=True, filter_by_created_timestamp=known_at_the_time,
        )  # fmt: skip
        found.append(job.to_arrow())
    here, there = found
    assert there.schema == here.schema
    assert there.to_pylist() == here.to_pylist()
    assert 0 < here["short__trips"].null_count < 500


@pytest.fixture(scope="module")
def bundles(places: SimpleNamespace) -> Any:
    """A bundle trained on the joined rows, and its digest."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    settings = places.duckdb.settings
    store = feature_store.open_store(settings)
    joined = feature_store.historical(store, spec, asked_rows(places.duckdb))
    parts = ["train"] * (joined.num_rows - 200) + ["judge"] * 200
    moment = joined["event_timestamp"][0].as_py()
    window = Window(start=moment, split=moment, end=moment, partition_ids=())
    names = feature_store.feature_names(store, spec)
    data = write_training_set(joined.append_column("part", pa.array(parts)), names, window, settings.home / "set")
    train = read_part(data, "train")
    estimator = HistGradientBoostingRegressor(max_iter=20, random_state=0)
    estimator.fit(matrix(train, data.features), train["label"].to_numpy())
    return settings.home / "bundle", save_bundle(spec, estimator, data, settings.home / "bundle")


def test_batch_scoring_on_the_cluster_writes_the_same_file(
    places: SimpleNamespace, bundles: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_requests, "BATCH", 700)
    monkeypatch.setattr(spark, "ARROW_ROWS", 300)
    folder, digest = bundles
    rows = asked_rows(places.duckdb).drop_columns(["event_timestamp", "label"])
    rows = rows.append_column("note", pa.array([f"trip {n}" for n in range(rows.num_rows)]))
    pq.write_table(rows, tmp_path / "in.parquet")
    for name in ("duckdb", "spark"):
        settings = places.duckdb.settings.model_copy(update={"compute_url": getattr(places, name).settings.compute_url})
        question = asked(settings, spec, folder, digest, 7) if settings.compute_url else None
        scored = scoring.score_file(
            settings, spec, feature_store.open_store(settings), load_bundle(folder, digest), 7,
            str(tmp_path / "in.parquet"), str(tmp_path / f"{name}.parquet"), question,
        )  # fmt: skip
        assert scored.rows == rows.num_rows
    here, there = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("duckdb", "spark"))
    assert there.schema == here.schema
    assert there.equals(here)
    assert not list(places.duckdb.settings.home.glob("tmp/spark-*"))


def test_a_bundle_that_was_changed_scores_nothing_on_a_worker(
    places: SimpleNamespace, bundles: Any, tmp_path: Path
) -> None:
    folder, digest = bundles
    settings = places.duckdb.settings.model_copy(update={"compute_url": places.spark.settings.compute_url})
    pq.write_table(asked_rows(places.duckdb).drop_columns(["event_timestamp", "label"]), tmp_path / "in.parquet")
    question = asked(settings, spec, folder, "0" * 64, 7)
    with pytest.raises(TamperedError, match=r"^[^\n]*not the recorded file[^\n]*$"):
        scoring.score_file(
            settings, spec, feature_store.open_store(settings), load_bundle(folder, digest), 7,
            str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet"), question,
        )  # fmt: skip
    assert not (tmp_path / "out.parquet").exists()


def built(places: SimpleNamespace, on_spark: bool, limit: int | None, folder: Path) -> TrainingSet:
    """Write the training set of the newest window of the home on DuckDB, joined here or on the cluster."""
    url = places.spark.settings.compute_url if on_spark else ""
    settings = places.duckdb.settings.model_copy(update={"compute_url": url})
    landed = ledger.list_partitions(places.duckdb.engine, "taxi", "accepted")
    ledger.mark_featurized(places.duckdb.engine, [one.id for one in landed], datetime.now(UTC))
    accepted = ledger.list_partitions(places.duckdb.engine, "taxi", "accepted")
    bounded = spec.model_copy(update={"training": spec.training.model_copy(update={"max_rows": limit})})
    window = choose_window(bounded, accepted, timedelta(days=1))
    return build(settings, feature_store.open_store(settings), bounded, accepted, window, folder)


def test_a_budget_takes_the_same_rows_and_makes_the_same_file_on_the_cluster(
    places: SimpleNamespace, tmp_path: Path
) -> None:
    whole, within = (built(places, False, limit, tmp_path / f"here-{limit}") for limit in (None, 1000))
    for one, limit in ((whole, None), (within, 1000)):
        assert built(places, True, limit, tmp_path / f"there-{limit}").digest == one.digest
    assert within.train_rows == 1000 < whole.train_rows
    assert within.judge_rows == whole.judge_rows > 0


def test_trials_on_the_cluster_find_the_same_parameters_and_errors_are_told(
    places: SimpleNamespace, tmp_path: Path
) -> None:
    data = built(places, False, None, tmp_path)
    there = places.duckdb.settings.model_copy(update={"compute_url": places.spark.settings.compute_url})
    params = {"learning_rate": 0.15, "max_iter": 40, "min_samples_leaf": 40}
    training = spec.training.model_copy(update={"together": 4})
    tuned = spec.model_copy(update={"params": params, "training": training})
    jobs = spark.session(there).sparkContext.statusTracker()
    before = len(jobs.getJobIdsForGroup(None))
    elsewhere = spark_fitting.measuring(there, tuned, data, spec.estimator)
    assert fitting.tune(tuned, data, 6, elsewhere=elsewhere) == fitting.tune(tuned, data, 6)
    assert len(jobs.getJobIdsForGroup(None)) == before + 2  # four trials, and two
    wrong = tuned.model_copy(update={"params": {**params, "loss": "none"}})
    with pytest.raises(ContractError, match=r"^[^\n]*fit failed with [^\n]*$"):
        fitting.tune(wrong, data, 4, elsewhere=spark_fitting.measuring(there, wrong, data, spec.estimator))
    Path(data.uri).unlink()
    Path(data.uri).write_bytes(b"other")
    with pytest.raises(TamperedError, match="not the training set that was written"):
        fitting.tune(tuned, data, 4, elsewhere=elsewhere)
