"""Statistics of rows of any type, as JSON."""

import json

import duckdb
import pytest

from flows.steps.statistics import BINS, QUANTILES, SAMPLE, describe_rows


def figures(query):
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"CREATE TABLE events AS {query}")
        columns = {row[0]: row[1] for row in connection.execute("DESCRIBE events").fetchall()}
        found = describe_rows(connection, columns, "x")
    return json.loads(json.dumps(found, allow_nan=False))


def test_every_type_has_its_figures():
    found = figures(
        """SELECT range::DOUBLE AS x, (range % 3)::INTEGER AS y,
        CASE WHEN range < 10 THEN NULL ELSE 'é' || range % 2 END AS t,
        TIMESTAMP '2024-01-01' + to_hours(range) AS at, DATE '2024-01-01' + range::INT AS day, range % 2 = 0 AS flag,
        make_timestamptz(range) AS z, (range / 7)::DECIMAL(9, 3) AS d FROM range(100)"""
    )
    columns = found["columns"]
    assert (found["rows"], found["label"]) == (100, "x")
    assert {column["count"] + column["nulls"] for column in columns.values()} == {100}
    assert columns["t"]["nulls"] == 10
    assert columns["t"]["top"] == [{"value": "é0", "count": 45}, {"value": "é1", "count": 45}]
    assert columns["y"]["top"][0] == {"value": "0", "count": 34}
    assert (columns["x"]["min"], columns["x"]["max"], columns["x"]["mean"]) == (0, 99, 49.5)
    assert list(columns["x"]["quantiles"]) == [str(quantile) for quantile in QUANTILES]
    assert columns["at"]["min"] == "2024-01-01T00:00:00"
    for name in ("x", "y", "at", "day", "z", "d"):
        assert sum(columns[name]["histogram"]["counts"]) == 100
        assert len(columns[name]["histogram"]["edges"]) == BINS + 1
    assert "histogram" not in columns["flag"]


@pytest.mark.parametrize(
    "values",
    [
        "7.0",
        "NULL::DOUBLE",
        "'inf'::DOUBLE",
        "'-inf'::DOUBLE",
        "1e308",
        "CASE WHEN range % 2 = 0 THEN 1e308 ELSE -1e308 END",
        "CASE WHEN range = 0 THEN 'inf'::DOUBLE END",
    ],
)
def test_constant_missing_and_infinite_columns_do_no_harm(values):
    column = figures(f"SELECT {values} AS x FROM range(50)")["columns"]["x"]
    assert column["count"] + column["nulls"] == 50


def test_no_rows_have_figures_too():
    nothing = {"type": "DOUBLE", "count": 0, "nulls": 0, "min": None, "max": None, "mean": None, "std": None}
    assert figures("SELECT 1e0 AS x LIMIT 0") == {"rows": 0, "label": "x", "columns": {"x": nothing}}


def test_many_rows_are_described_by_every_nth():
    rows = SAMPLE * 10
    column = figures(f"SELECT range::DOUBLE AS x FROM range({rows})")["columns"]["x"]
    assert (column["count"], column["max"]) == (rows, rows - 1)
    assert column["quantiles"]["0.5"] == pytest.approx(rows / 2, rel=0.01)
    assert sum(column["histogram"]["counts"]) == SAMPLE


def test_a_column_may_have_any_name():
    name = """x"'; DROP TABLE events; --"""
    columns = figures(f"""SELECT 1 AS "{name.replace('"', '""')}" """)["columns"]
    assert columns[name]["top"] == [{"value": "1", "count": 1}]
