"""What a change of feature definitions is called, and that a feature defined twice is seen."""

from types import SimpleNamespace

import pytest

from flows.models.taxi import features
from flows.models.taxi.spec import spec
from flows.steps.feature_plan import compare, digests, recomputed, repeated
from flows.steps.windows import rolling


def view(fields, keys=("zone",), ttl="7 days", computed="nothing"):
    return {"fields": dict(fields), "keys": list(keys), "ttl": ttl, "computed by": computed}


OLD = {"zone": view({"trips": "Int64", "minutes": "Float64"})}


@pytest.mark.parametrize(
    ("new", "kind", "destructive"),
    [
        ({**OLD, "route": view({"miles": "Float64"})}, "add", False),
        ({"zone": view({"trips": "Int64", "minutes": "Float64", "miles": "Float64"})}, "add", False),
        ({"zone": view({"trips": "Int64"})}, "remove", True),
        ({}, "remove", True),
        ({"zone": view({"trips": "Float64", "minutes": "Float64"})}, "change", True),
        ({"zone": view({"trips": "Int64", "minutes": "Float64"}, keys=("route",))}, "change", True),
        ({"zone": view({"trips": "Int64", "minutes": "Float64"}, ttl="1 day")}, "change", False),
        ({"zone": view({"trips": "Int64", "minutes": "Float64"}, computed="other code")}, "change", False),
    ],
)
def test_what_takes_away_or_changes_the_meaning_is_destructive(new, kind, destructive):
    (change,) = compare(OLD, new)
    assert (change.kind, change.destructive) == (kind, destructive)


def test_the_same_definitions_are_no_change():
    assert compare(OLD, OLD) == []


def test_no_feature_of_the_taxi_model_repeats_another():
    assert repeated(spec) == []


def test_a_feature_that_repeats_another_under_another_name_is_seen(monkeypatch):
    from ibis import _

    def twice(rows, ticks):
        return rolling(
            rows, ticks, ("PULocationID",), features.MONTH,
            trips=_.count(), middle=_.minutes.median(), late=_.minutes.quantile(0.9), typical=_.minutes.median(),
        )  # fmt: skip

    monkeypatch.setitem(features.TABLES, "pickup_zone", twice)
    assert repeated(spec) == [("pickup_zone:middle", "pickup_zone:typical")]


def test_all_ticks_are_computed_for_a_view_that_is_new_or_another():
    now = digests(spec)

    def found(*expressions):
        runs = [SimpleNamespace(summary={} if one is None else {"expressions": one}) for one in expressions]
        return [(one.kind, one.what) for one in recomputed(spec, runs)]

    assert found(now) == []
    assert found(now | {"gone": "a"}) == []
    assert found(now | {"route": "another"}) == [("change", "expressions of view route")]
    assert found({view: digest for view, digest in now.items() if view != "route"}) == [
        ("add", "expressions of view route")
    ]
    assert found(None) == []  # of a featurization from before they were noted
    assert found() == []
    # Of one that broke off before this one, and may have written values.
    assert found(None, now | {"route": "another"}, now) == [("change", "expressions of view route")]
