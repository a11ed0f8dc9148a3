"""What bike data must look like: a Great Expectations suite as code, with room around what the table held.

Rules with ``mostly`` below 1 are row rules: up to that share of rows may break them, and those alone are quarantined.
All others are hard: one break and the partition is quarantined whole. The contract (columns, types, no empty or
infinite columns, a key that names one row, row count against the partitions before) is checked for every model.
"""

from great_expectations import ExpectationSuite
from great_expectations import expectations as gxe

TOLERATED = 0.95


def suite() -> ExpectationSuite:
    """Return the suite that every partition is judged by."""
    rules: list[gxe.Expectation] = [
        gxe.ExpectColumnValuesToNotBeNull(column="time", mostly=TOLERATED),
        # A label that is not there yet is no fault: such rows are kept and wait.
        gxe.ExpectColumnProportionOfNonNullValuesToBeBetween(
            column="cnt",
            min_value=0.5,
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="cnt",
            min_value=0,
            max_value=2000,
            mostly=TOLERATED,
        ),
        gxe.ExpectColumnMedianToBeBetween(
            column="cnt",
            min_value=0,
            max_value=490,
        ),
        gxe.ExpectColumnValuesToNotBeNull(column="season", mostly=TOLERATED),
        gxe.ExpectColumnValuesToBeBetween(
            column="season",
            min_value=0,
            max_value=7,
            mostly=TOLERATED,
        ),
        gxe.ExpectColumnValuesToNotBeNull(column="yr", mostly=TOLERATED),
        gxe.ExpectColumnValuesToBeBetween(
            column="yr",
            min_value=0,
            max_value=2,
            mostly=TOLERATED,
        ),
        gxe.ExpectColumnValuesToNotBeNull(column="mnth", mostly=TOLERATED),
        gxe.ExpectColumnValuesToBeBetween(
            column="mnth",
            min_value=0,
            max_value=23,
            mostly=TOLERATED,
        ),
        gxe.ExpectColumnValuesToNotBeNull(column="hr", mostly=TOLERATED),
        gxe.ExpectColumnValuesToBeBetween(
            column="hr",
            min_value=0,
            max_value=46,
            mostly=TOLERATED,
        ),
        gxe.ExpectColumnValuesToNotBeNull(column="holiday", mostly=TOLERATED),
        gxe.ExpectColumnValuesToBeBetween(
            column="holiday",
            min_value=0,
            max_value=2,
            mostly=TOLERATED,
        ),
        gxe.ExpectColumnValuesToNotBeNull(column="weekday", mostly=TOLERATED),
        gxe.ExpectColumnValuesToBeBetween(
            column="weekday",
            min_value=0,
            max_value=12,
            mostly=TOLERATED,
        ),
        gxe.ExpectColumnValuesToNotBeNull(column="workingday", mostly=TOLERATED),
        gxe.ExpectColumnValuesToBeBetween(
            column="workingday",
            min_value=0,
            max_value=2,
            mostly=TOLERATED,
        ),
        gxe.ExpectColumnValuesToNotBeNull(column="weathersit", mostly=TOLERATED),
        gxe.ExpectColumnValuesToBeBetween(
            column="weathersit",
            min_value=0,
            max_value=7,
            mostly=TOLERATED,
        ),
        gxe.ExpectColumnValuesToNotBeNull(column="temp", mostly=TOLERATED),
        gxe.ExpectColumnValuesToBeBetween(
            column="temp",
            min_value=0,
            max_value=2,
            mostly=TOLERATED,
        ),
        gxe.ExpectColumnValuesToNotBeNull(column="atemp", mostly=TOLERATED),
        gxe.ExpectColumnValuesToBeBetween(
            column="atemp",
            min_value=0,
            max_value=2,
            mostly=TOLERATED,
        ),
        gxe.ExpectColumnValuesToNotBeNull(column="hum", mostly=TOLERATED),
        gxe.ExpectColumnValuesToBeBetween(
            column="hum",
            min_value=0,
            max_value=2,
            mostly=TOLERATED,
        ),
        gxe.ExpectColumnValuesToNotBeNull(column="windspeed", mostly=TOLERATED),
        gxe.ExpectColumnValuesToBeBetween(
            column="windspeed",
            min_value=0,
            max_value=1.8,
            mostly=TOLERATED,
        ),
    ]
    return ExpectationSuite(name="bike", expectations=rules)
