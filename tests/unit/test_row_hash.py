"""The hash of rows: values, order, names and types matter; the file they lie in does not."""

import duckdb
import pytest

from flows.steps.reading import describe
from flows.steps.row_hash import digest_of

ROWS = """SELECT i AS a, CASE WHEN i % 7 = 0 THEN NULL ELSE i / 3.0 END AS b, 'text ' || (i % 13) AS c,
          CASE WHEN i % 5 = 0 THEN NULL ELSE TIMESTAMP '2024-01-01' + to_seconds(i) END AS d, i % 2 = 0 AS e,
          [i, i + 1] AS f, (i % 100)::DECIMAL(9, 2) AS g, make_timestamptz(i) AS h, DATE '2024-01-01' + i::INT AS k,
          CASE WHEN i % 3 = 0 THEN NULL ELSE 'é' || i END AS l
          FROM range({rows}) t(i)"""


def digest(query):
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return digest_of(connection, describe(connection, query, {}), f"FROM ({query})", {})


@pytest.mark.parametrize(
    "options",
    [
        "COMPRESSION zstd, ROW_GROUP_SIZE 2048",
        "COMPRESSION uncompressed, PARQUET_VERSION v2",
        "COMPRESSION snappy, ROW_GROUP_SIZE 1000000, DICTIONARY_SIZE_LIMIT 1",
    ],
)
def test_the_same_rows_have_one_hash_in_every_file(tmp_path, options):
    query = ROWS.format(rows=300_000)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"COPY ({query}) TO '{tmp_path / 'rows.parquet'}' (FORMAT parquet, {options})")
    assert digest(f"SELECT * FROM read_parquet('{tmp_path / 'rows.parquet'}')") == digest(query)


@pytest.mark.parametrize(
    "change",
    [
        "SELECT * FROM ({q}) ORDER BY a DESC",
        "SELECT * FROM ({q}) WHERE a <> 50",
        "SELECT * REPLACE (CASE WHEN a = 50 THEN 0 ELSE b END AS b) FROM ({q})",
        "SELECT * REPLACE (coalesce(b, 0) AS b) FROM ({q})",
        "SELECT * REPLACE (CASE WHEN a = 50 THEN 'texT' ELSE c END AS c) FROM ({q})",
        "SELECT * REPLACE (coalesce(l, '') AS l) FROM ({q})",
        "SELECT * RENAME (a AS z) FROM ({q})",
        "SELECT * REPLACE (a::INTEGER AS a) FROM ({q})",
        "SELECT b, a, * EXCLUDE (a, b) FROM ({q})",
    ],
)
def test_any_change_of_the_rows_changes_the_hash(change):
    query = ROWS.format(rows=100)
    assert digest(change.format(q=query)) != digest(query)


def test_where_one_text_ends_and_the_next_begins_matters():
    assert digest("SELECT unnest(['ab', 'c']) AS t") != digest("SELECT unnest(['a', 'bc']) AS t")


def test_no_rows_have_a_hash_that_knows_their_columns():
    empty, rows = digest("SELECT 1 AS a LIMIT 0")
    assert rows == 0
    assert empty != digest("SELECT 1 AS b LIMIT 0")[0]
