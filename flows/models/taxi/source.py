"""Where taxi trips come from: the TLC green-taxi columns, and how they become event rows."""

import ibis
import ibis.expr.types as ir

COLUMNS = {
    "lpep_pickup_datetime": "TIMESTAMP",
    "lpep_dropoff_datetime": "TIMESTAMP",
    "trip_distance": "DOUBLE",
    "PULocationID": "BIGINT",
    "DOLocationID": "BIGINT",
}
# The public monthly files: these columns, in this order, among others that are not used here.
PUBLIC = (
    "VendorID", "lpep_pickup_datetime", "lpep_dropoff_datetime", "store_and_fwd_flag", "RatecodeID", "PULocationID",
    "DOLocationID", "passenger_count", "trip_distance", "fare_amount", "extra", "mta_tax", "tip_amount", "tolls_amount",
    "ehail_fee", "improvement_surcharge", "total_amount", "payment_type", "trip_type", "congestion_surcharge",
    "cbd_congestion_fee",
)  # fmt: skip
IGNORED = tuple(name for name in PUBLIC if name not in COLUMNS)


def trips(raw: ir.Table) -> ir.Table:
    """Return the raw rows with ``minutes``, the label, and ``label_time``, when the trip ended and it became known.

    Both times of ``raw`` are local and without zone, so the difference is off by an hour for the trips that span a
    change of daylight saving: two nights a year.
    """
    seconds = raw.lpep_dropoff_datetime.epoch_seconds() - raw.lpep_pickup_datetime.epoch_seconds()
    return raw.mutate(minutes=seconds / ibis.literal(60.0), label_time=raw.lpep_dropoff_datetime)
