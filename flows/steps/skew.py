"""Training-serving skew: features that were served, against the same features joined offline as for a training.

A difference is explained, and no skew, where serving gave what could be known when it answered:

- ``late``: the value was computed, or corrected, after the answer; training sees it, serving could not;
- ``past``: the request asked about a moment before the newest value; an online store keeps no older one.

All else is skew, also a value that was there to be served for longer than ``SETTLING`` and was not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.errors import EvergreenError
from flows.settings import Settings
from flows.spec import Frozen, ModelSpec
from flows.steps import storage
from flows.steps.in_memory import connect
from flows.steps.sql import identifier, identifiers

if TYPE_CHECKING:
    from feast import FeatureStore

Value = float | str | None
Kind = Literal["skew", "late", "past"]
Candidates = list[tuple[dict[str, Value], Kind]]
# From the creation of a value, stamped before it is computed, until it is served: the rest of its featurize run.
SETTLING = timedelta(hours=1)
ORIGIN = "origin"  # the number of a sampled row


class Difference(Frozen):
    """A feature of one answered row that is not what training would see; ``view`` is empty if the request made it."""

    feature: str
    view: str
    request_id: str
    row: int
    at: datetime
    event: datetime
    served: Value
    recomputed: Value
    kind: Kind


class FeatureSkew(Frozen):
    """How many values of one feature were compared, and how many differed, by kind."""

    feature: str
    compared: int
    skew: int
    late: int
    past: int


class Skew(Frozen):
    """What the comparison found: rows of the sample, each feature, each difference; ``problem`` if it could not be made."""

    rows: int = 0
    features: tuple[FeatureSkew, ...] = ()
    differences: tuple[Difference, ...] = ()
    problem: str = ""

    @property
    def skewed(self) -> tuple[Difference, ...]:
        """The differences that nothing explains."""
        return tuple(one for one in self.differences if one.kind == "skew")

    @property
    def warning(self) -> str:
        """What is wrong in one sentence; empty if nothing is."""
        if self.problem:
            return f"training-serving skew was not looked at: {self.problem}"
        if not self.skewed:
            return ""
        names = [one.feature for one in self.features if one.skew]
        requests = len({(one.request_id, one.row, one.at) for one in self.skewed})
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return (
            f"training-serving skew: {requests} of {self.rows} sampled rows were served other values than training "
            f"would see, of {', '.join(names[:3])}{more}; see the report, then `evergreen featurize`"
        )


def stale_views(predictions: pa.Table) -> dict[str, float]:
    """Return for each view the share of all answered rows of which it knew nothing: never computed, or past its TTL."""
    found = pc.value_counts(pc.list_flatten(predictions["unknown"])).to_pylist()
    return {one["values"]: one["counts"] / predictions.num_rows for one in sorted(found, key=lambda one: one["values"])}


def sample(spec: ModelSpec, predictions: pa.Table) -> pa.Table:
    """Return at most ``spec.skew_sample`` answered rows, the same of the same log.

    Rows that brought their features themselves, or have no event time, were not served from the store.
    """
    if not any(field.name == spec.source.event_time for field in spec.request):
        return predictions.slice(0, 0)
    rows = predictions.filter(pc.is_valid(predictions[spec.source.event_time]))
    if rows.num_rows <= spec.skew_sample:
        return rows
    chosen = np.random.default_rng(rows.num_rows).choice(rows.num_rows, spec.skew_sample, replace=False)
    return rows.take(pa.array(np.sort(chosen)))


def measure(settings: Settings, spec: ModelSpec, predictions: pa.Table, bundle: Path) -> Skew:
    """Compare a sample of one version's answers, as ``read_predictions`` returns them, by the features of its bundle.

    Monitoring goes on without it: a store that cannot be read is told as ``problem``.
    """
    from flows.steps import feature_store
    from flows.steps.manifest import read_manifest

    rows = sample(spec, predictions)
    if not rows.num_rows:
        return Skew()
    try:
        names = read_manifest(bundle).feature_names
        storage.pull(settings, settings.features(spec.name))
        store = feature_store.open_store(settings)
        fields = [field.name for field in spec.request]
        # What has arrived sooner than the spec promises was served, and is no skew; what came later is explained.
        expected = feature_store.historical(store, spec, rows.select([*fields, "event_timestamp"]))
        missing = [name for name in names if name not in expected.column_names]
        if missing:
            return Skew(problem=f"{spec.feature_service} no longer has {', '.join(missing)}")
        return compare(settings, spec, store, rows, expected, names)
    except EvergreenError as error:
        return Skew(problem=str(error))
    except Exception as error:  # noqa: BLE001 (whatever a store raises must not keep the other findings back)
        text = str(error).splitlines()[0][:200] if str(error) else "no message"
        return Skew(problem=f"features of {spec.name} cannot be joined ({type(error).__name__}: {text})")


def compare(
    settings: Settings, spec: ModelSpec, store: FeatureStore, rows: pa.Table, expected: pa.Table, names: Sequence[str]
) -> Skew:
    """Compare served rows with the same rows joined offline, value by value, exactly; missing equals missing."""
    from flows.steps.feature_record import view_records

    served, known = _values(rows, names), _values(expected, names)
    differing: dict[int, list[str]] = {}
    for name in names:
        for place, (one, other) in enumerate(zip(served[name], known[name], strict=True)):
            if one != other:
                differing.setdefault(place, []).append(name)
    views = [view for view in view_records(store, spec) if view.name in spec.entities]  # computed ones are not stored
    of = {field: view.name for view in views for field in view.fields}
    found: dict[tuple[int, str], Kind] = {}
    for view in views:
        places = [place for place, which in differing.items() if any(of.get(name) == view.name for name in which)]
        used = [name for name in view.fields if name in names]
        for place, candidates in _servable(settings, spec, view.name, used, view.ttl, rows, places).items():
            answer = {name: served[name][place] for name in used}
            kind: Kind = next((why for values, why in candidates if values == answer), "skew")
            found |= {(place, name): kind for name in differing[place] if of.get(name) == view.name}
    picked = rows.select(["request_id", "row", "at", "event_timestamp"]).take(pa.array(sorted(differing), pa.int64()))
    differences = [
        Difference(
            feature=name, view=of.get(name, ""), request_id=row["request_id"], row=row["row"], at=row["at"],
            event=row["event_timestamp"], served=served[name][place], recomputed=known[name][place],
            kind=found.get((place, name), "skew"),
        )
        for place, row in zip(sorted(differing), picked.to_pylist(), strict=True)
        for name in differing[place]
    ]  # fmt: skip
    counts = Counter((one.feature, one.kind) for one in differences)
    features = [
        FeatureSkew(
            feature=name, compared=rows.num_rows, skew=counts[name, "skew"], late=counts[name, "late"],
            past=counts[name, "past"],
        )
        for name in names
    ]  # fmt: skip
    return Skew(rows=rows.num_rows, features=tuple(features), differences=tuple(differences))


def _servable(
    settings: Settings,
    spec: ModelSpec,
    view: str,
    fields: Sequence[str],
    ttl: timedelta | None,
    rows: pa.Table,
    places: Sequence[int],
) -> dict[int, Candidates]:
    """Return what an online store could have held of a view for some rows when they were answered.

    That is the newest value of the key created ``SETTLING`` before the answer, and each newer one created since. A
    value from after the request's moment, or older than its TTL, is served as missing.
    """
    result: dict[int, Candidates] = {place: [] for place in places}
    files = [str(path) for path in sorted(settings.features(spec.name).joinpath(view).glob("*.parquet"))]
    if not places or not files:
        return result
    keys = spec.entities[view]
    asked = rows.take(pa.array(places, pa.int64())).select(list(dict.fromkeys([*keys, "at", "event_timestamp"])))
    asked = asked.append_column(ORIGIN, pa.array(places, pa.int64()))
    on = " AND ".join([*(f"a.{identifier(key)} = v.{identifier(key)}" for key in keys), "v.created_timestamp <= a.at"])
    with connect() as connection:
        connection.register("asked", asked)
        table = connection.execute(
            f"""
            SELECT a.{ORIGIN}, v.event_timestamp > a.event_timestamp AS past,
                   v.created_timestamp <= a.at - $settling AS settled,
                   v.event_timestamp <= a.event_timestamp
                   AND ($ttl IS NULL OR a.event_timestamp - v.event_timestamp <= $ttl) AS valid,
                   {identifiers(fields)}
            FROM asked a JOIN read_parquet($files, union_by_name = true) v ON {on}
            ORDER BY a.{ORIGIN}, v.event_timestamp DESC, v.created_timestamp DESC
            """,
            {"files": files, "settling": SETTLING, "ttl": ttl},
        ).to_arrow_table()
    settled: set[int] = set()
    nothing: dict[str, Value] = dict.fromkeys(fields)
    values = _values(table, fields)
    for number, one in enumerate(table.select([ORIGIN, "past", "settled", "valid"]).to_pylist()):
        place = one[ORIGIN]
        if place in settled:
            continue
        given = {name: values[name][number] for name in fields} if one["valid"] else nothing
        result[place].append((given, "past" if one["past"] else "late"))
        if one["settled"]:
            settled.add(place)
    for place in places:
        if place not in settled:  # nothing need have been there yet
            result[place].append((nothing, "late"))
    return result


def _values(rows: pa.Table, names: Sequence[str]) -> dict[str, list[Value]]:
    """Return columns as lists of floats, texts and None, which is what NaN is too."""
    return {name: [_value(value) for value in rows[name].to_pylist()] for name in names}


def _value(value: Any) -> Value:
    if value is None or value != value:
        return None
    return value if isinstance(value, str) else float(value)
