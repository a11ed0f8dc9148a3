"""Labels that came in a table of their own: what they change, what they leave, and which tables are refused."""

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingest_parts import Place, clean_day, write
from team_parts import stores

from flows import database, ledger, run_records
from flows.errors import UnavailableError, UsageError
from flows.models.taxi.spec import spec
from flows.steps import filling, landing, revisions
from flows.steps.in_memory import connect

KEY = list(spec.key)
LATE = "lpep_dropoff_datetime"


@pytest.fixture
def place(tmp_path):
    """A home in which a day has landed of which nobody knows yet when the trips ended."""
    found = Place(tmp_path / "home")
    (landed,) = found.ingest(write(unlabelled(clean_day()), tmp_path / "day.parquet"))
    assert landed.status == "quarantined"
    return found


def unlabelled(day: pd.DataFrame) -> pd.DataFrame:
    return day.assign(**{LATE: pd.Series([None] * len(day), dtype="datetime64[us]")})


def fill(place, folder, labels, on=(), name="labels.csv", model=spec):
    """Fill labels in, and return what was found and the frames of the partitions that change."""
    folder.mkdir(exist_ok=True)
    partitions = ledger.list_partitions(place.engine, "taxi")
    source = str(labels if not isinstance(labels, pd.DataFrame) else write(labels, folder / name))
    with connect(place.settings.home) as connection:
        found = filling.fill(connection, model, place.settings, partitions, source, on, folder)
    return found, [pd.read_parquet(one.file) for one in found.partitions]


@pytest.mark.parametrize("name", ["labels.csv", "labels.parquet", "labels.csv.gz"])
def test_rows_meet_their_labels_whatever_their_order(place, tmp_path, name):
    day = clean_day()
    labels = day[[LATE, *KEY]].sample(frac=1, random_state=0)
    found, (frame,) = fill(place, tmp_path / "out", labels, name=name)
    pd.testing.assert_frame_equal(frame, day[frame.columns], check_dtype=False)
    assert (found.labels, found.met, found.partitions[0].rows) == (len(day), len(day), len(day))
    assert found.partitions[0].key == "2024-01-10"


def test_a_missing_value_changes_nothing_and_a_label_of_no_row_is_counted(place, tmp_path):
    day = clean_day()
    labels = day[[*KEY, LATE]].copy()
    labels.loc[::2, LATE] = None
    labels.loc[1, "PULocationID"] = 9999
    known = labels[LATE].notna()
    found, (frame,) = fill(place, tmp_path / "out", labels)
    assert (found.labels, found.met, found.partitions[0].rows) == (known.sum(), known.sum() - 1, known.sum() - 1)
    expected = day[LATE].where(known & (labels.PULocationID != 9999))
    pd.testing.assert_series_equal(frame[LATE], expected, check_dtype=False)


def test_parts_of_the_labels_may_come_in_files_of_a_folder(place, tmp_path):
    day = clean_day()
    for number, part in enumerate((day[:200], day[200:])):
        write(part[[*KEY, LATE]].assign(seen="today"), tmp_path / "in" / f"{number}.csv")
    found, (frame,) = fill(place, tmp_path / "out", tmp_path / "in")
    assert (found.met, found.others) == (len(day), ("seen",))
    assert frame[LATE].notna().all()


def test_a_column_that_the_file_never_had_is_filled_too(tmp_path):
    place = Place(tmp_path / "home")
    day = clean_day()
    (landed,) = place.ingest(write(day.drop(columns=LATE), tmp_path / "day.csv"))
    assert (landed.status, landed.reasons[0].split(":")[0]) == ("quarantined", f"column {LATE!r} is missing")
    _, (frame,) = fill(place, tmp_path / "out", day[[*KEY, LATE]])
    pd.testing.assert_frame_equal(frame, day[frame.columns], check_dtype=False)


def test_a_file_of_nanoseconds_that_never_had_the_column_is_filled_too(tmp_path):
    place = Place(tmp_path / "home")
    day = clean_day()
    early = day.drop(columns=LATE).astype({"lpep_pickup_datetime": "datetime64[ns]"})  # as pandas writes them
    (landed,) = place.ingest(write(early, tmp_path / "day.parquet"))
    assert landed.reasons == [f"column {LATE!r} is missing"]
    found, (frame,) = fill(place, tmp_path / "out", day[[*KEY, LATE]])
    assert found.met == len(day)
    pd.testing.assert_frame_equal(frame, day[frame.columns], check_dtype=False)


def test_an_empty_column_that_pandas_knows_no_type_of_is_filled(tmp_path):
    place = Place(tmp_path / "home")
    day = clean_day()
    (landed,) = place.ingest(write(day.assign(**{LATE: None}), tmp_path / "day.parquet"))
    assert landed.reasons[0].startswith(f"each column holds values: {LATE!r} all missing")
    _, (frame,) = fill(place, tmp_path / "out", day[[*KEY, LATE]])
    pd.testing.assert_frame_equal(frame, day[frame.columns], check_dtype=False)


def test_a_period_that_lies_in_two_files_without_the_column_is_filled_whole(tmp_path):
    place = Place(tmp_path / "home")
    day = clean_day()
    for number, part in enumerate((day[:200], day[200:])):
        part = part.drop(columns=LATE)
        write(part[list(part)[:: 1 - 2 * number]], tmp_path / "in" / f"{number}.parquet")  # in any order
    (landed,) = place.ingest(tmp_path / "in")
    assert (landed.rows, landed.status, landed.source) == (len(day), "quarantined", f"{tmp_path}/in/")
    found, (frame,) = fill(place, tmp_path / "out", day[[*KEY, LATE]])
    assert found.met == len(day)
    pd.testing.assert_frame_equal(frame, day[frame.columns], check_dtype=False)


def test_what_is_broken_in_other_ways_is_left(place, tmp_path):
    other = clean_day(clean_day().lpep_pickup_datetime[0].date() + pd.Timedelta(days=1))
    place.ingest(write(other.rename(columns={"trip_distance": "miles"}), tmp_path / "renamed.parquet"))
    day = clean_day()
    labels = pd.concat([day, other])[[*KEY, LATE]]
    found, _ = fill(place, tmp_path / "out", labels)
    assert [one.key for one in found.partitions] == ["2024-01-10"]
    assert (found.labels, found.met) == (len(labels), len(day))


def test_what_a_killed_run_left_undecided_or_has_lost_since_is_decided_by_the_next(place, tmp_path):
    day = clean_day()
    labels = write(day[[*KEY, LATE]], tmp_path / "labels.csv")
    found, _ = fill(place, tmp_path / "first", labels)
    (landed,) = place.land(found.partitions[0].file)
    assert landed.status == "landed"
    found, _ = fill(place, tmp_path / "second", labels)
    assert [(one.key, one.rows) for one in found.partitions] == [("2024-01-10", 0)]
    (decided,) = place.ingest(found.partitions[0].file)
    assert (decided.status, decided.revision) == ("accepted", 2)
    assert fill(place, tmp_path / "third", labels)[0].partitions == ()
    Path(decided.accepted_uri).unlink()
    found, _ = fill(place, tmp_path / "fourth", labels)
    (made_anew,) = place.ingest(found.partitions[0].file)
    assert (made_anew.id, made_anew.accepted_sha256) == (decided.id, decided.accepted_sha256)
    assert Path(made_anew.accepted_uri).exists()


def test_a_newer_revision_that_waits_for_labels_takes_those_over_that_are_known(tmp_path):
    day = clean_day()
    labels, half = day[[*KEY, LATE]], len(day) // 2
    place = Place(tmp_path / "grown")
    place.ingest(write(unlabelled(day[:half]), tmp_path / "half.parquet"))
    found, _ = fill(place, tmp_path / "first", labels[:half])
    (accepted,) = place.ingest(found.partitions[0].file)
    (waiting,) = place.ingest(write(unlabelled(day), tmp_path / "whole.parquet"))
    assert [(one.revision, one.status) for one in (accepted, waiting)] == [(2, "accepted"), (3, "quarantined")]
    found, (frame,) = fill(place, tmp_path / "second", labels[half:])
    assert (found.met, [one.rows for one in found.partitions]) == (len(day) - half, [len(day) - half])
    pd.testing.assert_frame_equal(frame, day[frame.columns], check_dtype=False)
    (accepted,) = place.ingest(found.partitions[0].file)
    assert (accepted.revision, accepted.status) == (4, "accepted")
    assert fill(place, tmp_path / "third", labels)[0].partitions == ()


def test_a_label_that_is_nan_is_one_to_come(tmp_path):
    """In tables that Arrow or numpy made, a missing float is no null."""
    columns = {**spec.source.columns, "fare": "DOUBLE"}
    source = spec.source.model_copy(update={"columns": columns, "layouts": ()})
    fares = spec.model_copy(update={"source": source})
    day = clean_day()[list(spec.source.columns)]
    day["fare"] = 3.0 + day.trip_distance
    place = Place(tmp_path / "home")
    assert place.ingest(write(day, tmp_path / "day.parquet"), fares)[0].status == "accepted"
    grown = pa.table({name: pa.array(day[name]) for name in columns if name != "fare"})
    grown = grown.append_column("fare", pa.array(np.full(len(day), np.nan)))
    pq.write_table(grown, tmp_path / "grown.parquet")
    place.land(tmp_path / "grown.parquet", fares)
    told = day[[*KEY, "fare"]][:3].assign(fare=99.0)
    _, (*_, frame) = fill(place, tmp_path / "out", told, model=fares)
    pd.testing.assert_series_equal(frame.fare, day.fare.where(day.index >= 3, 99.0))


def test_what_labels_made_is_named_by_its_landed_file_whoever_decides_on_it(place, tmp_path):
    day = clean_day()
    found, _ = fill(place, tmp_path / "out", day[[*KEY, LATE]])
    file = str(found.partitions[0].file)
    with connect(place.settings.home) as connection:
        (killed,) = landing.land(
            file, spec, place.settings, place.engine, "day", connection, origin=found.origin
        ).partitions
    for _ in range(2):
        (decided,) = place.ingest(killed.uri)
        assert (decided.id, decided.status, decided.source) == (killed.id, "accepted", found.origin)
        assert revisions.brought_by(decided) == f"evergreen ingest {killed.uri}"
        Path(decided.accepted_uri).unlink()  # the next makes it anew


@pytest.mark.parametrize(
    ("change", "on", "told"),
    [
        (lambda day: day[["PULocationID", LATE]], (), r"has no column .*; name the columns .* with --on"),
        (lambda day: day[["PULocationID", LATE]], ("id",), "has no column id$"),
        (lambda day: day[KEY], (), "nothing to fill in"),
        (lambda day: day[KEY].assign(dropoff=day[LATE]), (), "nothing to fill in: dropoff is no column of the raw table"),
        (lambda day: day, ("PULocationID",), "is the time of a row, no label"),
        (lambda day: day[[*KEY, LATE]].assign(**{LATE: "soon"}), (), "has type .*'soon' in row 1"),
        (lambda day: day[[*KEY, LATE]].assign(PULocationID=9999), (), "none of its 4.. labels belongs to a landed row"),
        (
            lambda day: day[["PULocationID", LATE]], ("PULocationID",),
            r"says different things of \d+ rows in .*\(first: PULocationID \d+\)",
        ),
        (lambda day: day[[*KEY, LATE]][:0], (), "none of its 0 labels"),
        (
            lambda day: day[["PULocationID", LATE]].drop_duplicates("PULocationID"), ("PULocationID",),
            r"\d+ of its labels belong to 4.. landed rows by PULocationID; name all columns .* with --on",
        ),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_labels_is_refused_with_what_to_do(place, tmp_path, change, on, told):
    labels = change(clean_day())
    before = ledger.list_partitions(place.engine, "taxi")
    with pytest.raises(UsageError, match=told):
        fill(place, tmp_path / "out", labels, on)
    assert ledger.list_partitions(place.engine, "taxi") == before


def test_columns_that_tell_no_row_are_refused_too_where_a_newer_revision_alone_has_them(tmp_path):
    day, place = clean_day(), Place(tmp_path / "home")
    busy = day.PULocationID == day.PULocationID.mode()[0]
    assert place.ingest(write(day[~busy], tmp_path / "early.parquet"))[0].status == "accepted"
    assert place.ingest(write(unlabelled(day), tmp_path / "whole.parquet"))[0].status == "quarantined"
    with pytest.raises(UsageError, match=r"1 of its labels belong to \d+ landed rows by PULocationID"):
        fill(place, tmp_path / "out", day[busy][["PULocationID", LATE]][:1], ("PULocationID",))


def test_a_period_that_overlaps_one_of_another_kind_is_left_to_that(place, tmp_path):
    day, later = clean_day(), clean_day(date(2024, 1, 11))
    labels = pd.concat([day, later])[[*KEY, LATE]]
    both = write(unlabelled(pd.concat([day, later], ignore_index=True)), tmp_path / "month.parquet")
    assert [one.key for one in place.ingest(both, kind="month")] == ["2024-01"]
    found, (frame,) = fill(place, tmp_path / "first", labels)
    assert ([one.key for one in found.partitions], len(frame)) == (["2024-01"], len(labels))  # it came last
    place.ingest(write(day, tmp_path / "labelled.parquet"))
    found, _ = fill(place, tmp_path / "second", labels)  # by days now: a month beside them is refused
    assert (found.partitions, found.met) == ((), len(day))


def test_labels_reach_rows_that_another_host_has_landed(tmp_path, postgres, s3):
    day = clean_day()
    labels, half = day[[*KEY, LATE]], len(day) // 2
    with stores(tmp_path, postgres, s3, "labels") as team:
        with team.host(tmp_path / "one"):
            Place(tmp_path / "one").ingest(write(unlabelled(day[:half]), tmp_path / "half.parquet"))
        with team.host(tmp_path / "two"):
            place = Place(tmp_path / "two")
            found, _ = fill(place, tmp_path / "first", labels[:half])
            (accepted,) = place.ingest(found.partitions[0].file)
            assert (accepted.status, accepted.uri[:5], accepted.accepted_uri[:5]) == ("accepted", "s3://", "s3://")
            place.ingest(write(unlabelled(day), tmp_path / "whole.parquet"))
        with team.host(tmp_path / "one"):
            _, (frame,) = fill(Place(tmp_path / "one"), tmp_path / "second", labels[half:])
    pd.testing.assert_frame_equal(frame, day[frame.columns], check_dtype=False)


def test_the_flow_fills_all_others_where_landed_rows_are_gone_and_says_which(flow_home, tmp_path):
    from flows.ingest import ingest
    from flows.label import label

    days = [clean_day(), clean_day(date(2024, 1, 11))]
    waiting = unlabelled(pd.concat(days, ignore_index=True))
    assert len(ingest(source=str(write(waiting, tmp_path / "days.parquet")))) == 2
    engine = database.connect(flow_home)
    lost, _ = ledger.list_partitions(engine, "taxi")
    Path(lost.uri).unlink()
    labels = write(pd.concat(days)[[*KEY, LATE]], tmp_path / "labels.csv")
    told = f"{len(days[0])} labels belong to no .* the landed rows of 2024-01-10 are gone: .* 1 partitions are accepted"
    with pytest.raises(UnavailableError, match=told):
        label(source=str(labels))
    assert [one.key for one in ledger.list_partitions(engine, "taxi", "accepted")] == ["2024-01-11"]
    mine = write(days[1][[*KEY, LATE]], tmp_path / "mine.csv")
    assert label(source=str(mine))["met"] == len(days[1])  # none of these can be of what is gone
    ingest(source=str(tmp_path / "days.parquet"))
    assert [one["key"] for one in label(source=str(labels))["partitions"]] == ["2024-01-10"]


def test_the_flow_accepts_what_waited_for_its_labels_once(flow_home, tmp_path):
    from flows.ingest import ingest
    from flows.label import label

    day, engine = clean_day(), database.connect(flow_home)
    (first,) = ingest(source=str(write(unlabelled(day), tmp_path / "day.parquet")))
    assert first["status"] == "quarantined"
    labels = write(day[[*KEY, LATE]].sample(frac=1, random_state=0), tmp_path / "labels.csv")

    found = label(source=str(labels))
    assert (found["labels"], found["met"], found["rows"]) == (len(day), len(day), len(day))
    assert [(one["key"], one["revision"], one["status"]) for one in found["partitions"]] == [
        ("2024-01-10", 2, "accepted")
    ]
    accepted = ledger.list_partitions(engine, "taxi", "accepted")
    assert [one.source for one in accepted] == [str(labels)]
    whole = Place(tmp_path / "other")
    (same,) = whole.ingest(write(day, tmp_path / "whole.parquet"))
    assert accepted[0].digest == same.digest  # to the row what would have landed with its labels

    (run,) = run_records.newest(engine, "taxi", flow="label")
    assert (run.state, run.summary["rows"], run.summary["accepted"]) == ("completed", len(day), 1)
    again = label(source=str(labels))
    assert (again["met"], again["rows"], again["partitions"]) == (len(day), 0, [])
    assert ledger.list_partitions(engine, "taxi", "accepted") == accepted

    wrong = day[[*KEY, LATE]][:1].assign(**{LATE: day[LATE][0] + pd.Timedelta(minutes=5)})
    corrected = label(source=str(write(wrong, tmp_path / "corrected.csv")))
    assert (corrected["rows"], corrected["partitions"][0]["revision"]) == (1, 3)
    back = label(source=str(labels))  # the first verdict was right: the very rows of revision 2
    assert [(one["revision"], one["status"]) for one in back["partitions"]] == [(4, "accepted")]
    (accepted,) = ledger.list_partitions(engine, "taxi", "accepted")
    assert (accepted.revision, accepted.digest) == (4, same.digest)
    older = day.assign(**{LATE: day[LATE].where(day.index > 0, day[LATE] + pd.Timedelta(minutes=5))})
    (taken,) = ingest(source=str(write(older, tmp_path / "older.parquet")), again=True)
    assert (taken["revision"], taken["status"]) == (5, "accepted")
    assert taken["reasons"][-1].endswith(f"take it back: `evergreen ingest {accepted.uri} --again`")
    assert ingest(source=accepted.uri, again=True)[0]["status"] == "accepted"
    (accepted,) = ledger.list_partitions(engine, "taxi", "accepted")
    assert accepted.digest == same.digest
    assert not list((flow_home.home / "tmp").iterdir())
