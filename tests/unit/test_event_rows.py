"""Event rows: what a model's rows function must keep to, and what is added to its rows."""

from datetime import UTC, datetime, timedelta

import duckdb
import ibis
import pytest

from flows.errors import ContractError
from flows.models.taxi.source import trips
from flows.models.taxi.spec import spec
from flows.steps.event_rows import (
    added_sql,
    compiled,
    create_events,
    dated_sql,
    delete_events,
    layout_of,
    numbered_sql,
    with_computed,
)


def drops(raw):
    return trips(raw).drop("trip_distance")


def selects(raw):
    return raw.select("lpep_pickup_datetime", minutes=raw.trip_distance, label_time=raw.lpep_dropoff_datetime)


def lacks_label_time(raw):
    return trips(raw).drop("label_time")


def label_time_is_a_number(raw):
    return trips(raw).mutate(label_time=ibis.literal(1.0))


def raises(raw):
    raise ZeroDivisionError("a bug")


def hourly(raw):
    """Return rows whose event time is made of others, in UTC."""
    rows = trips(raw)
    return rows.mutate(hour=rows.lpep_pickup_datetime.truncate("h"))


def looks_back(raw):
    rows = trips(raw)
    return rows.mutate(
        before=rows.trip_distance.lag().over(ibis.window(order_by=[rows.lpep_pickup_datetime, rows.evergreen_row]))
    )


def changes(raw):
    return trips(raw).mutate(draw=ibis.random())


def of(function, **source):
    return spec.model_copy(
        update={"rows": f"{__name__}:{function.__name__}", "source": spec.source.model_copy(update=source)}
    )


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (drops, "drops trip_distance"),
        (selects, "drops lpep_dropoff_datetime"),
        (lacks_label_time, "must return a column 'label_time'"),
        (label_time_is_a_number, "must be a time"),
        (raises, "ZeroDivisionError: a bug"),
    ],
)
def test_a_rows_function_that_breaks_its_contract_is_told(function, word):
    with pytest.raises(ContractError, match=word):
        compiled(of(function))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": ("lpep_pickup_datetime", "zone")}, r"must return a column 'zone' \(key\); it returns .*PULocationID"),
        ({"label": spec.label.model_copy(update={"name": "minuets"})}, r"'minuets' \(label.name\)"),
        ({"source": spec.source.model_copy(update={"event_time": "picked"})}, r"'picked' \(source.event_time\)"),
        (
            {"source": spec.source.model_copy(update={"columns": {**spec.source.columns, "RowId": "BIGINT"}})},
            "source.columns names 'RowId', by which rows are numbered",
        ),
    ],
)
def test_a_name_in_the_spec_that_is_no_column_is_told(change, words):
    with pytest.raises(ContractError, match=words):
        compiled(spec.model_copy(update=change))


@pytest.fixture
def raw():
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(
            """CREATE TABLE rows AS SELECT * FROM (VALUES
            (TIMESTAMP '2024-03-09 23:50:00', TIMESTAMP '2024-03-10 00:20:00', 'nan'::DOUBLE, 1::BIGINT, 2::BIGINT),
            (TIMESTAMP '2024-03-10 03:10:00', TIMESTAMP '2024-03-10 03:40:00', 2.0, 1, 2),
            (TIMESTAMP 'infinity', NULL, 1.0, 1, 2)
            ) AS t(lpep_pickup_datetime, lpep_dropoff_datetime, trip_distance, PULocationID, DOLocationID)"""
        )
        yield connection


def test_event_rows_have_utc_times_and_a_label_and_no_nan(raw):
    assert create_events(raw, spec, "", "rows").rows == 3
    added = added_sql(raw, spec)
    found = raw.execute(
        f"SELECT evergreen_row, trip_distance, {', '.join(added.values())} FROM events "
        "WHERE isfinite(lpep_pickup_datetime)"
    ).fetchall()
    first, second = datetime(2024, 3, 10, 4, 50, tzinfo=UTC), datetime(2024, 3, 10, 7, 10, tzinfo=UTC)
    assert found == [
        (0, None, first, first + timedelta(minutes=90), 30.0),
        (1, 2.0, second, second + timedelta(minutes=90), 30.0),
    ]


def test_the_day_is_that_of_the_local_event_time_also_of_one_that_the_rows_add(raw):
    for model in (spec, of(hourly, event_time="hour")):
        dated = dated_sql(model, "rows", model.source.columns)
        days = raw.execute(f"SELECT evergreen_day FROM ({dated})").fetchall()
        assert [day.isoformat() for (day,) in days[:2]] == ["2024-03-09", "2024-03-10"]


def shouts(raw):
    """Return rows whose event time asks for a column of numbers."""
    rows = trips(raw)
    return rows.mutate(hour=rows.lpep_pickup_datetime + rows.trip_distance.round().cast("int64").as_interval("h"))


def test_a_column_that_nobody_knows_stays_beside_an_event_time_that_the_rows_add(raw):
    raw.execute("CREATE TABLE more AS SELECT *, 5 AS extra FROM rows")
    dated = dated_sql(of(hourly, event_time="hour"), "more", {**spec.source.columns, "extra": "INTEGER"})
    found = raw.execute(f"SELECT extra, evergreen_day FROM ({dated})").fetchall()
    assert [(extra, str(day)) for extra, day in found[:2]] == [(5, "2024-03-09"), (5, "2024-03-10")]


def test_rows_that_cannot_be_made_of_a_misfit_have_no_day(raw):
    raw.execute("CREATE TABLE misfit AS SELECT * REPLACE ([1.0] AS trip_distance) FROM rows")
    columns = {**spec.source.columns, "trip_distance": "DOUBLE[]"}
    dated = dated_sql(of(shouts, event_time="hour"), "misfit", columns)
    assert raw.execute(f"SELECT evergreen_day FROM ({dated})").fetchall() == [(None,)] * 3
    with pytest.raises(ContractError, match="raises fails on a table of the contract"):
        dated_sql(of(raises, event_time="hour"), "rows", spec.source.columns)


def test_without_a_time_there_is_no_day(raw):
    columns = {name: kind for name, kind in spec.source.columns.items() if name != "lpep_pickup_datetime"}
    raw.execute("CREATE TABLE misfit AS SELECT * EXCLUDE (lpep_pickup_datetime) FROM rows")
    assert raw.execute(f"SELECT evergreen_day FROM ({dated_sql(spec, 'misfit', columns)})").fetchall() == [(None,)] * 3


def replaces(raw):
    """Return rows of which a raw column has other values, and that lie under other names."""
    rows = trips(raw)
    return rows.mutate(trip_distance=rows.trip_distance.fill_null(0.5) * 2, again=rows.trip_distance)


def numbers(raw):
    rows = trips(raw)
    return rows.mutate(odd=rows.evergreen_row % 2)


def test_rows_that_look_at_others_or_change_each_time_are_told_from_those_computed_one_by_one():
    layout = layout_of(spec)
    assert layout.shown == {name: name for name in spec.source.columns} | {
        "minutes": "minutes", "label_time": "lpep_dropoff_datetime",
    }  # fmt: skip
    assert list(layout.computed) == ["minutes"]
    assert layout_of(of(hourly)).shown["hour"] == "hour"
    other = layout_of(of(replaces))
    assert (other.shown["trip_distance"], other.shown["again"]) == ("evergreen_trip_distance", "trip_distance")
    for function in (looks_back, changes, numbers):
        assert layout_of(of(function)) is None


MANY = """SELECT TIMESTAMP '2024-03-01' + to_seconds(range * 7919 % 86400) AS lpep_pickup_datetime,
    TIMESTAMP '2024-03-01' + to_seconds(range * 7919 % 86400 + range % 4000) AS lpep_dropoff_datetime,
    CASE WHEN range % 5 = 0 THEN 'nan'::DOUBLE ELSE range / 9 END AS trip_distance, range % 265 AS PULocationID,
    range % 7 AS DOLocationID FROM range(150000)"""


@pytest.mark.parametrize("function", [trips, replaces, numbers, looks_back])
@pytest.mark.parametrize("way", ["file", "table", "computed"])
def test_event_rows_are_the_same_wherever_they_are_read_and_computed(tmp_path, function, way):
    model = of(function) if function is not trips else spec
    path = tmp_path / "rows.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({MANY}) TO $path (FORMAT parquet)", {"path": str(path)})
        columns = ", ".join(compiled(model)[1])
        sql = compiled(model)[0]
        landed = f"FROM ({numbered_sql(str(path))})"
        connection.execute(
            f"""CREATE TABLE wanted AS WITH raw AS (SELECT * REPLACE (nullif(trip_distance, 'nan'::DOUBLE) AS trip_distance)
            {landed}) SELECT {columns} FROM ({sql})"""
        )
        rows = f"FROM read_parquet('{path}')"
        connection.execute(f"CREATE TABLE loaded AS {with_computed(model, rows) if way == 'computed' else rows}")
        events, raw = create_events(connection, model, str(path), None if way == "file" else "loaded")
        assert events == 150_000
        connection.execute("CREATE TABLE bad AS SELECT evergreen_row FROM wanted WHERE evergreen_row % 3 = 0")
        for _ in range(2):
            same(connection, f"SELECT {columns} FROM events", "FROM wanted")
            same(connection, f"SELECT * FROM ({raw})", f"SELECT * {landed}")
            delete_events(connection, "bad")
            connection.execute("DELETE FROM wanted WHERE evergreen_row % 3 = 0")
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (100_000,)


def same(connection, found, wanted):
    for one, other in ((found, wanted), (wanted, found)):
        assert connection.execute(f"SELECT count(*) FROM ({one} EXCEPT ALL {other})").fetchone() == (0,)
