"""Trials: who answers a request, which bounds end it, what labels say, and one at a time in the ledger."""

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from serving_parts import eventually, home

from flows import database, ledger, trials
from flows.errors import ConflictError
from flows.models.taxi.spec import spec
from flows.spec import Metric, Rollout
from flows.steps.prediction_hours import fold
from flows.steps.prediction_log import Answer, PredictionLog, read_predictions
from flows.steps.rollout import Scores, Tally, broken, compare, is_chosen, measure, rule, together, unpaired_interval

TERMS = Rollout(min_labels=100, tolerance=0.05)
BEGAN = datetime(2022, 1, 1, tzinfo=UTC)
KEYS = [str(number).encode() for number in range(4000)]


def chosen(share, version=2):
    return {key for key in KEYS if is_chosen(share, version, key)}


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_share_is_kept_within_what_chance_allows(share):
    assert abs(len(chosen(share)) - share * len(KEYS)) < 4 * (share * (1 - share) * len(KEYS)) ** 0.5


def test_a_key_keeps_to_its_version_when_the_share_grows():
    assert chosen(0.1) < chosen(0.3) < chosen(0.8)


def test_another_version_is_tried_on_other_keys():
    both = len(chosen(0.5, 2) & chosen(0.5, 3))
    assert 0.2 * len(KEYS) < both < 0.3 * len(KEYS)


def test_another_process_chooses_alike():
    code = "from flows.steps.rollout import is_chosen; print([is_chosen(0.3, 2, b'%d' % n) for n in range(200)])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str([is_chosen(0.3, 2, b"%d" % number) for number in range(200)])


@pytest.mark.parametrize(
    ("tally", "told"),
    [
        (Tally(requests=2, failed=2), None),  # forgiven
        (Tally(requests=3, failed=2, late=1), "2 failed and 1 late of 3 requests"),
        (Tally(requests=1000, failed=10), None),
        (Tally(requests=1000, failed=10, late=1), "10 failed and 1 late of 1000 requests"),
        (Tally(requests=1000, unfit=500, dropped=500), None),
        (Tally(requests=19, seconds=0.1, champion_seconds=0.001), None),  # too few to tell
        (Tally(requests=20, seconds=0.1, champion_seconds=0.001), "its median is 100 ms where the champion's is 1 ms"),
        (Tally(requests=20, seconds=0.004, champion_seconds=0.0001), None),  # quick enough, whatever the champion's
        (Tally(requests=20, seconds=0.1, champion_seconds=0.04), None),
        (Tally(requests=20, seconds=0.1), None),
        (Tally(requests=20, champion_seconds=0.1), None),
    ],
)
def test_bounds_on_failures_and_time(tally, told):
    why = broken(TERMS, tally)
    assert why is None if told is None else why.startswith(told)


def scores(error, labelled=100, low=-1.0, high=1.0, champion=10.0, champion_labelled=1000):
    return Scores(
        metric="rmse", labelled=labelled, champion_labelled=champion_labelled, error=error, champion_error=champion,
        interval=(low, high),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (scores(9.0), "passed"),
        (scores(10.5), "passed"),  # within the tolerance
        (scores(9.0, labelled=99), "running"),
        (scores(9.0, champion_labelled=99), "running"),
        (scores(10.6), "running"),  # neither shown to be worse nor not
        (scores(12.0, low=0.51), "failed"),
        (scores(12.0, low=0.5), "running"),
        (scores(12.0, low=0.51, labelled=25), "failed"),  # a failure is told early
        (scores(12.0, low=0.51, labelled=24), "running"),
        (scores(float("inf"), low=float("inf"), high=float("inf")), "failed"),
        (scores(float("nan"), low=float("nan"), high=float("nan")), "failed"),  # what is not a number never passes
        (
            Scores(metric="rmse", labelled=0, champion_labelled=9, error=None, champion_error=None, interval=None),
            "running",
        ),
    ],
)
def test_labels_decide(found, state):
    assert rule(TERMS, Tally(requests=500), found, BEGAN, BEGAN + timedelta(days=1)).state == state


def test_a_broken_bound_outweighs_good_labels_and_time_runs_out():
    assert rule(TERMS, Tally(requests=50, failed=9), scores(5.0), BEGAN, BEGAN).state == "failed"
    late = rule(TERMS, Tally(), scores(9.0, labelled=99), BEGAN, BEGAN + TERMS.longest + timedelta(seconds=1))
    assert late.state == "failed"
    assert "no verdict within" in late.why


def test_a_late_answer_of_a_shadow_is_one_request_and_is_kept():
    from deployments.service.trial import Shadow

    kept = []
    trial = trials.Trial(
        id=1, model="taxi", kind="shadow", state="running", version=2, run_id="r", model_uri="", digest="",
        champion_version=1, champion_sequence=1, rollout=Rollout(deadline_ms=20, forgiven=1000, latency_ms=1e6),
        tallies={}, evidence={}, who="", why="", outcome=None, started_at=BEGAN, ended_at=None,
    )  # fmt: skip
    shadow = Shadow(trial, None, SimpleNamespace(append=lambda *given, **_: kept.append(given[0])))
    for number, seconds in enumerate((0.03, 0.0, 0.03)):
        shadow.copy(str(number), BEGAN, [None], lambda _, seconds=seconds: time.sleep(seconds) or [])
    eventually(lambda: len(kept) == 3)
    shadow.stop()
    tally = shadow.counts.tally()
    assert (tally.requests, tally.late) == (3, 2)


def test_counts_of_several_processes_are_added_and_the_slowest_counts():
    one = Tally(requests=3, failed=1, seconds=0.1, last_error="x").model_dump()
    two = Tally(requests=4, late=1, dropped=2, seconds=0.3, champion_seconds=0.2).model_dump()
    assert together({"a": one, "b": two}) == Tally(
        requests=7, failed=1, late=1, dropped=2, seconds=0.3, champion_seconds=0.2, last_error="x"
    )
    three = Tally(champion_seconds=0.4).model_dump()
    assert together({"a": two, "b": three, "c": one}).champion_seconds == 0.4
    assert together({}) == Tally()


def rows(errors, start=0):
    times = [BEGAN + timedelta(minutes=15 * (start + number)) for number in range(len(errors))]
    return pa.table(
        {
            "label": pa.array(np.full(len(errors), 20.0)),
            "prediction": 20.0 + errors,
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )


def test_a_paired_comparison_sees_what_an_unpaired_one_cannot():
    rng = np.random.default_rng(0)
    hard = rng.gamma(1.0, 5.0, 800)
    champion, mine = rows(hard), rows(hard + 0.2)
    absolute = spec.model_copy(update={"metric": Metric(name="mae")})
    pair = compare(absolute, mine, champion, paired=True)
    apart = compare(absolute, mine, champion, paired=False)
    assert pair.interval[0] > 0.19
    assert pair.interval[1] < 0.21
    assert apart.error - apart.champion_error == pytest.approx(0.2)
    assert apart.interval[0] < 0.2 < apart.interval[1]


def test_the_unpaired_interval_holds_the_difference_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(60):
        ours, theirs = rng.gamma(1.0, 3.0, 300), rng.gamma(1.0, 2.5, 900)
        low, high = unpaired_interval(
            Metric(name="mae"), ours, np.arange(300) // 3, theirs, np.arange(900) // 9, 0.9, 0
        )
        held += low <= 0.5 <= high
    assert 48 <= held <= 60


def test_rows_of_a_single_hour_do_not_make_a_difference_certain():
    rng = np.random.default_rng(2)
    one = rows(rng.normal(0, 5, 3))
    found = compare(spec, one, rows(rng.normal(0, 5, 4)), paired=False)
    assert found.interval[1] - found.interval[0] > 0.5


def test_rows_of_the_same_requests_are_compared_one_by_one_though_all_are_of_one_hour():
    hard = np.random.default_rng(3).gamma(1.0, 5.0, 4)
    absolute = spec.model_copy(update={"metric": Metric(name="mae")})
    found = compare(absolute, rows(hard + 0.2), rows(hard), paired=True)
    assert found.interval == pytest.approx((0.2, 0.2))


def test_errors_that_are_alike_within_an_hour_are_as_sure_as_there_are_hours():
    def of_hours(seed):
        return rows(np.repeat(np.random.default_rng(seed).normal(0, 5, 40), 4))  # four rows an hour

    for paired in (True, False):
        low, high = compare(spec, of_hours(0), of_hours(1), paired=paired).interval
        # The root of a mean of 40 squares of normal numbers is sure by 5 / sqrt(80), a difference by sqrt(2) times that.
        assert high - low == pytest.approx(2 * 1.96 * 5 * (2 / 80) ** 0.5, rel=0.25)


def test_the_unpaired_interval_is_of_the_metric_itself():
    low, high = unpaired_interval(
        Metric(name="rmse"), np.full(40, 25.0), np.arange(40), np.full(40, 9.0), np.arange(40), 0.9, 0
    )
    assert (low, high) == pytest.approx((2.0, 2.0))


def test_without_labels_of_both_there_is_nothing_to_compare():
    for mine, champion in ((0, 5), (5, 0), (0, 0)):
        found = compare(spec, rows(np.ones(mine)), rows(np.ones(champion)), paired=False)
        assert (found.labelled, found.champion_labelled) == (mine, champion)
        assert (found.error, found.champion_error, found.interval) == (None, None, None)


@pytest.fixture
def settings(tmp_path):
    return home(tmp_path)


@pytest.mark.parametrize("kind", ["canary", "shadow"])
def test_a_trial_is_measured_by_its_own_answers_since_it_began_beside_the_champions(settings, kind, tmp_path):
    """Each version says another number, so that its error tells whose answers were counted."""
    import pyarrow.parquet as pq

    model = spec.model_copy(update={"key": ("PULocationID",), "metric": Metric(name="mae")})
    log, labels = PredictionLog(settings, model), {}

    def answered(number, version, minutes, said, role="served"):
        at = BEGAN + timedelta(minutes=minutes)
        log.append(
            f"r{number}", at, version, [{"PULocationID": number}], [Answer(said, None, {"hour": 1.0}, [])], role=role
        )
        labels[number] = {"PULocationID": number, "label": 10.0, "label_timestamp": at, "event_timestamp": at}

    challenger = "shadow" if kind == "shadow" else "served"
    for number in range(6):
        answered(number, 1, number, 11.0)
    for number in range(4, 8) if kind == "shadow" else range(6, 10):
        answered(number, 2, number, 13.0, challenger)
    answered(20, 3, 20, 99.0, challenger)  # another trial's
    answered(21, 2, -5, 99.0, challenger)  # before it began
    answered(22, 1, -5, 99.0)
    log.close()
    pq.write_table(pa.Table.from_pylist([*labels.values()]), tmp_path / "known.parquet")
    trial = SimpleNamespace(kind=kind, version=2, champion_version=1, started_at=BEGAN)
    found = measure(settings, model, trial, [str(tmp_path / "known.parquet")])
    both = (2, 2) if kind == "shadow" else (4, 6)  # a shadow is paired: requests 4 and 5 were answered by both
    assert (found.labelled, found.champion_labelled) == both
    assert (found.error, found.champion_error) == (3.0, 1.0)


def promoted(engine):
    return ledger.promote(
        engine, model="taxi", expected=None, kind="promote", version=1, run_id="r", model_uri="m", digest="d", who="w",
        why="y", evidence={},
    )  # fmt: skip


def begin(engine, champion, version=2):
    return trials.begin(
        engine, kind="canary", champion=champion, version=version, run_id="r", model_uri="m", digest="d", rollout=TERMS,
        who="w", why="y",
    )  # fmt: skip


def test_one_trial_runs_at_a_time_ends_once_and_is_not_tried_again(settings):
    engine = database.connect(settings)
    champion = promoted(engine)
    one = begin(engine, champion)
    assert trials.running(engine, "taxi") == one
    assert one.rollout == TERMS
    with pytest.raises(ConflictError, match="version 2 is on trial as canary"):
        begin(engine, champion, 3)
    trials.report(engine, one.id, "a", {"requests": 1})
    trials.report(engine, one.id, "b", {"requests": 2})
    trials.report(engine, one.id, "a", {"requests": 5})
    assert trials.get(engine, one.id).tallies == {"a": {"requests": 5}, "b": {"requests": 2}}
    assert trials.end(engine, one.id, "failed", "bad", {"tally": {}})
    assert not trials.end(engine, one.id, "passed", "good", {})
    assert trials.get(engine, one.id).outcome == "bad"
    assert trials.has_tried(engine, "taxi", 2)
    assert not trials.has_tried(engine, "taxi", 3)
    begin(engine, champion, 3)
    assert [one.version for one in trials.listed(engine, "taxi")] == [3, 2]
    assert ledger.champion(engine, "taxi") == champion


def test_a_trial_that_passed_and_was_refused_after_all_has_failed_and_no_other_has(settings):
    engine = database.connect(settings)
    champion = promoted(engine)
    ended = {}
    for version, state in ((2, "stopped"), (3, "passed"), (4, "passed")):
        ended[version] = begin(engine, champion, version)
        trials.end(engine, ended[version].id, state, "done", {})
    running = begin(engine, champion, 5)
    for one in (*ended.values(), running):
        if one.version != 4:
            trials.refuse_passed(engine, one.id, "refused")
    assert {one.version: (one.state, one.outcome) for one in trials.listed(engine, "taxi")} == {
        2: ("stopped", "done"), 3: ("failed", "refused"), 4: ("passed", "done"), 5: ("running", None),
    }  # fmt: skip
    assert [trials.has_tried(engine, "taxi", version) for version in (2, 3, 4, 5)] == [True, True, False, True]
    assert not trials.has_tried(engine, "other", 2)


def test_a_trial_would_be_the_promotion_after_the_one_that_it_ran_beside(settings):
    engine = database.connect(settings)
    champion = promoted(engine)
    found = begin(engine, champion).as_promotion()
    assert (found.sequence, found.version, found.previous_version) == (champion.sequence + 1, 2, champion.version)


def test_the_database_itself_lets_one_trial_of_a_model_run(settings):
    import sqlalchemy as sa

    engine = database.connect(settings)
    begin(engine, promoted(engine))
    copied = sa.select(*[column for column in database.trials.c if column.name != "id"])
    with database.write(engine) as connection:
        again = database.trials.insert().values(dict(connection.execute(copied).mappings().one()))
        with pytest.raises(sa.exc.IntegrityError):
            connection.execute(again)


def test_a_shadows_answers_are_logged_but_never_read_as_served(settings):
    log = PredictionLog(settings, spec)
    at, row = datetime.now(UTC), {"trip_distance": 1.0}
    log.append("r", at, 1, [row], [Answer(7.0, None, {"hour": 1.0}, [])])
    log.append("r", at, 2, [row], [Answer(9.0, None, {"hour": 1.0}, [])], role="shadow")
    for _ in ("journal", "parquet"):
        assert read_predictions(settings, spec)["prediction"].to_pylist() == [7.0]
        assert read_predictions(settings, spec, role="shadow")["version"].to_pylist() == [2]
        log.close()
        fold(settings, spec)


def test_parquet_of_before_there_were_shadows_is_read_as_served(settings):
    import pyarrow.parquet as pq

    log = PredictionLog(settings, spec)
    log.append("r", datetime.now(UTC), 1, [{"trip_distance": 1.0}], [Answer(7.0, None, {"hour": 1.0}, [])])
    log.close()
    fold(settings, spec)
    (file,) = settings.predictions("taxi").glob("hours/*/*/*.parquet")
    pq.write_table(pq.read_table(file).drop_columns(["role"]), file)
    assert read_predictions(settings, spec)["prediction"].to_pylist() == [7.0]
    assert read_predictions(settings, spec, role="shadow").num_rows == 0
