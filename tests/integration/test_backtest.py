"""The time machine on eight simulated days: real windows, real gates, one training a window whoever asks for it."""

import json
from datetime import date, timedelta
from pathlib import Path

import pytest
from team.counted import built
from training_parts import copy_home, featurized, opened

from flows import database, ledger
from flows.errors import ContractError, RefusedError, UsageError
from flows.lookup import load_model
from flows.show_backtest import show_backtest
from flows.steps import arrival, feature_store, past, registry, training_set
from flows.steps.backtest import timeline
from flows.steps.backtest.findings import POLICIES, parse_policies
from flows.terminal import console


@pytest.fixture
def days_home(tmp_path, tmp_path_factory, simulated_days, prefect_api):
    source = featurized(tmp_path_factory.getbasetemp(), simulated_days, prefect_api)
    with opened(tmp_path / "home", prefect_api, '["team.replayed"]') as home:
        copy_home(source, home)
        yield home


def test_a_replay_that_broke_off_goes_on_and_trains_each_window_once(days_home, tmp_path, monkeypatch):
    from flows.backtest import backtest

    wanted = {"start": date(2024, 1, 6), "every": "day", "cost_train": 500.0, "html": tmp_path / "page.html"}
    (days_home.home / "fails-after").write_text("1")
    with pytest.raises(ContractError, match="no more today"):
        backtest(**wanted)
    assert built(days_home.home) == 1
    (days_home.home / "fails-after").unlink()

    found = backtest(**wanted)
    assert built(days_home.home) == len(found["periods"]) == 3  # all policies and the best plan share them
    assert found["found_before"] == 1
    assert [one["policy"] for one in found["outcomes"]] == list(POLICIES)
    by_name = {one["policy"]: one for one in found["outcomes"]}
    assert by_name["never"]["trained"] == []
    assert by_name["every-period"]["trained"] == [1, 2]
    for one in found["outcomes"]:
        assert one["total"] >= found["best"]["total"] - 1e-9
        assert one["regret"] == pytest.approx(one["total"] - found["best"]["total"])
        assert set(one["refused"]) <= set(one["trained"])
        trained = 500.0 * len(one["trained"])
        served = sum(error * rows for error, rows in zip(one["errors"], found["rows"], strict=True))
        assert one["total"] == pytest.approx(trained + served)

    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert not [part for part in ("http://", "https://", "<script") if part in page]
    assert all(policy in page for policy in POLICIES)
    monkeypatch.setattr(console, "width", 80)
    with console.capture() as printed:
        show_backtest(found)
    lines = printed.get().splitlines()
    assert {line.split()[0] for line in lines if line} >= set(POLICIES)
    assert "trainings" in printed.get()
    stored = json.loads(Path(found["files"]["json"]).read_text())
    assert stored["outcomes"] == json.loads(json.dumps(found["outcomes"]))
    run = registry.open_client(days_home).get_run(found["files"]["mlflow_run"])
    assert run.data.metrics["cost/never"] == pytest.approx(by_name["never"]["total"])
    assert past.read(days_home, "taxi").errors.shape == (3, 3)
    # What serves is left as it is: there was no champion, and there is none.
    assert ledger.champion(database.connect(days_home), "taxi") is None

    again = backtest(**{**wanted, "policies": ["never", "cost-aware"], "cost_train": 1.0})
    assert built(days_home.home) == 3
    assert again["found_before"] == 3
    assert [one["policy"] for one in again["outcomes"]] == ["never", "cost-aware"]


def test_rows_of_late_files_are_replayed_as_served_and_train_with_a_past_of_any_age(days_home):
    spec = load_model("taxi", days_home).model_copy(update={"arrival": timedelta(hours=36)})
    accepted = ledger.list_partitions(database.connect(days_home), "taxi", "accepted")
    _, steps = timeline.plan_steps(spec, accepted, "day", date(2024, 1, 6), None)
    store = feature_store.open_store(days_home)
    replayed = timeline.read_history(days_home, store, spec, accepted, steps, timedelta(days=1))
    times = replayed.rows["event_timestamp"]
    asked = replayed.rows.drop_columns(
        [name for name in replayed.rows.column_names if name.endswith(replayed.features)]
    )
    served, late = (
        feature_store.historical(store, spec, asked, past(spec, times)) for past in (arrival.arrived, arrival.drawn)
    )
    names = list(replayed.features)
    assert replayed.rows.select(names).equals(served.select(names))
    assert (
        replayed.rows.select([training_set.DRAWN + name for name in names])
        .rename_columns(names)
        .equals(late.select(names))
    )
    assert not served.select(names).equals(late.select(names))
    window = replayed.window(0)
    trained = training_set.as_trained(training_set.parted(spec, replayed.known_by(0), window), replayed.features)
    assert not [name for name in trained.column_names if name.startswith(training_set.DRAWN)]


def test_what_cannot_be_replayed_is_refused_with_the_mend(days_home):
    from flows.backtest import backtest

    with pytest.raises(UsageError, match="choose other --start"):
        backtest(start=date(2024, 1, 8), every="day")
    with pytest.raises(UsageError, match="'sometimes' is not known; known are: never"):
        parse_policies(["never", "sometimes"])
    with pytest.raises(RefusedError, match="not more than the 1 day, 0:00:00 that judge the model; ingest more"):
        backtest(start=date(2024, 1, 2), every="day", judge_days=1)


def test_a_window_is_trained_again_where_pythons_parser_failed_beside_another_thread_and_not_for_a_fault_of_ours():
    from prefect.states import Failed

    from flows.backtest import train

    again = train.retry_condition_fn
    assert train.retries
    assert again(train, None, Failed(data=SystemError("AST constructor recursion depth mismatch")))
    assert not again(train, None, Failed(data=ValueError("wrong")))
