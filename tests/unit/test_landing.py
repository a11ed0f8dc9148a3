"""Landing without judging: periods, strays, hashes, revisions, and files that cannot be what they should."""

from datetime import date, timedelta
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingest_parts import DAY, Place, clean_day, write

from flows import ledger
from flows.errors import UsageError
from flows.models.taxi.simulator import rename_column, simulate_day
from flows.models.taxi.spec import spec
from flows.steps import reading
from flows.steps.in_memory import connect
from flows.steps.sources import SourceFile


@pytest.fixture
def here(tmp_path):
    return Place(tmp_path / "home")


@pytest.fixture
def place(here):
    return here.land


def rows_of(partition):
    return duckdb.sql(f"SELECT * FROM read_parquet('{partition.uri}')").df()


def types_of(partition):
    query = f"SELECT column_name, column_type FROM (DESCRIBE FROM read_parquet('{partition.uri}'))"
    return dict(duckdb.sql(query).fetchall())


class Listener:
    """A connection that keeps what it was asked."""

    def __init__(self, connection):
        self.connection, self.asked = connection, []

    def execute(self, query, *parameters):
        self.asked.append(query)
        return self.connection.execute(query, *parameters)


def read_one(path, model=spec):
    """Return the batch of one file, its rows and what was asked for it."""
    with connect() as connection:
        listener = Listener(connection)
        file = SourceFile(path=path, origin=str(path), name=path.name)
        (batch,), unreadable = reading.read(listener, model, [file])
        assert not unreadable
        return batch, connection.execute(f"FROM {batch.table}").df(), listener.asked


def test_a_batch_is_split_by_the_local_day_week_and_month(place, tmp_path):
    days = [clean_day(date(2024, 1, 27) + timedelta(days=n)) for n in range(8)]
    write(pd.concat(days), tmp_path / "in" / "all.parquet")
    assert [p.key for p in place(tmp_path / "in")] == [f"2024-01-{n}" for n in range(27, 32)] + [
        f"2024-02-0{n}" for n in (1, 2, 3)
    ]
    for kind, keys in (("week", ["2024-W04", "2024-W05"]), ("month", ["2024-01", "2024-02"])):
        landed = Place(tmp_path / kind).land(tmp_path / "in", kind=kind)
        assert [partition.key for partition in landed] == keys
        assert sum(partition.rows for partition in landed) == sum(map(len, days))


def test_the_rows_land_as_they_came_in_their_order(place, tmp_path):
    frame = clean_day().sample(frac=1, random_state=0).reset_index(drop=True)
    (partition,) = place(write(frame, tmp_path / "in" / "day.parquet"))
    pd.testing.assert_frame_equal(rows_of(partition), frame, check_dtype=False)


def test_the_same_rows_again_are_a_no_op_whatever_the_file(here, place, tmp_path):
    frame = clean_day()
    first = place(write(frame, tmp_path / "in" / "day.parquet"))
    path = tmp_path / "in" / "other.parquet"
    frame.to_parquet(path, index=False, compression="gzip", row_group_size=100)
    assert place(path) == first
    assert place(write(frame, tmp_path / "in" / "day.csv")) == first
    halves = tmp_path / "halves"
    write(frame[:200], halves / "1.parquet")
    write(frame[200:].astype({"PULocationID": "int32"}), halves / "2.parquet")
    assert place(halves) == first
    assert len(list((here.settings.lake("taxi") / "raw").iterdir())) == 1


def test_other_rows_of_the_same_key_are_the_next_revision_and_the_old_one_stays(place, tmp_path):
    (first,) = place(write(clean_day(), tmp_path / "in" / "day.parquet"))
    (second,) = place(write(clean_day()[1:], tmp_path / "in" / "day.parquet"))
    assert (first.revision, second.revision) == (1, 2)
    assert len(rows_of(first)) == len(rows_of(second)) + 1


def test_strays_form_no_partition_and_stay_with_the_nearest_period(place, tmp_path):
    frame = pd.concat([clean_day(), clean_day(DAY + timedelta(days=1))], ignore_index=True)
    frame.loc[0, "lpep_pickup_datetime"] = pd.Timestamp("2009-01-01 03:00")
    frame.loc[len(frame) - 1, "lpep_pickup_datetime"] = pd.Timestamp("2024-02-20 03:00")
    frame.loc[1, "lpep_pickup_datetime"] = pd.NaT
    first, second = place(write(frame, tmp_path / "in" / "two.parquet"))
    assert [first.key, second.key] == ["2024-01-10", "2024-01-11"]
    assert first.rows + second.rows == len(frame)
    times = rows_of(first).lpep_pickup_datetime
    assert times.isna().sum() == 1
    assert (times < "2010").sum() == 1
    assert (rows_of(second).lpep_pickup_datetime > "2024-02").sum() == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frame: frame.rename(columns={"lpep_pickup_datetime": "pickup"}),
        lambda frame: frame.drop(columns="lpep_pickup_datetime"),
        lambda frame: frame.assign(lpep_pickup_datetime="yesterday"),
        lambda frame: frame.assign(lpep_pickup_datetime=pd.NaT),
        lambda frame: frame[:20],
        lambda frame: frame[:0],
    ],
)
def test_a_batch_whose_time_cannot_be_told_is_one_partition(place, tmp_path, spoil):
    frame = spoil(clean_day())
    (partition,) = place(write(frame, tmp_path / "in" / "the day.parquet"))
    assert (partition.key, partition.rows) == ("batch-the-day", len(frame))


def test_a_file_that_breaks_the_contract_does_not_spoil_the_others(place, tmp_path):
    for number in range(3):
        frame = simulate_day(DAY + timedelta(days=number), trips=500)
        write(rename_column(frame) if number == 1 else frame, tmp_path / "in" / f"{number}.parquet")
    landed = place(tmp_path / "in")
    assert [partition.key for partition in landed] == ["2024-01-10", "2024-01-11", "2024-01-12"]
    assert "distance_miles" in rows_of(landed[1])
    assert list(rows_of(landed[2])) == list(spec.source.columns)


def test_ignored_columns_are_dropped_and_integers_widened(place, tmp_path):
    frame = clean_day().astype({"DOLocationID": "int32"}).assign(VendorID=2)
    (partition,) = place(write(frame, tmp_path / "in" / "day.parquet"))
    assert rows_of(partition).dtypes["DOLocationID"] == "int64"
    assert list(rows_of(partition)) == list(spec.source.columns)


@pytest.mark.parametrize(
    ("column", "values", "kept"),
    [
        ("PULocationID", "74.0", True),
        ("PULocationID", "74.6", False),
        ("PULocationID", "x", False),
        ("trip_distance", "N/A", False),
        ("lpep_dropoff_datetime", "2024-01-10T08:00:00", True),
        ("lpep_dropoff_datetime", "2024-01-10T08:00:00Z", False),
        ("lpep_dropoff_datetime", "2024-01-10 08:00:00+05:30", False),
        ("lpep_dropoff_datetime", "2024-01-10 08:00:00+05:30 ", False),
        ("lpep_dropoff_datetime", "2024-01-10 08:00:00 UTC", False),
    ],
)
def test_a_csv_column_has_its_type_if_every_value_reads_as_such(place, tmp_path, column, values, kept):
    frame = clean_day().astype({column: object})
    frame.loc[3, column] = values
    (partition,) = place(write(frame, tmp_path / "in" / "day.csv"))
    found = types_of(partition)
    assert (found[column] == spec.source.columns[column]) is kept
    assert [name for name, kind in found.items() if kind != spec.source.columns[name]] == ([] if kept else [column])


@pytest.mark.parametrize(("value", "kept"), [("74.0", True), ("74.6", False), ("-74", False)])
def test_a_csv_column_of_unsigned_numbers_is_not_rounded(tmp_path, value, kept):
    columns = {**spec.source.columns, "PULocationID": "UINTEGER"}
    model = spec.model_copy(update={"source": spec.source.model_copy(update={"columns": columns})})
    frame = clean_day().astype({"PULocationID": object})
    frame.loc[3, "PULocationID"] = value
    assert read_one(write(frame, tmp_path / "day.csv"), model)[0].fits is kept


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"PULocationID": ["74", "", "74.6", "x"]}, ["VARCHAR, the contract says BIGINT: '74.6' in row 3"]),
        ({"trip_distance": ["1.0", "2,5"]}, ["VARCHAR, the contract says DOUBLE: '2,5' in row 2"]),
        (
            {"lpep_dropoff_datetime": ["2025-03-17 00:00", "2025-03-17 00:00:00Z"]},
            ["VARCHAR, the contract says TIMESTAMP: '2025-03-17 00:00:00Z' in row 2"],
        ),
        (
            {"lpep_dropoff_datetime": ["2025-03-17 00:00:00Z"] * 9},
            ["TIMESTAMP WITH TIME ZONE, the contract says TIMESTAMP: '2025-03-17 00:00:00Z' in row 1"],
        ),
        ({"PULocationID": ["far " * 50]}, [f"VARCHAR, the contract says BIGINT: {'far ' * 10!r} in row 1"]),
        ({"PULocationID": ["a\nb"], "trip_distance": ["?"]}, ["DOUBLE: '?' in row 1", r"BIGINT: 'a\nb' in row 1"]),
    ],
)
@pytest.mark.parametrize("numbered", [False, True])
def test_a_csv_column_of_another_type_is_told_with_its_first_value_that_does_not_fit(tmp_path, values, told, numbered):
    frame = clean_day()[:9].astype(object)
    for name, some in values.items():
        frame.loc[: len(some) - 1, name] = some
    model = spec
    if numbered:
        columns = {"evergreen_row": "BIGINT", **spec.source.columns}
        source = spec.source.model_copy(update={"columns": columns, "numbered": "evergreen_row"})
        model = spec.model_copy(update={"source": source})
    batch, _, _ = read_one(write(frame, tmp_path / "day.csv"), model)
    assert len(batch.problems) == len(told)
    assert all(problem.endswith(end) for problem, end in zip(batch.problems, told, strict=True))


def test_a_csv_file_that_fits_is_asked_for_no_example(tmp_path):
    batch, _, asked = read_one(write(clean_day(), tmp_path / "day.csv"))
    assert (batch.fits, batch.problems) == (True, ())
    assert [query.split()[0] for query in asked] == ["CREATE", "DESCRIBE", "SELECT", "CREATE"]


def with_gaps(kind, last=74.0):
    """Return a day in which a zone is missing here and there, so that pandas makes floats of the column."""
    zones = clean_day().PULocationID.astype(kind)
    zones[::7] = float("nan")
    zones[zones.index[-2]] = last
    return clean_day().assign(PULocationID=zones)


def write_as_it_is(frame, path):
    """Write a frame as parquet with NaN as what it is: pandas would write a null for it."""
    columns = {name: pa.array(frame[name].to_numpy(), from_pandas=False) for name in frame}
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("kind", ["float64", "float32"])
@pytest.mark.parametrize("writer", [write, write_as_it_is])
def test_whole_numbers_that_became_floats_for_their_gaps_are_whole_numbers_again(place, tmp_path, kind, writer):
    frame = with_gaps(kind)
    (partition,) = place(writer(frame, tmp_path / "floats.parquet"))
    assert (partition.key, partition.reasons, types_of(partition)) == ("2024-01-10", [], spec.source.columns)
    whole = write(frame.astype({"PULocationID": "Int64"}), tmp_path / "whole.parquet")
    assert place(whole) == [partition]
    assert rows_of(partition).PULocationID.isna().sum() == len(frame[::7])


@pytest.mark.parametrize("odd", [74.5, float("inf"), -float("inf"), 2.0**54, 2.0**63, 1e30])
@pytest.mark.parametrize("kind", ["float64", "float32"])
def test_floats_of_which_one_is_no_whole_number_of_the_type_stay_floats(place, tmp_path, kind, odd):
    frame = with_gaps(kind, odd)
    (partition,) = place(write_as_it_is(frame, tmp_path / "day.parquet"))
    assert types_of(partition)["PULocationID"] == {"float64": "DOUBLE", "float32": "FLOAT"}[kind]
    (problem,) = partition.reasons
    assert "the contract says BIGINT: " in problem
    value, row = problem.rpartition(": ")[2].split(" in row ")
    assert (float(value), int(row)) == (pytest.approx(odd), len(frame) - 1)


@pytest.mark.parametrize(("value", "kept"), [(2.0**31 - 1, True), (2.0**31, False), (-(2.0**31), True)])
def test_floats_are_whole_numbers_within_the_reach_of_their_type(tmp_path, value, kept):
    columns = {**spec.source.columns, "PULocationID": "INTEGER"}
    model = spec.model_copy(update={"source": spec.source.model_copy(update={"columns": columns})})
    frame = with_gaps("float64", value)
    batch, _, _ = read_one(write(frame, tmp_path / "day.parquet"), model)
    assert batch.fits is kept


def test_a_column_of_gaps_alone_is_one_of_whole_numbers(tmp_path):
    frame = clean_day().assign(PULocationID=float("nan"))
    batch, rows, _ = read_one(write_as_it_is(frame, tmp_path / "day.parquet"))
    assert (batch.fits, rows.PULocationID.notna().sum()) == (True, 0)


def test_a_file_with_floats_for_whole_numbers_is_written_anew_and_may_be_numbered(tmp_path):
    path = write(with_gaps("float64"), tmp_path / "day.parquet")
    batch, _, _ = read_one(path)
    assert (batch.fits, batch.file, batch.columns) == (True, None, spec.source.columns)
    columns = {"number": "BIGINT", **spec.source.columns}
    source = spec.source.model_copy(update={"columns": columns, "numbered": "number"})
    batch, rows, _ = read_one(path, spec.model_copy(update={"source": source}))
    assert batch.fits
    assert list(rows.number) == list(range(len(rows)))


def test_a_file_as_the_contract_says_is_described_and_read_and_no_more(tmp_path):
    path = write(clean_day(), tmp_path / "day.parquet")
    batch, _, asked = read_one(path)
    assert batch.file == path
    assert [query.split()[0] for query in asked] == ["DESCRIBE", "CREATE"]


@pytest.mark.parametrize(
    ("ends", "kind"),
    [
        (["Z", "+00:00", " UTC", "+00", " Etc/UTC"], "TIMESTAMP WITH TIME ZONE"),
        ([""], "TIMESTAMP"),
        (["Z", "Z", "Z", ""], "VARCHAR"),
    ],
)
def test_times_without_a_zone_are_no_instants(place, tmp_path, ends, kind):
    columns = {**spec.source.columns, "lpep_dropoff_datetime": "TIMESTAMP WITH TIME ZONE"}
    model = spec.model_copy(update={"source": spec.source.model_copy(update={"columns": columns})})
    frame = clean_day()
    times = [f"{time:%Y-%m-%dT%H:%M:%S}{ends[n % len(ends)]}" for n, time in enumerate(frame.lpep_dropoff_datetime)]
    (partition,) = place(write(frame.assign(lpep_dropoff_datetime=times), tmp_path / "in" / "day.csv"), model)
    query = (
        f"SELECT column_type FROM (DESCRIBE FROM read_parquet('{partition.uri}')) WHERE column_name LIKE '%dropoff%'"
    )
    assert duckdb.sql(query).fetchall() == [(kind,)]
    if kind == "TIMESTAMP WITH TIME ZONE":
        found = rows_of(partition).lpep_dropoff_datetime.dt.tz_convert("UTC").dt.tz_localize(None)
        assert (found == frame.lpep_dropoff_datetime.dt.floor("s")).all()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("day.parquet", None),
        ("day.csv", b'a,b\n1,"2\n3'),
        ("empty.csv", b""),
        ("empty.parquet", b""),
        ("z.csv.gz", b"no"),
    ],
)
def test_a_file_that_cannot_be_read_is_kept_with_its_reason(place, tmp_path, name, content):
    path = tmp_path / name
    if content is None:
        whole = write(clean_day(), tmp_path / "whole.parquet").read_bytes()
        content = whole[: len(whole) // 2]
    path.write_bytes(content)
    (partition,) = place(path)
    assert partition.rows == 0
    assert "cannot be read" in partition.reasons[0]
    assert name in partition.reasons[0] or "/" not in partition.reasons[0]
    assert Path(partition.uri).read_bytes() == content
    assert place(path) == [partition]


def test_a_csv_cut_off_in_a_row_cannot_be_read(place, tmp_path):
    path = write(clean_day(), tmp_path / "day.csv")
    text = path.read_text()
    path.write_text(text[: text.rindex(",", 0, len(text) - 30)])
    (partition,) = place(path)
    assert "cannot be read" in partition.reasons[0]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_any_usual_separator_and_a_byte_order_mark_are_read(place, tmp_path, separator):
    frame = clean_day()
    frame.to_csv(tmp_path / "day.csv", index=False, sep=separator, encoding="utf-8-sig", lineterminator="\r\n")
    (partition,) = place(tmp_path / "day.csv")
    assert (partition.key, partition.rows) == ("2024-01-10", len(frame))
    frame.to_csv(tmp_path / "day.csv.gz", index=False)
    assert place(tmp_path / "day.csv.gz") == [partition]


def test_another_kind_of_period_over_accepted_ones_is_a_wrong_call_and_changes_nothing(here, place, tmp_path):
    path = write(clean_day(), tmp_path / "in" / "day.parquet")
    (partition,) = place(path)
    ledger.decide_partition(here.engine, partition.id, "accepted")
    with pytest.raises(UsageError, match="--partition-by day"):
        place(path, kind="month")
    assert len(ledger.list_partitions(here.engine, "taxi")) == 1


def test_names_do_not_leave_the_lake(here, place, tmp_path):
    frame = clean_day()[:10].rename(columns={"trip_distance": 'x"; DROP TABLE fitting; --', "PULocationID": "<b>'"})
    (partition,) = place(write(frame, tmp_path / "in" / "..'; x.parquet"))
    assert partition.key == "batch-x"
    assert Path(partition.uri).parent == here.settings.lake("taxi") / "raw"
    assert "<b>'" in rows_of(partition)
