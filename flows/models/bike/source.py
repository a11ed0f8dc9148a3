"""Where bike data comes from: the columns of its table, and how they become event rows."""

import ibis.expr.types as ir

# Simulated, on the schema of the UCI bike-sharing file, which is not shipped.
DATA = "flows.models.bike.simulator:history"
COLUMNS = {
    "dteday": "TIMESTAMP",
    "season": "BIGINT",
    "yr": "BIGINT",
    "mnth": "BIGINT",
    "hr": "BIGINT",
    "holiday": "BIGINT",
    "weekday": "BIGINT",
    "workingday": "BIGINT",
    "weathersit": "BIGINT",
    "temp": "DOUBLE",
    "atemp": "DOUBLE",
    "hum": "DOUBLE",
    "windspeed": "DOUBLE",
    "cnt": "BIGINT",
}
# The table as it comes: these columns, in this order. Those that are ignored may be there, and are dropped.
LAYOUT = (
    "instant",
    "dteday",
    "season",
    "yr",
    "mnth",
    "hr",
    "holiday",
    "weekday",
    "workingday",
    "weathersit",
    "temp",
    "atemp",
    "hum",
    "windspeed",
    "casual",
    "registered",
    "cnt",
)
IGNORED = tuple(name for name in LAYOUT if name not in COLUMNS)


def rows(raw: ir.Table) -> ir.Table:
    """Return the raw rows with the names and types that the model uses, and ``label_time``, from which the delay counts."""
    time = raw["dteday"].cast("timestamp") + raw["hr"].as_interval("h")
    return raw.mutate(
        time=time,
        label_time=time,
    )
