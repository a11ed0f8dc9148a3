"""Batch scoring: the same features and the same model as online, a whole file or none."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from flows import database, ledger, run_records
from flows.errors import RefusedError, UnavailableError, UsageError
from flows.models.taxi.simulator import simulate_day
from flows.models.taxi.spec import spec
from flows.settings import Settings
from flows.spec import RequestField
from flows.steps import feature_store, feature_tables, score_requests, scoring
from flows.steps.bundle import Bundle, frame_of, load_bundle
from flows.steps.bundling import save_bundle
from flows.steps.files import sha256_of, write_parquet
from flows.steps.training_set import Window, matrix, read_part, write_training_set

FIRST = date(2024, 1, 1)
DAYS = 6
ZONE = ZoneInfo(spec.source.time_zone)
REQUEST = [field.name for field in spec.request]


def events(first: int, last: int) -> pd.DataFrame:
    """Return accepted rows of the days [first, last)."""
    days = [simulate_day(FIRST + timedelta(days=n), trips=400) for n in range(first, last)]
    frame = pd.concat(days, ignore_index=True)
    duration = frame["lpep_dropoff_datetime"] - frame["lpep_pickup_datetime"]
    frame["minutes"] = frame["label"] = duration.dt.total_seconds() / 60
    frame = frame[frame["minutes"].between(1, 60) & (frame["lpep_pickup_datetime"] >= pd.Timestamp(FIRST))]
    frame["event_timestamp"] = frame["lpep_pickup_datetime"].dt.tz_localize(ZONE).dt.tz_convert("UTC")
    frame["label_timestamp"] = frame["event_timestamp"] + duration + spec.label.delay
    return frame.sort_values("event_timestamp", ignore_index=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A home with features of six days, offline and online, and a champion that uses all of them."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    settings = Settings(home=tmp_path_factory.mktemp("home"))
    engine = database.connect(settings)
    rows = events(0, DAYS)
    path = write_parquet(pa.Table.from_pandas(rows, preserve_index=False), settings.lake("taxi") / "days.parquet")
    landed = ledger.add_partition(
        engine, model="taxi", key="days", digest=sha256_of(path), source="test", uri=str(path), rows=len(rows)
    )
    times = rows["event_timestamp"]
    ledger.decide_partition(
        engine, landed.id, "accepted", accepted_uri=str(path), first_event=times.min().to_pydatetime(),
        last_event=times.max().to_pydatetime(),
    )  # fmt: skip
    feature_store.apply_definitions(settings, spec)
    planned = feature_tables.plan(spec, ledger.list_partitions(engine, "taxi", "accepted"))
    feature_tables.compute(settings, spec, planned)
    feature_store.materialize(settings, spec, planned.ticks[0], planned.ticks[-1])
    store = feature_store.open_store(settings)

    names = feature_store.feature_names(store, spec)
    known = pa.Table.from_pandas(rows[[*REQUEST, "event_timestamp", "label"]], preserve_index=False)
    joined = feature_store.historical(store, spec, known)
    parts = ["train"] * (joined.num_rows - 200) + ["judge"] * 200
    window = Window(start=times.min(), split=times.max(), end=times.max(), partition_ids=())
    data = write_training_set(joined.append_column("part", pa.array(parts)), names, window, settings.home / "set")
    train = read_part(data, "train")
    estimator = HistGradientBoostingRegressor(max_iter=30, random_state=0)
    estimator.fit(matrix(train, data.features), train["label"].to_numpy())
    digest = save_bundle(spec, estimator, data, settings.home / "bundle")
    ledger.promote(
        engine, model="taxi", expected=None, kind="promote", version=7, run_id="r",
        model_uri=str(settings.home / "bundle"), digest=digest, who="test", why="test", evidence={},
    )  # fmt: skip
    return SimpleNamespace(settings=settings, store=store, bundle=load_bundle(settings.home / "bundle", digest))


@pytest.fixture
def requests():
    """Trips of the day after, with a column that the model does not know, in no order."""
    frame = events(DAYS, DAYS + 1)[REQUEST].sample(100, random_state=0, ignore_index=True)
    return frame.assign(note=[f"trip {n}" for n in range(100)])


def run(place, source, target) -> scoring.Scored:
    return scoring.score_file(place.settings, spec, place.store, place.bundle, 7, str(source), str(target))


def online(place, frame: pd.DataFrame) -> np.ndarray:
    """Return what the service would answer: online features, the same bundle."""
    manifest = place.bundle.manifest
    times = frame["lpep_pickup_datetime"].dt.to_pydatetime()
    rows = [row | {"lpep_pickup_datetime": time} for row, time in zip(frame.to_dict("records"), times, strict=True)]
    found = feature_store.read_online(place.store, spec, manifest.feature_names, rows)
    return place.bundle.scores(frame_of(manifest, [found.columns[name] for name in manifest.feature_names]))


def test_batch_and_online_agree_and_rows_keep_their_order_and_columns(place, requests, tmp_path):
    requests.to_parquet(tmp_path / "in.parquet")
    scored = run(place, tmp_path / "in.parquet", tmp_path / "deep" / "out.parquet")
    assert scored == scoring.Scored(target=str(tmp_path / "deep" / "out.parquet"), rows=100, version=7)
    out = pq.read_table(scored.target).to_pandas()
    assert list(out) == [*REQUEST, "note", "prediction", "model_version"]
    pd.testing.assert_frame_equal(out[[*REQUEST, "note"]], requests)
    assert out["model_version"].eq(7).all()
    np.testing.assert_allclose(out["prediction"], online(place, requests[REQUEST]), rtol=1e-12)
    assert out["prediction"].nunique() > 50


@pytest.mark.parametrize("kind", ["local", "zoned", "text", "text with a zone", "text of UTC"])
def test_a_time_means_the_same_however_it_is_told(place, requests, tmp_path, kind):
    requests.to_parquet(tmp_path / "in.parquet")
    run(place, tmp_path / "in.parquet", tmp_path / "plain.parquet")
    times = requests["lpep_pickup_datetime"]
    zoned = times.dt.tz_localize(ZONE)
    told = {
        "local": times.astype("datetime64[ns]"),
        "zoned": zoned.dt.tz_convert("Asia/Tokyo"),
        "text": times.dt.strftime("%Y-%m-%dT%H:%M:%S"),
        "text with a zone": zoned.map(lambda time: time.isoformat()),
        "text of UTC": zoned.dt.tz_convert("UTC").dt.strftime("%Y-%m-%d %H:%M:%S UTC"),
    }[kind]
    requests.assign(lpep_pickup_datetime=told).to_parquet(tmp_path / "told.parquet")
    run(place, tmp_path / "told.parquet", tmp_path / "out.parquet")
    one, other = (pq.read_table(tmp_path / name)["prediction"] for name in ("plain.parquet", "out.parquet"))
    assert one.equals(other)


@pytest.mark.parametrize("name", ["in [1].csv", "in.CSV.gz"])
def test_csv_in_and_out_gives_what_parquet_gives(place, requests, tmp_path, name):
    requests.to_parquet(tmp_path / "in.parquet")
    requests.to_csv(tmp_path / name, index=False, compression="gzip" if name.endswith("gz") else None)
    run(place, tmp_path / "in.parquet", tmp_path / "out.parquet")
    run(place, tmp_path / name, tmp_path / "out.csv")
    out = pd.read_csv(tmp_path / "out.csv", parse_dates=["lpep_pickup_datetime"])
    assert list(out) == [*REQUEST, "note", "prediction", "model_version"]
    np.testing.assert_allclose(out["prediction"], pq.read_table(tmp_path / "out.parquet")["prediction"], rtol=1e-12)
    assert out["lpep_pickup_datetime"].tolist() == requests["lpep_pickup_datetime"].tolist()


def test_several_batches_are_one_file(place, requests, tmp_path, monkeypatch):
    requests.to_parquet(tmp_path / "in.parquet")
    run(place, tmp_path / "in.parquet", tmp_path / "whole.parquet")
    monkeypatch.setattr(score_requests, "BATCH", 30)
    run(place, tmp_path / "in.parquet", tmp_path / "parts.parquet")
    assert pq.read_table(tmp_path / "parts.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))


def test_a_file_in_no_order_of_time_is_predicted_by_time_and_written_in_its_own_order(place, tmp_path, monkeypatch):
    frame = events(1, DAYS)[REQUEST].assign(Prediction="theirs")
    shuffled = frame.sample(frac=1, random_state=0)
    spans = []

    def predict(*given):
        times = given[-1]["event_timestamp"].to_numpy()
        spans.append(times.max() - times.min())
        return known(*given)

    known = scoring.predict
    monkeypatch.setattr(scoring, "predict", predict)
    for name, rows in (("whole", frame), ("sorted", frame), ("shuffled", shuffled)):
        rows.to_parquet(tmp_path / f"{name}.parquet", index=False, row_group_size=500)
        run(place, tmp_path / f"{name}.parquet", tmp_path / f"{name} out.parquet")
        monkeypatch.setattr(score_requests, "BATCH", 300)
    batches = (len(spans) - 1) // 2
    assert batches >= 5
    assert spans[1 : 1 + batches] == pytest.approx(spans[1 + batches :])
    assert max(spans[1:]) < spans[0] / 3
    whole, ordered, mixed = (
        pd.read_parquet(tmp_path / f"{name} out.parquet") for name in ("whole", "sorted", "shuffled")
    )
    assert mixed["Prediction"].tolist() == ["theirs"] * len(frame)
    pd.testing.assert_frame_equal(ordered, whole)
    mixed.index = shuffled.index
    pd.testing.assert_frame_equal(mixed.sort_index(), whole)


def test_what_does_not_fit_into_memory_and_space_says_so_and_writes_nothing(place, tmp_path, monkeypatch):
    events(1, DAYS)[REQUEST].sample(frac=1, random_state=0).to_parquet(tmp_path / "in.parquet", row_group_size=500)
    monkeypatch.setattr(score_requests, "BATCH", 300)
    monkeypatch.setattr(score_requests, "MEMORY", "1KB")
    with pytest.raises(UnavailableError, match="and its answers do not fit"):
        run(place, tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_a_classifier_gives_the_likeliest_class_and_all_probabilities(place, requests):
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows = feather.read_table(place.settings.home / "set" / "training_set.arrow")
    names = place.bundle.manifest.feature_names
    kinds = np.array(["short", "middle", "long"])[np.digitize(rows["label"].to_numpy(), [10, 20])]
    estimator = HistGradientBoostingClassifier(max_iter=10, random_state=0).fit(matrix(rows, names), kinds)
    manifest = place.bundle.manifest.model_copy(
        update={"task": "multiclass", "classes": tuple(estimator.classes_.tolist())}
    )
    asked = requests.assign(event_timestamp=requests["lpep_pickup_datetime"].dt.tz_localize(ZONE)).drop(columns="note")
    table = pa.Table.from_pandas(asked, preserve_index=False)
    found = scoring.predict(spec, place.store, Bundle(manifest, estimator), 7, table).to_pandas()
    shares = found[["probability_long", "probability_middle", "probability_short"]]
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert found["prediction"].tolist() == [name.removeprefix("probability_") for name in shares.idxmax(axis=1)]
    assert found["prediction"].nunique() > 1


def test_a_time_to_the_nanosecond_in_another_column_is_kept(place, requests, tmp_path):
    seen = pd.Timestamp("2024-01-05 08:30:00.123456789")
    requests.assign(note=[seen] * 100).to_parquet(tmp_path / "in.parquet")
    run(place, tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert set(pd.read_parquet(tmp_path / "out.parquet")["note"]) == {seen}


def test_an_unknown_zone_is_predicted_too(place, requests, tmp_path):
    requests.assign(PULocationID=9999).to_parquet(tmp_path / "in.parquet")
    run(place, tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert np.isfinite(pq.read_table(tmp_path / "out.parquet")["prediction"].to_numpy()).all()


def with_distance(row, value):
    """Return a change that puts another distance into one row, the first being 1."""
    return lambda frame: frame.assign(trip_distance=frame["trip_distance"].where(frame.index != row - 1, value))


CASES = {
    "a missing column": (lambda frame: frame.drop(columns="trip_distance"), "lacks column trip_distance"),
    "no rows": (lambda frame: frame.head(0), "no rows"),
    "a missing value": (with_distance(8, None), "trip_distance is missing in row 8"),
    "a value too low": (with_distance(3, -1.0), "'-1.0' in row 3 .*at least 0"),
    "infinity": (lambda frame: frame.assign(trip_distance=np.inf), "trip_distance is 'inf.*' in row 1 .100 such rows"),
    "half a zone": (lambda frame: frame.assign(PULocationID=74.5), "PULocationID is '74.5' .*whole number"),
    "text for a number": (lambda frame: frame.assign(trip_distance="far"), "trip_distance is 'far'"),
    "text for a time": (lambda frame: frame.assign(lpep_pickup_datetime="soon"), "_datetime is 'soon' .*a time"),
    "a column that scoring adds": (lambda frame: frame.assign(prediction=1.0), "column prediction, which scoring adds"),
}


@pytest.mark.parametrize("ending", ["parquet", "csv"])
@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_by_name_and_nothing_is_written(place, requests, tmp_path, case, ending):
    change, words = CASES[case]
    source = tmp_path / f"in.{ending}"
    frame = change(requests)
    frame.to_parquet(source) if ending == "parquet" else frame.to_csv(source, index=False)
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match=words) as refusal:
        run(place, source, tmp_path / "out" / "out.parquet")
    assert "\n" not in str(refusal.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_request_field_may_be_called_n(tmp_path):
    field = RequestField(name="n", type="float", description="a count", example=1.0, minimum=0)
    model = spec.model_copy(update={"request": (field,)})
    times = pd.date_range("2024-01-01", periods=4, freq="h")
    frame = pd.DataFrame({spec.source.event_time: times, "n": [5.0, 6.0, -7.0, 8.0]})
    frame.to_parquet(tmp_path / "in.parquet")
    with (
        duckdb.connect() as connection,
        pytest.raises(UsageError, match=r"column n is '-7.0' in row 3 \(1 such rows\)"),
    ):
        score_requests.prepare(connection, model, tmp_path / "in.parquet", [])


def test_texts_of_a_csv_file_stay_as_they_are_and_a_day_first_is_not_guessed(tmp_path):
    field = RequestField(name="code", type="string", description="a code", example="007")
    model = spec.model_copy(update={"request": (field,)})
    time = spec.source.event_time
    for texts in (["True", "False"], ["007", "012"], ["1.50", "2"], ["2024-01-01", "2024-01-02"]):
        frame = pd.DataFrame({time: ["2024-03-01 10:00:00", "2024-03-02T10:00:00"], "code": texts, "count": [1, 2]})
        frame.to_csv(tmp_path / "in.csv", index=False)
        with duckdb.connect() as connection:
            score_requests.prepare(connection, model, tmp_path / "in.csv", [])
            asked = score_requests.requests_of(model, connection.execute("FROM typed").to_arrow_table())
        assert asked["code"].to_pylist() == texts
    frame.assign(**{time: "01/02/2024 10:00:00"}).to_csv(tmp_path / "in.csv", index=False)
    with (
        duckdb.connect() as connection,
        pytest.raises(UsageError, match=r"is '01/02/2024 10:00:00' in row 1 .* a time"),
    ):
        score_requests.prepare(connection, model, tmp_path / "in.csv", [])


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("absent.parquet", "out.parquet", "is not a file"),
        ("in.xlsx", "out.parquet", "cannot be read: name a file that ends in"),
        ("in.parquet", "out.json", "cannot be written: name a file that ends in"),
        ("in.parquet", "in.parquet", "the input itself"),
        ("in.parquet", "folder.csv", "is a folder"),
        ("torn.parquet", "out.parquet", "cannot be read"),
        ("nested.parquet", "out.csv", "nested column note"),
    ],
)
def test_bad_paths_are_refused_and_an_earlier_output_stays(place, requests, tmp_path, source, target, words):
    requests.to_parquet(tmp_path / "in.parquet")
    requests.assign(note=[[1, 2]] * 100).to_parquet(tmp_path / "nested.parquet")
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "in.parquet").read_bytes()[:-100])
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "out.parquet").write_text("earlier")
    (tmp_path / "out.csv").write_text("earlier")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UsageError, match=words):
        run(place, tmp_path / source, tmp_path / target)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "out.parquet").read_text() == (tmp_path / "out.csv").read_text() == "earlier"


def test_the_flow_scores_with_the_champion_and_refuses_without_one(place, requests, tmp_path, monkeypatch, prefect_api):
    from flows.score import score

    requests.to_parquet(tmp_path / "in.parquet")
    monkeypatch.setenv("EVERGREEN_HOME", str(place.settings.home))
    found = score(source=str(tmp_path / "in.parquet"), target=str(tmp_path / "out.csv"))
    assert found == {"model": "taxi", "target": str(tmp_path / "out.csv"), "rows": 100, "version": 7}
    assert Path(found["target"]).read_text().count("\n") == 101
    run = run_records.newest(database.connect(place.settings), "taxi", 1)[0]
    assert (run.flow, run.state) == ("score", "completed")
    assert run.ended_at is not None
    assert run.ended_at <= datetime.now(UTC)
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "empty"))
    with pytest.raises(RefusedError, match="evergreen train"):
        score(source=str(tmp_path / "in.parquet"), target=str(tmp_path / "other.csv"))
    assert not (tmp_path / "other.csv").exists()
