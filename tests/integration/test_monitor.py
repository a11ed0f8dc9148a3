"""Monitoring from end to end: real logs, labels, bundle and ledger, a real Prefect server; a simulated city."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pytest

from flows import database, ledger
from flows.errors import ContractError, RefusedError
from flows.models.taxi.features import request_features
from flows.models.taxi.simulator import simulate_day
from flows.models.taxi.spec import spec
from flows.settings import Settings
from flows.steps import evaluation, feature_store, reference
from flows.steps.bundle import load_bundle
from flows.steps.bundling import save_bundle
from flows.steps.files import sha256_of, write_parquet
from flows.steps.prediction_log import Answer, PredictionLog
from flows.steps.training_set import TrainingSet, Window, matrix, read_part, write_training_set

FEATURES = ("hour", "weekday", "rush_hour", "distance_miles")
FIRST = date(2024, 1, 1)
TRIPS = 500
FITTED, KNOWN = 14, 16  # days that train; days that train or judge


def trips(first: int, last: int, **change) -> pd.DataFrame:
    """Return the trips of days [first, last) with all columns of accepted rows and of request features."""
    days = [simulate_day(FIRST + timedelta(days=n), trips=TRIPS, **change) for n in range(first, last)]
    frame = pd.concat(days, ignore_index=True)
    frame = frame[frame["lpep_pickup_datetime"] >= pd.Timestamp(FIRST)].reset_index(drop=True)
    seconds = (frame["lpep_dropoff_datetime"] - frame["lpep_pickup_datetime"]).dt.total_seconds()
    frame["minutes"] = frame["label"] = seconds / 60
    local = frame["lpep_pickup_datetime"].dt.tz_localize(
        spec.source.time_zone, ambiguous=True, nonexistent="shift_forward"
    )
    frame["event_timestamp"] = local.dt.tz_convert("UTC")
    frame["label_timestamp"] = (
        frame["event_timestamp"] + frame["lpep_dropoff_datetime"].sub(frame["lpep_pickup_datetime"]) + spec.label.delay
    )
    return pd.concat([frame, request_features(frame[["lpep_pickup_datetime", "trip_distance"]])], axis=1)


def accept(engine, folder: Path, key: str, rows: pd.DataFrame) -> None:
    """Land and accept a partition of these rows."""
    table = pa.Table.from_pandas(rows.drop(columns=list(FEATURES)), preserve_index=False)
    path = write_parquet(table, folder / f"{key}.parquet")
    landed = ledger.add_partition(
        engine, model="taxi", key=key, digest=sha256_of(path), source="test", uri=str(path), rows=len(rows)
    )
    ledger.decide_partition(
        engine, landed.id, "accepted", accepted_uri=str(path), accepted_rows=len(rows),
        first_event=rows["event_timestamp"].min().to_pydatetime(),
        last_event=rows["event_timestamp"].max().to_pydatetime(),
    )  # fmt: skip


def train_champion(folder: Path, rows: pd.DataFrame) -> str:
    """Fit a model on known rows, write its bundle and reference, return the digest."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    rows = rows[rows["label"].between(spec.label.low, spec.label.high)].sort_values("event_timestamp")
    split = pd.Timestamp(FIRST + timedelta(days=FITTED), tz=spec.source.time_zone).to_pydatetime().astimezone(UTC)
    rows = rows.assign(part=np.where(rows["event_timestamp"] < split, "train", "judge"))
    times = rows["event_timestamp"]
    window = Window(start=times.min(), split=split, end=times.max(), partition_ids=())
    data: TrainingSet = write_training_set(
        pa.Table.from_pandas(rows, preserve_index=False), list(FEATURES), window, folder / "data"
    )
    train = read_part(data, "train")
    estimator = HistGradientBoostingRegressor(max_iter=100, random_state=0)
    estimator.fit(matrix(train, data.features), train["label"].to_numpy())
    digest = save_bundle(spec, estimator, data, folder)
    reference.write(reference.build(spec, data, estimator, *evaluation.predict(spec, estimator, data)), folder)
    return digest


def log_predictions(settings: Settings, folder: Path, digest: str, rows: pd.DataFrame, version: int = 1) -> None:
    """Answer these trips with the champion, as the service does: one request a row."""
    predicted = load_bundle(folder, digest).scores(rows[list(FEATURES)])
    log = PredictionLog(settings, spec)
    fields = [field.name for field in spec.request]
    requests = [dict(zip(fields, values, strict=True)) for values in rows[fields].itertuples(index=False, name=None)]
    requests = [one | {"lpep_pickup_datetime": one["lpep_pickup_datetime"].to_pydatetime()} for one in requests]
    for place, (request, features) in enumerate(zip(requests, rows[list(FEATURES)].to_dict("records"), strict=True)):
        answer = Answer(prediction=float(predicted[place]), probabilities=None, features=features, unknown=[])
        log.append(f"{version}-{place}", datetime.now(UTC), version, [request], [answer])
    log.close()


@pytest.fixture(scope="module")
def champion(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    known = trips(0, KNOWN)
    return folder, train_champion(folder, known), known


@pytest.fixture
def home(tmp_path, monkeypatch, champion, prefect_api):
    """A home with 16 known days and a promoted champion of 14 of them; returns settings and ledger."""
    folder, digest, known = champion
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    settings = Settings(home=tmp_path)
    engine = database.connect(settings)
    accept(engine, tmp_path, "known", known)
    ledger.promote(
        engine, model="taxi", expected=None, kind="promote", version=1, run_id="r", model_uri=str(folder),
        digest=digest, who="test", why="first", evidence={"error": 3.3},
    )  # fmt: skip
    return settings, engine


def watch(**arguments):
    from flows.monitor import monitor

    return monitor(**{"retrain": False, **arguments})


def test_calm_days_are_judged_calm_and_the_page_needs_nothing_from_elsewhere(home, champion):
    settings, engine = home
    folder, digest, _ = champion
    days = trips(KNOWN, KNOWN + 7)
    accept(engine, settings.home, "calm", days)
    log_predictions(settings, folder, digest, days)
    found = watch(retrain=True)
    assert (found["retrain"], found["reasons"], found["held"], found["training"]) == (False, [], [], None)
    performance = found["performance"]
    assert performance["predictions"] == len(days)
    assert performance["labelled"] == days["label"].between(1, 60).sum()
    assert performance["waiting"] == 0
    assert 0.9 < performance["ratio"] < 1.1
    assert {one["feature"] for one in found["drift"]} == {"distance_miles", "hour", "prediction", "label"}
    json.dumps(found)
    page = Path(found["report"])
    assert page.parent == settings.docs / "taxi"
    text = page.read_text()
    assert "No cause to retrain." in text
    assert text.count("data:image/png;base64,") == 2
    assert "http" not in text.replace("data:image", "")


def test_changed_roads_are_seen_as_drift_and_as_a_risen_error_and_told_in_one_decision(home, champion):
    settings, engine = home
    folder, digest, _ = champion
    days = trips(KNOWN, KNOWN + 7, roads_changed=True)
    log_predictions(settings, folder, digest, days)
    for number, (_, rows) in enumerate(days.groupby(days["lpep_pickup_datetime"].dt.date)):
        accept(engine, settings.home, f"day{number}", rows)
    found = watch()
    assert found["retrain"]
    assert [reason.split(":")[0] for reason in found["reasons"]] == ["performance", "drift"]
    assert found["performance"]["degraded"]
    assert found["performance"]["ratio"] > 1.3
    assert "distance_miles" in found["drifted"]
    assert found["training"] is None
    assert "Retrain." in Path(found["report"]).read_text()


def test_a_policy_that_the_spec_names_decides_on_what_was_served_since_the_training(home, champion, monkeypatch):
    settings, engine = home
    folder, digest, _ = champion
    monkeypatch.setenv("EVERGREEN_MODEL_PACKAGES", '["team.costed"]')
    days = trips(KNOWN, KNOWN + 3)
    accept(engine, settings.home, "calm", days)
    log_predictions(settings, folder, digest, days)
    found = watch()
    assert (found["retrain"], found["reasons"]) == (False, [])  # what has drifted, or not, is not asked for
    changed = trips(KNOWN + 3, KNOWN + 5, roads_changed=True)
    accept(engine, settings.home, "changed", changed)
    log_predictions(settings, folder, digest, changed)
    found = watch()
    assert found["retrain"]
    assert len(found["reasons"]) == 1
    assert found["reasons"][0].startswith("performance: a new model would have spared ")
    assert found["reasons"][0].endswith(", and a training costs 1000")


def test_a_misspelt_column_does_not_switch_drift_off(home, monkeypatch):
    from flows import monitor

    settings, _ = home
    feature_store.apply_definitions(settings, spec)
    for name, words in (("distnace_miles", "drift_columns names 'distnace_miles'"), ("pickup_trips_28d", None)):
        triggers = spec.triggers.model_copy(update={"drift_columns": ("hour", name)})
        monkeypatch.setattr(monitor, "load_model", lambda *_, own=triggers: spec.model_copy(update={"triggers": own}))
        if words:
            with pytest.raises(ContractError, match=words):
                watch()
        else:
            assert watch()["verdict"]  # a feature that the champion does not know yet


def test_drift_is_seen_before_any_label_came_but_waits_for_something_to_learn_from(home, champion):
    settings, _ = home
    folder, digest, _ = champion
    log_predictions(settings, folder, digest, trips(KNOWN, KNOWN + 2, roads_changed=True))
    found = watch(retrain=True)
    assert found["performance"]["labelled"] == 0
    assert "distance_miles" in found["drifted"]
    assert not found["retrain"]
    assert "nothing new" in found["held"][0]
    assert "held back" in Path(found["report"]).read_text()


def test_nothing_predicted_yet_is_said_and_fine(home):
    found = watch()
    assert found["verdict"].startswith("Nothing to judge yet")
    assert (found["retrain"], found["performance"]["predictions"]) == (False, 0)
    assert "Nothing to judge yet" in Path(found["report"]).read_text()


def test_answers_of_another_version_and_for_rows_that_were_fitted_do_not_count(home, champion):
    settings, _ = home
    folder, digest, known = champion
    later = trips(KNOWN, KNOWN + 1)
    log_predictions(settings, folder, digest, later, version=2)
    log_predictions(settings, folder, digest, known[known["lpep_pickup_datetime"] < "2024-01-03"])
    assert watch()["performance"]["predictions"] == 0


def test_days_narrow_the_window(home, champion):
    settings, _ = home
    folder, digest, _ = champion
    log_predictions(settings, folder, digest, trips(KNOWN, KNOWN + 3))
    assert watch(days=1)["performance"]["predictions"] < 0.45 * watch(days=3)["performance"]["predictions"]


def test_a_quarantined_partition_is_told_and_retrains_nothing(home):
    _, engine = home
    landed = ledger.add_partition(engine, model="taxi", key="bad", digest="0" * 64, source="s", uri="u", rows=5)
    ledger.decide_partition(engine, landed.id, "quarantined", reasons=["column trip_distance is missing"])
    found = watch(retrain=True)
    assert found["data_problems"] == ["partition bad is quarantined: column trip_distance is missing"]
    assert not found["retrain"]


def test_without_a_champion_it_is_refused_with_the_mend(tmp_path, monkeypatch, prefect_api):
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    with pytest.raises(RefusedError, match="evergreen train"):
        watch()


def test_a_bundle_without_a_reference_is_judged_by_the_evidence(home, champion, tmp_path):
    settings, engine = home
    folder, digest, _ = champion
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("model.skops", "serving.json"):
        (bare / name).write_bytes((folder / name).read_bytes())
    ledger.promote(
        engine, model="taxi", expected=ledger.champion(engine, "taxi"), kind="promote", version=2, run_id="r",
        model_uri=str(bare), digest=digest, who="test", why="bare", evidence={"error": 4.0},
    )  # fmt: skip
    days = trips(KNOWN, KNOWN + 3)
    accept(engine, settings.home, "days", days)
    log_predictions(settings, folder, digest, days, version=2)
    found = watch()
    assert found["performance"]["reference_error"] == found["performance"]["expected"] == 4.0
    assert found["drift"] == []


def test_a_torn_reference_is_refused_with_the_mend(tmp_path, champion, home):
    _, engine = home
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / reference.FILE).write_text('{"drift": {"rows"')
    torn = ledger.champion(engine, "taxi").model_copy(update={"model_uri": str(tmp_path / "torn")})
    with pytest.raises(ContractError, match="train and promote again"):
        reference.read(spec, torn)


def test_a_reference_holds_all_features_the_prediction_and_the_label(champion):
    folder, _, known = champion
    found = json.loads((folder / reference.FILE).read_text())
    assert [column["name"] for column in found["drift"]["columns"]] == [*FEATURES, "prediction", "label"]
    judged = feather.read_table(folder / "data" / "training_set.arrow")["part"].to_pylist().count("judge")
    assert found["expected"]["rows"] == judged
    assert found["drift"]["rows"] + judged == known["label"].between(1, 60).sum()
