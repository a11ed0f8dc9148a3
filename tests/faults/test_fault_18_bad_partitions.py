"""Fault 18: each kind of bad partition is refused with its reason; nothing downstream sees it, nothing is lost."""

from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
from great_expectations import ExpectationSuite
from ingest_parts import DAY, Place, clean_day, write

from flows import ledger
from flows.errors import ContractError
from flows.models.taxi.simulator import rename_column
from flows.models.taxi.spec import spec


@pytest.fixture
def here(tmp_path):
    return Place(tmp_path / "home")


def infinite(share):
    frame = clean_day()
    frame.loc[: int(share * len(frame)) - 1, "trip_distance"] = float("inf")
    return frame


def repeated(share):
    frame = clean_day()
    return pd.concat([frame, frame[: int(share * len(frame))]], ignore_index=True)


def no_values():
    return pd.array([None] * len(clean_day()), "Int64")


BAD = {
    "header-only": (lambda: clean_day()[:0], "there are no rows"),
    "all-NaN": (lambda: clean_day().assign(trip_distance=float("nan")), "'trip_distance' all missing"),
    "all-null": (lambda: clean_day().assign(DOLocationID=no_values()), "'DOLocationID' all missing"),
    "infinite": (lambda: infinite(1), "trip_distance is infinite"),
    "mostly infinite": (lambda: infinite(0.2), "trip_distance is infinite"),
    "duplicate keys": (lambda: repeated(0.3), "the key was there before"),
    "extra column": (lambda: clean_day().assign(surge=1.0), "column 'surge' is not in the contract"),
    "missing column": (lambda: clean_day().drop(columns="PULocationID"), "column 'PULocationID' is missing"),
    "renamed column": (lambda: rename_column(clean_day()), "'distance_miles' is new: renamed?"),
    "renamed time": (
        lambda: clean_day().rename(columns={"lpep_pickup_datetime": "pickup_datetime"}),
        "'lpep_pickup_datetime' is missing, 'pickup_datetime' is new: renamed?",
    ),
    "reordered columns": (lambda: clean_day()[[*spec.source.columns][::-1]], "columns are reordered"),
    "wrong type": (lambda: clean_day().astype({"trip_distance": str}).assign(trip_distance="far"), "has type VARCHAR"),
    "wrong time": (lambda: clean_day().assign(lpep_pickup_datetime="noon"), "'lpep_pickup_datetime' has type VARCHAR"),
    "no time": (lambda: clean_day().assign(lpep_pickup_datetime=pd.NaT), "event time is missing"),
    "too few rows": (lambda: clean_day()[:30], "no day has 100 rows"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("fault", BAD)
def test_a_bad_partition_is_quarantined_with_its_reason(here, tmp_path, fault, suffix):
    make, reason = BAD[fault]
    frame = make()
    good = here.ingest(write(clean_day(DAY - timedelta(days=1)), tmp_path / "good.parquet"))
    (partition,) = here.ingest(write(frame, tmp_path / f"bad{suffix}"))
    assert partition.status == "quarantined"
    assert reason in "; ".join(partition.reasons)
    assert (partition.accepted_uri, partition.accepted_rows, partition.rejected_rows) == (None, 0, len(frame))
    assert len(pd.read_parquet(partition.uri)) == len(frame)  # nothing is lost
    assert "Nothing of this partition is used" in Path(partition.docs_uri).read_text(encoding="utf-8")
    assert ledger.list_partitions(here.engine, "taxi", "accepted") == good


@pytest.mark.parametrize("share", [0.5, 0.99])
@pytest.mark.parametrize("suffix", [".parquet", ".csv.gz", ".csv"])
def test_a_truncated_file_is_kept_and_quarantined(here, tmp_path, suffix, share):
    whole = tmp_path / f"whole{suffix}"
    frame = clean_day()
    frame.to_parquet(whole) if suffix == ".parquet" else frame.to_csv(whole, index=False)
    content = whole.read_bytes()
    cut = content[: int(share * len(content))]
    if suffix == ".csv":
        cut = cut[: cut.rindex(b",", 0, cut.rindex(b","))]  # in the midst of a row
    (tmp_path / f"cut{suffix}").write_bytes(cut)
    (partition,) = here.ingest(tmp_path / f"cut{suffix}")
    assert (partition.status, partition.rows) == ("quarantined", 0)
    assert "cannot be read" in partition.reasons[0]
    assert Path(partition.uri).read_bytes() == cut
    assert here.ingest(tmp_path / f"cut{suffix}") == [partition]


def test_an_empty_file_is_quarantined(here, tmp_path):
    for name in ("empty.parquet", "empty.csv"):
        (tmp_path / name).touch()
        (partition,) = here.ingest(tmp_path / name)
        assert partition.status == "quarantined"


@pytest.mark.parametrize(("factor", "word"), [(10, "times the usual"), (0.08, "less than 1/10 of the usual")])
def test_a_tenfold_and_a_tenth_partition_are_quarantined(here, tmp_path, factor, word):
    for number in range(3):
        write(clean_day(DAY + timedelta(days=number), trips=2100), tmp_path / "in" / f"{number}.parquet")
    assert {p.status for p in here.ingest(tmp_path / "in")} == {"accepted"}
    frame = clean_day(DAY - timedelta(days=1), trips=int(2100 * factor * 1.1))
    (partition,) = here.ingest(write(frame, tmp_path / "other.parquet"))
    assert (partition.key, partition.status) == ("2024-01-09", "quarantined")
    assert word in partition.reasons[0]


def test_one_tenfold_day_among_those_of_a_first_batch_is_quarantined(here, tmp_path):
    for number in range(4):
        trips = 5000 if number == 2 else 500
        write(clean_day(DAY + timedelta(days=number), trips=trips), tmp_path / "in" / f"{number}.parquet")
    statuses = [partition.status for partition in here.ingest(tmp_path / "in")]
    assert statuses.count("quarantined") <= 1
    write(clean_day(DAY + timedelta(days=9), trips=6000), tmp_path / "in" / "9.parquet")
    assert here.ingest(tmp_path / "in" / "9.parquet")[0].status == "quarantined"


def test_a_few_infinite_values_and_repeated_keys_cost_only_their_rows(here, tmp_path):
    frame = infinite(0.01)
    bad = int(0.01 * len(frame))
    frame = pd.concat([frame, frame[-7:]], ignore_index=True)
    (partition,) = here.ingest(write(frame, tmp_path / "day.parquet"))
    assert (partition.status, partition.rejected_rows) == ("accepted", bad + 7)
    reasons = pd.read_parquet(partition.rejected_uri).reason
    assert reasons.str.contains("trip_distance is infinite").sum() == bad
    assert reasons.str.contains("repeats the key").sum() == 7


def empty_suite():
    return ExpectationSuite(name="nothing")


def test_a_suite_that_evaluates_nothing_is_a_failure(here, tmp_path):
    nothing = spec.model_copy(update={"expectations": f"{__name__}:empty_suite"})
    with pytest.raises(ContractError, match="passes anything"):
        here.ingest(write(clean_day(), tmp_path / "day.parquet"), nothing)
    assert ledger.list_partitions(here.engine, "taxi", "accepted") == []
