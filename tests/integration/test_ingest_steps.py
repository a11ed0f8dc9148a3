"""Ingest by its plain steps: what is accepted, what is split off, what is refused, and what survives a crash."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import ibis
import pandas as pd
import pyarrow.parquet as pq
import pytest
from great_expectations import ExpectationSuite
from great_expectations import expectations as gxe
from ingest_parts import DAY, Place, clean_day, write

from flows import database, ledger
from flows.errors import BrokenCheckError, ContractError
from flows.models.taxi.simulator import break_rows, rename_column, simulate_day
from flows.models.taxi.source import trips
from flows.models.taxi.spec import spec
from flows.spec import Label
from flows.steps import home_health, judging, status
from flows.steps.contract import LABELS_TO_COME
from flows.steps.files import is_whole_parquet
from flows.steps.training_set import choose_window, made_otherwise, select_rows

ZONES = list(range(1, 266))
SUITE: list = []  # what the function below returns, set by each test


def suite():
    return ExpectationSuite(name="mine", expectations=list(SUITE))


MINE = spec.model_copy(update={"expectations": f"{__name__}:suite"})


@pytest.fixture
def here(tmp_path):
    SUITE[:] = [gxe.ExpectColumnValuesToBeBetween(column="trip_distance", min_value=0, max_value=100, mostly=0.95)]
    return Place(tmp_path / "home")


def frame_of(uri):
    return duckdb.sql(f"SELECT * FROM read_parquet('{uri}')").df()


def test_a_clean_day_is_accepted_whole_with_its_times_in_utc(here, tmp_path):
    frame = clean_day()
    (partition,) = here.ingest(write(frame, tmp_path / "day.parquet"))
    assert (partition.status, partition.reasons, partition.rejected_uri) == ("accepted", [], None)
    assert (partition.accepted_rows, partition.rejected_rows) == (len(frame), 0)
    table = pq.read_table(partition.accepted_uri)
    assert [*table.column_names] == [
        *spec.source.columns, "minutes", "label_time", "event_timestamp", "label_timestamp", "label",
    ]  # fmt: skip
    kinds = {name: str(table.schema.field(name).type) for name in ("event_timestamp", "label_timestamp", "label")}
    assert kinds == {
        "event_timestamp": "timestamp[us, tz=UTC]",
        "label_timestamp": "timestamp[us, tz=UTC]",
        "label": "double",
    }
    accepted = table.to_pandas()
    zone = "America/New_York"
    assert (accepted.event_timestamp == frame.lpep_pickup_datetime.dt.tz_localize(zone).dt.tz_convert("UTC")).all()
    ended = frame.lpep_dropoff_datetime.dt.tz_localize(zone).dt.tz_convert("UTC")
    assert (accepted.label_timestamp == ended + timedelta(hours=1)).all()
    assert (accepted.label == accepted.minutes).all()
    assert partition.first_event == accepted.event_timestamp.min().to_pydatetime()
    assert partition.last_event == accepted.event_timestamp.max().to_pydatetime()
    assert ledger.list_partitions(here.engine, "taxi") == [partition]


def test_rows_that_break_a_row_rule_are_split_off_with_all_their_reasons(here, tmp_path):
    frame = break_rows(clean_day(), share=0.02)
    bad = frame.index[frame.trip_distance < 0]
    frame.loc[bad[0], "lpep_dropoff_datetime"] = frame.loc[bad[0], "lpep_pickup_datetime"]
    (partition,) = here.ingest(write(frame, tmp_path / "day.parquet"))
    assert partition.status == "accepted"
    assert partition.rejected_rows == len(bad)
    rejected = frame_of(partition.rejected_uri)
    assert list(rejected) == [*spec.source.columns, "reason"]
    pd.testing.assert_frame_equal(
        rejected[list(spec.source.columns)], frame.loc[bad].reset_index(drop=True), check_dtype=False
    )
    assert rejected.reason[0] == "minutes: values > 0 and ≤ 180; trip_distance: values ≥ 0 and ≤ 100"
    assert set(rejected.reason[1:]) == {"trip_distance: values ≥ 0 and ≤ 100"}
    assert partition.reasons[0] == f"{len(bad)} rows: trip_distance: values ≥ 0 and ≤ 100"
    assert frame_of(partition.accepted_uri).trip_distance.min() >= 0


def test_more_bad_rows_than_tolerated_quarantine_the_partition(here, tmp_path):
    frame = break_rows(clean_day(), share=0.08)
    (partition,) = here.ingest(write(frame, tmp_path / "day.parquet"))
    assert partition.status == "quarantined"
    assert "trip_distance: values ≥ 0 and ≤ 100" in partition.reasons[0]
    assert "5.0% tolerated" in partition.reasons[0]
    assert (partition.accepted_uri, partition.accepted_rows, partition.rejected_rows) == (None, 0, len(frame))
    assert len(frame_of(partition.rejected_uri)) == round(0.08 * len(frame))
    assert quarantined(here) == (1, 0)
    here.ingest(write(clean_day(), tmp_path / "mended.parquet"))
    assert quarantined(here) == (1, 1)


def quarantined(here):
    """Return how many partitions the status says are in quarantine, and how many of them of accepted periods."""
    found = status.status(here.settings, spec, here.engine)["partitions"]
    return found["quarantined"], found["mended"]


def test_a_hard_rule_quarantines_with_the_figure_that_broke_it(here, tmp_path):
    SUITE.append(gxe.ExpectColumnMedianToBeBetween(column="minutes", min_value=500))
    (partition,) = here.ingest(write(clean_day(), tmp_path / "day.parquet"), MINE)
    assert partition.status == "quarantined"
    assert partition.reasons[0].startswith("minutes: median ≥ 500: ")


@pytest.mark.parametrize(
    ("rule", "spoil"),
    [
        (gxe.ExpectColumnValuesToNotBeNull(column="DOLocationID", mostly=0.9), {"DOLocationID": None}),
        (gxe.ExpectColumnValuesToBeInSet(column="DOLocationID", value_set=ZONES, mostly=0.9), {"DOLocationID": 7000}),
        (
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A="lpep_dropoff_datetime", column_B="lpep_pickup_datetime", mostly=0.9
            ),
            {"lpep_dropoff_datetime": pd.Timestamp("2024-01-09")},
        ),
        (
            gxe.ExpectCompoundColumnsToBeUnique(column_list=["PULocationID", "lpep_dropoff_datetime"], mostly=0.9),
            {"PULocationID": 5, "lpep_dropoff_datetime": pd.Timestamp("2024-01-10 12:00")},
        ),
        (gxe.ExpectColumnValuesToBeUnique(column="minutes"), None),
        (gxe.ExpectMulticolumnSumToEqual(column_list=["PULocationID", "trip_distance"], sum_total=1), None),
    ],
)
def test_each_kind_of_row_rule_names_its_rows(here, tmp_path, rule, spoil):
    """Those that are split off are as many as Great Expectations counts."""
    frame = clean_day().astype({"DOLocationID": "Int64"})
    if spoil:
        frame.loc[10:19, list(spoil)] = list(spoil.values())
        SUITE[:] = [rule]
        (partition,) = here.ingest(write(frame, tmp_path / "day.parquet"), MINE)
        assert (partition.status, partition.rejected_rows) == ("accepted", 10)
        return
    SUITE[:] = [rule]
    (partition,) = here.ingest(write(frame, tmp_path / "day.parquet"), MINE)
    assert partition.status == "quarantined"
    assert partition.rejected_uri


def test_a_check_that_breaks_is_neither_bad_data_nor_passed_and_is_judged_again(here, tmp_path):
    path = write(clean_day(), tmp_path / "day.parquet")
    SUITE.append(gxe.ExpectColumnValuesToMatchRegex(column="trip_distance", regex="1"))  # not on DuckDB
    with pytest.raises(BrokenCheckError, match=r"2024-01-10 r1.*match_regex.*could not be evaluated"):
        here.ingest(path, MINE)
    (partition,) = ledger.list_partitions(here.engine, "taxi")
    assert (partition.status, partition.docs_uri) == ("landed", None)
    SUITE.pop()
    assert [p.status for p in here.ingest(path, MINE)] == ["accepted"]
    assert len(ledger.list_partitions(here.engine, "taxi")) == 1


@pytest.mark.parametrize("column", ["nope", 'évil"; DROP TABLE events; --'])
def test_a_check_of_a_column_that_is_not_there_is_broken(here, tmp_path, column):
    SUITE.append(gxe.ExpectColumnMaxToBeBetween(column=column, max_value=3))
    with pytest.raises(BrokenCheckError):
        here.ingest(write(clean_day(), tmp_path / "day.parquet"), MINE)


def test_an_empty_suite_is_a_failure_not_a_pass(here, tmp_path):
    SUITE.clear()
    with pytest.raises(ContractError, match="without expectations"):
        here.ingest(write(clean_day(), tmp_path / "day.parquet"), MINE)
    assert [p.status for p in ledger.list_partitions(here.engine, "taxi")] == ["landed"]


def test_a_crash_between_landing_and_deciding_is_made_good_by_the_next_run(here, tmp_path):
    path = write(clean_day(), tmp_path / "day.parquet")
    (landed,) = here.land(path)
    assert landed.status == "landed"
    (decided,) = here.ingest(path)
    assert (decided.id, decided.status) == (landed.id, "accepted")
    assert here.ingest(path) == [decided]


def test_an_accepted_revision_replaces_the_one_before_and_a_late_one_does_not_come_back(here, tmp_path):
    old, new = clean_day(), clean_day()[5:]
    (first,) = here.land(write(old, tmp_path / "day.parquet"))
    (second,) = here.ingest(write(new, tmp_path / "new.parquet"))
    assert second.status == "accepted"
    (late,) = here.ingest(tmp_path / "day.parquet")  # the crash of its first run is made good only now
    assert (late.id, late.status) == (first.id, "replaced")
    (third,) = here.ingest(write(clean_day()[9:], tmp_path / "third.parquet"))
    statuses = {p.revision: p.status for p in ledger.list_partitions(here.engine, "taxi")}
    assert statuses == {1: "replaced", 2: "replaced", 3: "accepted"}
    assert third.revision == 3
    assert len(frame_of(second.accepted_uri)) == len(new)


def test_a_refused_revision_leaves_the_accepted_one_in_use(here, tmp_path):
    (first,) = here.ingest(write(clean_day(), tmp_path / "day.parquet"))
    (second,) = here.ingest(write(rename_column(clean_day()), tmp_path / "renamed.parquet"))
    assert (second.key, second.revision, second.status) == (first.key, 2, "quarantined")
    assert ledger.list_partitions(here.engine, "taxi", "accepted") == [first]


def test_a_refused_partition_is_judged_again_only_when_the_rules_have_changed(here, tmp_path):
    path = write(break_rows(clean_day(), share=0.08), tmp_path / "day.parquet")
    (refused,) = here.ingest(path, MINE)
    assert refused.status == "quarantined"
    assert here.ingest(path, MINE) == [refused]
    SUITE[:] = [gxe.ExpectColumnValuesToBeBetween(column="trip_distance", min_value=0, mostly=0.9)]
    (accepted,) = here.ingest(path, MINE)
    assert (accepted.id, accepted.status) == (refused.id, "accepted")


def test_repeated_keys_lose_all_but_their_first_row(here, tmp_path):
    frame = clean_day()
    frame = pd.concat(
        [frame, frame[:10].assign(lpep_dropoff_datetime=frame.lpep_dropoff_datetime[:10] + timedelta(minutes=1))]
    )
    (partition,) = here.ingest(write(frame, tmp_path / "day.parquet"))
    assert partition.rejected_rows == 10
    assert frame_of(partition.rejected_uri).reason.str.startswith("repeats the key lpep_pickup_datetime").all()
    assert len(frame_of(partition.accepted_uri)) == len(frame) - 10


def test_missing_values_become_null_and_nan_does_not_pass_as_a_value(here, tmp_path):
    frame = clean_day()
    frame.loc[:4, "trip_distance"] = float("nan")
    table = pq.read_table(write(frame, tmp_path / "day.parquet"))
    import pyarrow as pa

    table = table.set_column(2, "trip_distance", pa.array(frame.trip_distance.to_numpy(), from_pandas=False))
    pq.write_table(table, tmp_path / "day.parquet")
    (partition,) = here.ingest(tmp_path / "day.parquet")
    assert partition.rejected_rows == 5
    assert frame_of(partition.rejected_uri).reason.unique() == ["trip_distance: values to not be null"]


def test_statistics_are_those_of_the_accepted_rows(here, tmp_path):
    frame = break_rows(clean_day(), share=0.02)
    (partition,) = here.ingest(write(frame, tmp_path / "day.parquet"))
    good = frame[frame.trip_distance >= 0]
    found = partition.statistics
    assert (found["rows"], found["label"]) == (len(good), "minutes")
    distance = found["columns"]["trip_distance"]
    assert distance["count"] == len(good)
    assert distance["mean"] == pytest.approx(good.trip_distance.mean())
    assert distance["std"] == pytest.approx(good.trip_distance.std())
    assert distance["quantiles"]["0.5"] == pytest.approx(good.trip_distance.median())
    assert sum(distance["histogram"]["counts"]) == len(good)
    zones = found["columns"]["PULocationID"]
    counts = good.PULocationID.value_counts()
    assert zones["distinct"] == len(counts)
    assert {(int(top["value"]), top["count"]) for top in zones["top"]} <= set(counts.items())
    assert zones["top"][0]["count"] == counts.max()
    assert set(found["columns"]) == {*spec.source.columns, "minutes"}


def test_a_day_of_the_clock_change_keeps_every_row(here, tmp_path):
    frame = clean_day(date(2024, 11, 3))
    (partition,) = here.ingest(write(frame, tmp_path / "day.parquet"))
    assert (partition.key, partition.accepted_rows) == ("2024-11-03", len(frame))
    assert datetime(2024, 11, 3, 4, tzinfo=UTC) <= partition.first_event
    assert partition.last_event < datetime(2024, 11, 4, 5, tzinfo=UTC)


def test_a_days_rows_are_the_same_landed_alone_or_in_a_month(here, tmp_path):
    """The rows in memory and those of the landed file give the same judgement."""
    for number in range(3):
        write(clean_day(DAY + timedelta(days=number)), tmp_path / "in" / f"{number}.parquet")
    together = here.ingest(tmp_path / "in")
    other = Place(tmp_path / "other")
    alone = [other.ingest(tmp_path / "in" / f"{number}.parquet")[0] for number in range(3)]
    for one, two in zip(together, alone, strict=True):
        assert (one.digest, one.accepted_rows, one.statistics) == (two.digest, two.accepted_rows, two.statistics)
        pd.testing.assert_frame_equal(frame_of(one.accepted_uri), frame_of(two.accepted_uri))


def test_a_day_as_the_simulator_makes_it_loses_its_dirt_only(here, tmp_path):
    (partition,) = here.ingest(write(simulate_day(DAY), tmp_path / "day.parquet"))
    assert partition.status == "accepted"
    assert 0 < partition.rejected_rows < 0.02 * partition.rows
    accepted = frame_of(partition.accepted_uri)
    assert accepted.minutes.between(0, 180, inclusive="right").all()
    assert (accepted.lpep_pickup_datetime.dt.date == DAY).all()


def test_the_public_month_loses_its_strays_and_its_endless_trips(here, taxi_month):
    partitions = here.ingest(taxi_month)
    assert [partition.key for partition in partitions] == [f"2022-01-{day:02d}" for day in range(1, 32)]
    assert {partition.status for partition in partitions} == {"accepted"}
    assert sum(partition.rows for partition in partitions) == 62_495
    rejected = pd.concat([frame_of(p.rejected_uri) for p in partitions])
    accepted = pd.concat([frame_of(p.accepted_uri) for p in partitions])
    assert len(rejected) + len(accepted) == 62_495
    strays = rejected[rejected.reason.str.contains("event time outside the batch's periods")]
    assert sorted(strays.lpep_pickup_datetime.dt.year) == [2009, 2021, 2021, 2021]
    assert accepted.minutes.between(0, 180, inclusive="right").all()
    assert (rejected.lpep_dropoff_datetime - rejected.lpep_pickup_datetime).max() > timedelta(hours=23)
    assert here.ingest(taxi_month) == partitions


def test_rules_are_told_apart_by_their_digest():
    suite = judging.load_suite(spec)
    assert judging.rules_digest(spec, suite) == judging.rules_digest(spec, judging.load_suite(spec))
    assert judging.rules_digest(spec, suite[1:]) != judging.rules_digest(spec, suite)


def test_a_correction_is_taken_back_when_it_is_asked_for(here, tmp_path):
    old, new = write(clean_day(), tmp_path / "old.parquet"), write(clean_day()[5:], tmp_path / "new.parquet")
    (first,) = here.ingest(old)
    (second,) = here.ingest(new)
    (known,) = here.ingest(old)
    assert (known.id, known.status) == (first.id, "replaced")
    (back,) = here.ingest(old, again=True)
    assert (back.revision, back.status, back.digest) == (3, "accepted", first.digest)
    assert here.ingest(old, again=True) == [back]  # it is in force
    assert frame_of(back.accepted_uri).equals(frame_of(first.accepted_uri))
    statuses = {p.revision: p.status for p in ledger.list_partitions(here.engine, "taxi")}
    assert statuses == {1: "replaced", 2: "replaced", 3: "accepted"}
    assert second.status == "accepted"


def test_rows_that_come_back_say_what_they_take_the_place_of(here, tmp_path):
    one, two = clean_day(), clean_day(DAY + timedelta(days=1))
    both = write(pd.concat([one, two]), tmp_path / "both.parquet")
    first = here.ingest(both)
    here.ingest(write(one.assign(trip_distance=one.trip_distance + 0.1), tmp_path / "corrected.parquet"))
    here.ingest(write(two[: len(two) // 2], tmp_path / "half.parquet"))
    back = here.ingest(both, again=True)  # for the half day, and the correction of the other goes with it
    assert [p.revision for p in back] == [3, 3]
    for partition, source in zip(back, ("corrected", "half"), strict=True):
        assert partition.reasons == [
            "the rows of revision 1 once more, in place of revision 2; if that one is to stay, take it back: "
            f"`evergreen ingest {tmp_path / source}.parquet --again`"
        ]
    assert all(p.reasons == [] for p in first)


def test_a_revision_of_fewer_labels_says_so(here, tmp_path):
    newer = clean_day()
    older, few = newer.copy(), newer.copy()
    few.loc[few.index % 20 == 1, "lpep_dropoff_datetime"] = pd.NaT
    older.loc[older.index % 3 == 1, "lpep_dropoff_datetime"] = pd.NaT
    here.ingest(write(newer, tmp_path / "newer.parquet"), MINE)
    (most,) = here.ingest(write(few, tmp_path / "few.parquet"), MINE)
    (some,) = here.ingest(write(older, tmp_path / "older.parquet"), MINE)
    assert (most.status, most.reasons, some.status) == ("accepted", [], "accepted")
    labels = [f"{frame.lpep_dropoff_datetime.notna().sum():,} labels" for frame in (older, few)]
    assert some.reasons == [
        f"it tells of {labels[0]} alone and replaces revision 2 of {labels[1]} whole; if it is older, take that one back: "
        f"`evergreen ingest {tmp_path / 'few.parquet'} --again`"
    ]


def test_a_further_part_of_a_period_does_not_take_the_place_of_the_first(here, tmp_path):
    day = clean_day().sort_values("lpep_pickup_datetime")
    half = len(day) // 2
    (first,) = here.ingest(write(day[:half], tmp_path / "morning.parquet"))
    (second,) = here.ingest(write(day[half:], tmp_path / "evening.parquet"))
    assert second.status == "quarantined"
    assert "alone, and revision 1 holds" in second.reasons[0]
    (whole,) = here.ingest(write(day, tmp_path / "whole.parquet"))
    assert (first.status, whole.status, whole.accepted_rows) == ("accepted", "accepted", len(day))
    assert whole.reasons == []


def test_a_file_that_is_meant_replaces_wrong_rows_of_another_part_of_its_period(here, tmp_path):
    """A file of the day before, hours too late, had put its evening into this day's morning."""
    day = clean_day().sort_values("lpep_pickup_datetime")
    half = len(day) // 2
    source = write(day[half:], tmp_path / "right.parquet")
    (wrong,) = here.ingest(write(day[:half], tmp_path / "wrong.parquet"))
    (refused,) = here.ingest(source)
    assert refused.reasons[0].endswith("; if revision 1 is wrong, ingest this one with --again")
    assert [one.status for one in here.ingest(source)] == ["quarantined"]
    (right,) = here.ingest(source, again=True)
    assert (right.id, right.status, right.accepted_rows) == (refused.id, "accepted", len(day) - half)
    assert "alone and replaces revision 1 of" in right.reasons[0]
    (there,) = ledger.list_partitions(here.engine, "taxi", "replaced")
    assert there.id == wrong.id
    broken = write(day.assign(trip_distance=-1.0), tmp_path / "broken.parquet")
    assert [one.status for one in here.ingest(broken, again=True)] == ["quarantined"]


def test_a_revision_that_leaves_out_much_of_the_period_says_so(here, tmp_path):
    day = clean_day().sort_values("lpep_pickup_datetime")
    here.ingest(write(day, tmp_path / "whole.parquet"))
    (most,) = here.ingest(write(day[5:], tmp_path / "most.parquet"))
    (half,) = here.ingest(write(day[len(day) // 2 :], tmp_path / "half.parquet"))
    assert (most.status, most.reasons, half.status) == ("accepted", [], "accepted")
    (told,) = half.reasons
    assert "alone and replaces revision 2 of" in told
    assert told.endswith(f"take that one back: `evergreen ingest {tmp_path / 'most.parquet'} --again`")


def test_a_revision_of_the_whole_time_that_leaves_out_many_rows_says_so(here, tmp_path):
    day = clean_day().sort_values("lpep_pickup_datetime", ignore_index=True)
    ends = day.index.isin([0, len(day) - 1])
    here.ingest(write(day, tmp_path / "whole.parquet"))
    (most,) = here.ingest(write(day[ends | (day.index % 20 != 1)], tmp_path / "most.parquet"))
    (some,) = here.ingest(write(day[ends | (day.index % 3 == 0)], tmp_path / "some.parquet"))
    assert (most.status, most.reasons, some.status) == ("accepted", [], "accepted")
    (told,) = some.reasons
    assert told.startswith(
        f"it tells of {some.rows:,} rows alone and replaces revision 2 of {most.rows:,} rows whole; "
    )
    assert told.endswith(f"take that one back: `evergreen ingest {tmp_path / 'most.parquet'} --again`")


def test_accepted_rows_that_were_altered_are_found_and_made_anew(here, tmp_path):
    def looked():
        return [one.state for one in home_health.lake(here.settings, spec, here.engine)]

    source = write(clean_day(), tmp_path / "day.parquet")
    (partition,) = here.ingest(source)
    assert looked() == ["good"]
    path = Path(partition.accepted_uri)
    pq.write_table(pq.read_table(path).slice(1), path)
    assert looked() == ["bad"]
    path.unlink()
    here.ingest(source)
    assert looked() == ["good"]


@pytest.mark.parametrize("harm", ["gone", "cut off"])
@pytest.mark.parametrize("which", ["uri", "accepted_uri"])
def test_files_that_are_lost_are_made_anew_of_the_same_source(here, tmp_path, which, harm):
    path = write(clean_day(), tmp_path / "day.parquet")
    (first,) = here.ingest(path)
    rows = frame_of(first.accepted_uri)
    for name in {which, "accepted_uri"}:
        file = Path(getattr(first, name))
        file.unlink() if harm == "gone" else file.write_bytes(file.read_bytes()[:-100])
    (again,) = here.ingest(path)
    assert (again.id, again.status, again.accepted_rows) == (first.id, "accepted", first.accepted_rows)
    assert frame_of(again.accepted_uri).equals(rows)
    assert is_whole_parquet(Path(again.uri))


def half(raw):
    rows = trips(raw)
    return rows.mutate(minutes=rows.minutes / 2)


def test_rows_that_are_made_anew_and_are_others_ask_for_their_features_anew(here, tmp_path):
    path = write(clean_day(), tmp_path / "day.parquet")
    (first,) = here.ingest(path)
    ledger.mark_featurized(here.engine, [first.id], datetime.now(UTC))
    for one, known in ((spec, True), (spec.model_copy(update={"rows": f"{__name__}:half"}), False)):
        Path(first.accepted_uri).unlink()
        (again,) = here.ingest(path, one)
        assert (again.id, again.status) == (first.id, "accepted")
        assert (again.featurized_at is not None) == known


def test_landing_again_makes_rows_anew_that_another_function_has_made(here, tmp_path):
    path = write(clean_day(), tmp_path / "day.parquet")
    (first,) = here.ingest(path)
    mean = "SELECT avg(label) FROM read_parquet($uri)"
    (before,) = duckdb.execute(mean, {"uri": first.accepted_uri}).fetchone()
    assert here.ingest(path)[0].decided_at == first.decided_at
    halved = spec.model_copy(update={"rows": f"{__name__}:half"})
    (other,) = here.ingest(write(clean_day(date(2024, 1, 11)), tmp_path / "next.parquet"), halved)
    assert made_otherwise([first, other]) == [first.key]
    (again,) = here.ingest(path, halved)
    assert (again.id, again.status, again.featurized_at) == (first.id, "accepted", None)
    assert duckdb.execute(mean, {"uri": again.accepted_uri}).fetchone() == (pytest.approx(before / 2),)
    assert made_otherwise([again, other]) == []
    assert here.ingest(path, halved)[0].decided_at == again.decided_at


@pytest.mark.parametrize(("rows", "is_new"), [(spec.rows, False), (f"{__name__}:half", True)])
def test_rows_of_before_it_was_recorded_what_makes_them_are_news_only_if_they_come_out_otherwise(
    rows, is_new, here, tmp_path
):
    path = write(clean_day(), tmp_path / "day.parquet")
    (first,) = here.ingest(path)
    ledger.mark_featurized(here.engine, [first.id], datetime.now(UTC))
    with database.write(here.engine) as connection:
        connection.execute(database.partitions.update().values(accepted_sha256=None, validation={}))
    (again,) = here.ingest(path, spec.model_copy(update={"rows": rows}))
    assert again.status == "accepted"
    assert again.validation["rows"]
    assert (again.decided_at > first.decided_at) == is_new
    assert (again.featurized_at is None) == is_new
    assert again.accepted_sha256


def unknown(raw):
    return trips(raw).mutate(minutes=ibis.null("float64"))


def test_features_that_know_rows_which_are_refused_when_made_anew_are_remembered(here, tmp_path):
    path = write(clean_day(), tmp_path / "day.parquet")
    (first,) = here.ingest(path)
    ledger.mark_featurized(here.engine, [first.id], datetime.now(UTC))
    for name in ("unknown", "half"):
        (other,) = here.ingest(path, spec.model_copy(update={"rows": f"{__name__}:{name}"}))
        assert (other.id, other.featurized_at) == (first.id, None)
        assert other.featured == (first.first_event, first.last_event)
        assert other.status == ("accepted" if name == "half" else "quarantined")
    (refused,) = here.ingest(path, spec.model_copy(update={"rows": f"{__name__}:unknown"}))
    ledger.mark_featurized(here.engine, [refused.id], datetime.now(UTC))
    (again,) = here.ingest(path)
    assert (again.status, again.featurized_at, again.featured) == ("accepted", None, None)


def starts(raw):
    rows = trips(raw)
    return rows.mutate(start=rows.lpep_pickup_datetime.cast("timestamp"))


def test_labels_of_a_time_to_come_are_refused_and_rows_that_wait_for_theirs_are_not(here, tmp_path):
    soon = datetime.now(UTC).date() + timedelta(days=400)
    (past,) = here.ingest(write(clean_day(), tmp_path / "past.parquet"))
    ahead = clean_day(soon)
    (partition,) = here.ingest(write(ahead, tmp_path / "ahead.parquet"))
    assert (partition.key, partition.status) == (soon.isoformat(), "quarantined")
    assert "its event time is still to come" in partition.reasons[0]
    assert past.status == "accepted"
    waiting = ahead.assign(lpep_dropoff_datetime=pd.NaT)
    waiting.loc[:2, "lpep_dropoff_datetime"] = ahead.lpep_dropoff_datetime
    SUITE[:] = [gxe.ExpectColumnValuesToBeBetween(column="trip_distance", min_value=0, max_value=100, mostly=0.9)]
    other = Place(tmp_path / "other")
    (partition,) = other.ingest(write(waiting, tmp_path / "waiting.parquet"), MINE)
    assert (partition.status, partition.rejected_rows) == ("accepted", 3)
    assert partition.reasons == ["3 rows: has a label, and its event time is still to come"]
    source = spec.source.model_copy(update={"columns": {"place": "BIGINT", **spec.source.columns}, "numbered": "place"})
    counted = Place(tmp_path / "counted")  # the order of its rows stands for their time
    (partition,) = counted.ingest(tmp_path / "ahead.parquet", MINE.model_copy(update={"source": source}))
    assert (partition.status, partition.rejected_rows) == ("accepted", 0)


def test_a_period_without_a_label_says_what_to_do_and_is_accepted_with_them(here, tmp_path):
    late = MINE.model_copy(update={"label": Label(name="trip_distance", delay=timedelta(days=60))})
    (partition,) = here.ingest(write(clean_day().assign(trip_distance=float("nan")), tmp_path / "early.parquet"), late)
    assert partition.status == "quarantined"
    assert partition.reasons == [
        "each column holds values: 'trip_distance' all missing; if its labels are still to come, bring them by "
        "`evergreen label`, or ingest the period again with them"
    ]
    (partition,) = here.ingest(write(clean_day().drop(columns="trip_distance"), tmp_path / "none.parquet"), late)
    assert partition.reasons == [f"column 'trip_distance' is missing; {LABELS_TO_COME}"]
    (partition,) = here.ingest(write(clean_day(), tmp_path / "late.parquet"), late)
    assert (partition.status, partition.revision) == ("accepted", 3)


def test_a_training_window_ends_where_labels_end(here, tmp_path):
    month = pd.concat([clean_day(DAY + timedelta(days=n), trips=200) for n in range(12)], ignore_index=True)
    times = month.lpep_pickup_datetime
    late = times >= pd.Timestamp(DAY + timedelta(days=9))
    newest = times[~late].max().tz_localize("America/New_York").tz_convert("UTC").to_pydatetime()
    waiting = month.assign(lpep_dropoff_datetime=month.lpep_dropoff_datetime.where(~late))
    windows = []
    for name, rows in (("waiting", waiting), ("known", month[~late])):
        place = Place(tmp_path / name)
        (partition,) = place.ingest(write(rows, tmp_path / f"{name}.parquet"), MINE, kind="month")
        assert (partition.status, partition.labelled_until) == ("accepted", newest)
        partition = partition.model_copy(update={"featurized_at": partition.decided_at})
        window = choose_window(MINE, [partition], judge=timedelta(days=2))
        parts = select_rows(MINE, [partition.accepted_uri], window)
        windows.append((window.start, window.split, window.end, sorted(parts["part"].to_pylist())))
    assert windows[0] == windows[1]  # nothing is split by the days whose labels are still to come
    assert windows[0][2] == newest + timedelta(microseconds=1)
    assert windows[0][3].count("judge") > 200
    old = partition.model_copy(update={"statistics": {}})  # judged before it was recorded
    assert old.labelled_until == old.last_event


def test_an_unknown_column_is_told_also_where_the_rows_add_the_event_time(here, tmp_path):
    source = spec.source.model_copy(update={"event_time": "start", "ignored": ("VendorID",)})
    model = MINE.model_copy(update={"source": source, "rows": f"{__name__}:starts"})
    frame = clean_day().assign(VendorID=2)
    (known,) = here.ingest(write(frame, tmp_path / "known.parquet"), model)
    assert (known.status, known.key) == ("accepted", "2024-01-10")
    assert "VendorID" not in frame_of(known.uri)
    (partition,) = here.ingest(write(frame.assign(tip=1.0), tmp_path / "more.parquet"), model)
    assert (partition.status, partition.key) == ("quarantined", "2024-01-10")
    assert partition.reasons == ["column 'tip' is not in the contract"]
    late = frame.assign(lpep_pickup_datetime=["soon", *frame.lpep_pickup_datetime.astype(str)[1:]])
    (partition,) = here.ingest(write(late, tmp_path / "text.csv"), model)
    assert (partition.status, partition.key) == ("quarantined", "batch-text")
    assert partition.reasons == [
        "column 'lpep_pickup_datetime' has type VARCHAR, the contract says TIMESTAMP: 'soon' in row 1"
    ]


def test_the_first_value_that_does_not_fit_is_told_with_its_row(here, tmp_path):
    """Of each partition the same, by the row of the file, also when the rules or the run were others."""
    days = pd.concat([clean_day(DAY + timedelta(days=number)) for number in range(3)], ignore_index=True)
    odd = days.astype({"PULocationID": object})
    odd.loc[[900, 1200], "PULocationID"] = ["Jamaica", "Queens"]
    path = write(odd, tmp_path / "days.csv")
    told = ["column 'PULocationID' has type VARCHAR, the contract says BIGINT: 'Jamaica' in row 901"]
    here.land(path)  # and the run was killed
    assert [partition.reasons for partition in here.ingest(path, MINE)] == [told] * 3
    SUITE.append(gxe.ExpectColumnMaxToBeBetween(column="trip_distance", max_value=300))
    again = here.ingest(path, MINE)
    assert [(partition.status, partition.reasons) for partition in again] == [("quarantined", told)] * 3


@pytest.mark.parametrize("name", ["day.parquet", "day.csv"])
def test_an_index_in_a_file_is_told_with_how_to_leave_it_out(here, tmp_path, name):
    frame, path = clean_day().sample(frac=1, random_state=0), tmp_path / name
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path)
    (partition,) = here.ingest(path)
    assert partition.status == "quarantined"
    assert partition.reasons[0].endswith("write the file with index=False")


def test_columns_may_be_called_what_we_call_ours(here, tmp_path):
    names = ["Day", "rows", "Reason", "Label", "Event_Timestamp", "value", "n", "h", "name", "bin", "place", "time"]
    SUITE[:] = [gxe.ExpectColumnValuesToBeBetween(column="trip_distance", min_value=0, max_value=100, mostly=0.9)]
    frames = [break_rows(clean_day(DAY + timedelta(days=number)), share=0.02) for number in range(2)]
    frame = pd.concat(frames, ignore_index=True).assign(**dict.fromkeys(names, 7.5))
    columns = {**spec.source.columns, **dict.fromkeys(names, "DOUBLE")}
    model = MINE.model_copy(update={"source": spec.source.model_copy(update={"columns": columns, "ignored": ()})})
    plain = here.ingest(write(frame.drop(columns=names), tmp_path / "in" / "plain.parquet"), MINE)
    other = Place(tmp_path / "other")
    found = other.ingest(write(frame, tmp_path / "in" / "named.parquet"), model)
    same = ("key", "status", "rows", "accepted_rows", "reasons", "first_event")
    for one, wanted in zip(found, plain, strict=True):
        assert one.status == "accepted"
        assert one.rejected_rows
        assert [getattr(one, field) for field in same] == [getattr(wanted, field) for field in same]
        rejected = frame_of(one.rejected_uri)
        assert list(rejected) == [*columns, "evergreen_reason"]
        assert (rejected[names] == 7.5).all(axis=None)
        assert list(rejected.evergreen_reason) == list(frame_of(wanted.rejected_uri).reason)
        table, expected = pq.read_table(one.accepted_uri), pq.read_table(wanted.accepted_uri)
        added = ["minutes", "label_time", "event_timestamp", "label_timestamp", "label"]
        assert table.select(added) == expected.select(added)
        assert len({column.lower() for column in table.column_names}) == table.num_columns
