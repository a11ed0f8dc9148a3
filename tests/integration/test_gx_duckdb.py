"""Great Expectations on DuckDB: the mend of its engine holds."""

import duckdb
from great_expectations import expectations as gxe

from flows.steps.gx_duckdb import TableJudge


def test_great_expectations_reads_its_results_on_duckdb():
    """The mend of its IndexError: every kind of result is there, over tables that come one after the other."""
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT range AS x, range % 3 AS y FROM range(100)")
        judge = TableJudge(connection, "t")
        rules = [
            gxe.ExpectColumnMaxToBeBetween(column="x", max_value=99),
            gxe.ExpectColumnValuesToBeBetween(column="x", max_value=89, mostly=0.9),
            gxe.ExpectColumnMedianToBeBetween(column="x", min_value=49, max_value=50),
            gxe.ExpectColumnDistinctValuesToBeInSet(column="y", value_set=[0, 1, 2]),
        ]
        results = judge.validate(rules, "BASIC")
        assert [result["success"] for result in results] == [True] * 4
        assert not any(result["exception_info"].get("raised_exception") for result in results)
        assert results[1]["result"]["unexpected_count"] == 10
        assert [result["expectation_config"]["type"] for result in results] == [rule.expectation_type for rule in rules]
        connection.execute("CREATE OR REPLACE TABLE t AS SELECT range AS x, 7::BIGINT AS y FROM range(200)")
        assert [result["success"] for result in judge.validate(rules, "BOOLEAN_ONLY")] == [False] * 4


def test_the_median_is_exact_on_many_rows_in_any_order_and_with_ties():
    sizes, columns = (1, 2, 1000, 300_000, 300_001), ("x", "sorted_x", "tie")
    with duckdb.connect() as connection:
        for rows in sizes:
            connection.execute(
                f"""CREATE OR REPLACE TABLE t AS SELECT
                    CASE WHEN i % 7 != 6 THEN hash(i) % 99991 END AS x, sqrt(i) AS sorted_x, CASE WHEN i % 3 THEN i END AS tie
                FROM range({rows}) AS r(i)"""
            )
            rules = [gxe.ExpectColumnMedianToBeBetween(column=name, min_value=0) for name in columns]
            found = [
                result["result"].get("observed_value")
                for result in TableJudge(connection, "t").validate(rules, "BASIC")
            ]
            medians = ", ".join(f"median({name})" for name in columns)
            assert found == list(connection.execute(f"SELECT {medians} FROM t").fetchone()), rows
