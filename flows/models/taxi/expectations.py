"""What taxi data must look like: a Great Expectations suite as code.

Rules with ``mostly`` below 1 are row rules: up to that share of rows may break them, and those alone are quarantined.
All others are hard: one break and the partition is quarantined whole. The contract (columns, types, no empty or
infinite columns, a key that names one row, row count against the partitions before) is checked by Evergreen for every
model and is not repeated here.
"""

from great_expectations import ExpectationSuite
from great_expectations import expectations as gxe

TOLERATED = 0.95


def suite() -> ExpectationSuite:
    """Return the suite that every partition of trips is judged by."""
    rules: list[gxe.Expectation] = [
        gxe.ExpectColumnValuesToNotBeNull(column="lpep_pickup_datetime"),
        gxe.ExpectColumnValuesToNotBeNull(column="PULocationID"),
        gxe.ExpectColumnValuesToNotBeNull(column="DOLocationID"),
        gxe.ExpectColumnValuesToNotBeNull(column="lpep_dropoff_datetime", mostly=TOLERATED),
        gxe.ExpectColumnValuesToNotBeNull(column="trip_distance", mostly=TOLERATED),
        gxe.ExpectColumnValuesToBeBetween(column="PULocationID", min_value=1, max_value=265, mostly=TOLERATED),
        gxe.ExpectColumnValuesToBeBetween(column="DOLocationID", min_value=1, max_value=265, mostly=TOLERATED),
        gxe.ExpectColumnValuesToBeBetween(column="trip_distance", min_value=0, max_value=100, mostly=TOLERATED),
        # A meter left running is no trip: the public files hold durations from 0 seconds to 24 hours.
        gxe.ExpectColumnValuesToBeBetween(
            column="minutes", min_value=0, strict_min=True, max_value=180, mostly=TOLERATED
        ),
        gxe.ExpectColumnMedianToBeBetween(column="minutes", min_value=3, max_value=45),
        gxe.ExpectColumnMedianToBeBetween(column="trip_distance", min_value=0.3, max_value=15),
        gxe.ExpectColumnUniqueValueCountToBeBetween(column="PULocationID", min_value=5),
    ]
    return ExpectationSuite(name="taxi", expectations=rules)
